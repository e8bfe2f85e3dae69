"""The API of a machine, measured as its clients see it, beside llama-server on this host."""

from __future__ import annotations

import http.client
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil

from zosia.base.files import cache_root
from zosia.base.patience import patience
from zosia.inputs import catalogue, model_files
from zosia.machine.qemu import Machine
from zosia.serve import main
from zosia.serve.service import Service
from zosia.settings import machines
from zosia.settings.settings import Settings
from zosia_build import llama
from zosia_build.benchmarks.measured import Section, Way, compare
from zosia_build.benchmarks.ways import FOLDER, LONGEST, QUESTION, ROOT

TOKENS = 48
PROBES = 200  # requests for a path
FIRST = "first token after its prompt_ms, ms"
IDLE = 60  # connections, beside which there is room for some more
Reach = Callable[[], socket.socket]


class Server:
    """A server that was started just now."""

    def __init__(self, argv: list[str], reach: Reach) -> None:
        self.reach = reach
        self._began = time.monotonic()
        self._log = (FOLDER / "serve.log").open("wb")
        paths = f"{ROOT / 'site_scons'}"
        self.process = subprocess.Popen(argv, stderr=self._log, env={**os.environ, "PYTHONPATH": paths})

    def healthy(self) -> float:
        """Wait until it is ready, and return the seconds since its start."""
        while time.monotonic() < self._began + LONGEST * patience():
            try:
                if self.get("/health").status == 200:
                    return time.monotonic() - self._began
            except OSError:
                time.sleep(0.005)
        raise TimeoutError("the server was not ready in time")

    def get(self, path: str) -> http.client.HTTPResponse:
        """Return the response to a request on a connection of its own, read to its end."""
        return self._request("GET", path, b"")[0]

    def answer(self, question: str, tokens: int, **options: object) -> str:
        """Return the answer to a question, whole, at temperature 0; `options` are llama-server's.

        Raises:
            OSError: it can't be reached, or hangs up.
            ValueError: there is none.
        """
        asked = {"messages": [{"role": "user", "content": question}], "max_tokens": tokens, "temperature": 0}
        body = json.dumps({**asked, "ignore_eos": True, **options}).encode()
        response, got = self._request("POST", "/v1/chat/completions", body)
        if response.status != 200:
            raise ValueError(f"status {response.status}: {got!r}")
        return str(json.loads(got)["choices"][0]["message"]["content"])

    def _request(self, method: str, path: str, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        with self.reach() as end:
            length = f"Content-Length: {len(body)}\r\n" if body else ""
            end.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n".encode() + body)
            response = http.client.HTTPResponse(end, method=method)
            response.begin()
            return response, response.read()

    def ask(self, tokens: int = TOKENS) -> dict[str, float]:
        """Return the speed of a streamed answer, as the client sees it and by llama-server's own timings."""
        asked = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": tokens, "temperature": 0}
        body = json.dumps({**asked, "stream": True, "ignore_eos": True, "cache_prompt": False}).encode()
        timings: dict[str, float] = {}
        began, times = time.monotonic(), []
        with self.reach() as end:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            end.sendall(head.encode() + body)
            response = http.client.HTTPResponse(end, method="POST")
            response.begin()
            for line in response:
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    timings = event.get("timings", timings)
                    if event["choices"] and event["choices"][0]["delta"].get("content"):
                        times.append(time.monotonic())
        own = (len(times) - 1) / (times[-1] - times[0])  # tokens/s
        return {
            FIRST: 1000 * (times[0] - began) - timings["prompt_ms"],
            "tokens/s": own,
            "of llama-server's own tokens/s": own / timings["predicted_per_second"],
        }

    def latency(self) -> dict[str, float]:
        """Return the times that /health takes, which the gate answers, and /v1/models, which llama-server does."""
        values = {}
        for path in ("/health", "/v1/models"):
            seen = []
            for _ in range(PROBES):
                began = time.monotonic()
                self.get(path)
                seen.append(1000 * (time.monotonic() - began))
            values[f"{path}, median, ms"] = statistics.median(seen)
            values[f"{path}, p99, ms"] = statistics.quantiles(seen, n=100)[-1]
        return values

    def memory(self) -> float:
        """Return the MB that the process itself takes."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def end(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self._log.close()


@contextmanager
def served(machine: Machine, *, guests: int = 1) -> Iterator[Server]:
    """Start the server of so many machines, as `scons serve` does at its end."""
    with tempfile.TemporaryDirectory() as folder:
        path, file = Path(folder) / "s", Path(folder) / "serve.json"
        service = Service(model="smollm2-135m", port=0, socket=path, guests=guests)
        file.write_text(main.to_json(machine, service), encoding="utf-8")
        server = Server([sys.executable, "-m", "zosia.serve.main", str(file)], partial(_unix, path))
        try:
            yield server
        finally:
            server.end()


@contextmanager
def native(machine: Machine, *, emulated: bool = False) -> Iterator[Server]:
    """Start llama-server without a machine, with the same model and arguments: this host's, or the guest's emulated."""
    if emulated:
        arch, level = machine.arch, llama.LEVELS[machine.arch][0]
    else:
        arch, features = platform.machine(), Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
        level = next(level for level in llama.LEVELS[arch] if set(level.features) <= set(features))
    program = (ROOT / f"build/{arch}/llama-cli-{level.name}").resolve()
    with tempfile.TemporaryDirectory() as folder:
        link, path = Path(folder) / "llama-server", Path(folder) / "l.sock"
        link.symlink_to(program)
        model = model_files.model_file(catalogue.read_models(ROOT / "models.toml")["smollm2-135m"], cache_root())
        words = [f"qemu-{arch}", "-cpu", "max", "-0", "llama-server"] if emulated else []
        argv = [*words, str(link), "-m", str(model), "--host", str(path), *machine.task.llama_args, "--no-ui"]
        server = Server(argv, partial(_unix, path))
        try:
            yield server
        finally:
            server.end()


def _unix(path: Path) -> socket.socket:
    end = socket.socket(socket.AF_UNIX)
    end.settimeout(LONGEST * patience())
    try:
        end.connect(str(path))
    except OSError:
        end.close()
        raise
    return end


def serving(settings: Settings, rounds: int) -> Section:
    """Measure the server from its start to an answer: booted, resumed, and without a machine."""
    machine = machines.serve_machine(settings)
    cold = replace(machine, hot=None)
    with served(machine) as server:  # saves the machine, unless it was saved before
        server.healthy()

    def one(start: Callable[[], AbstractContextManager[Server]]) -> dict[str, float]:
        with start() as server:
            values = {"to the first /health, s": server.healthy()}
            values |= server.ask()
            values["that of a second question, ms"] = server.ask(2)[FIRST]
            return {**values, "server's process, MB": server.memory()}

    starts = {
        "booted": partial(served, cold),
        "resumed": partial(served, machine),
        "qemu-user, the same llama-server": partial(native, machine, emulated=True),
        "llama-server on this host": partial(native, machine),
    }
    return Section(
        what=f"SmolLM2-135M: from the start of the server's program to the first /health that says ok, then one answer "
        f"of {TOKENS} tokens, streamed, and the first token of another. An emulated guest computes slower than this "
        "host: the times to the first token, and the rate beside llama-server's own, are what the way to it adds.",
        ways=compare({name: partial(one, start) for name, start in starts.items()}, rounds),
    )


def latency(settings: Settings, rounds: int) -> Section:
    """Measure short requests: alone, beside idle connections, and beside a client that reads nothing."""
    machine = machines.serve_machine(settings)
    with ExitStack() as stack:
        server, direct = stack.enter_context(served(machine)), stack.enter_context(native(machine))
        server.healthy()
        direct.healthy()

        def idle() -> dict[str, float]:
            with ExitStack() as ends:
                for _ in range(IDLE):
                    ends.enter_context(server.reach())
                return server.latency()

        def deaf() -> dict[str, float]:
            body = json.dumps({"content": "a " * 400_000}).encode()
            with server.reach() as end:
                head = f"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
                end.sendall(head.encode() + body)
                time.sleep(10 * patience())  # llama-server has answered, with more than the windows hold
                return server.latency()

        ways: dict[str, Way] = {
            "alone": server.latency,
            f"beside {IDLE} idle connections": idle,
            "beside a client that reads nothing": deaf,
            "llama-server on this host": direct.latency,
        }
        seen = compare(ways, rounds)
    return Section(
        what=f"{PROBES} times GET /health, which the gate answers by itself, and GET /v1/models, which llama-server "
        "answers, each on a new connection.",
        ways=seen,
    )
