"""Several servers behind the real HAProxy, each started by systemd's first connection, with our configuration."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from zosia.base.patience import patience
from zosia.base.process import find

CLIENTS, EACH, BEFORE = 8, 25, 60
ROOM = 4  # requests that HAProxy has a server answer at a time
WAITING = 2  # and that it has wait for this one
LONGEST = 120.0  # seconds; it takes three
CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Heard:
    """An answer as its client has it: by which server, and whole or not."""

    text: str
    by: str
    whole: bool


@dataclass(eq=False)
class Site:
    """Two servers a and b, and HAProxy in front of them."""

    folder: Path
    root: Path
    stack: ExitStack
    ports: dict[str, int] = field(default_factory=dict)
    servers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Have systemd listen for a server, which starts with the first connection."""
        path = os.pathsep.join([str(self.root), str(self.root / "site_scons")])
        socket_activate = [find("systemd-socket-activate"), "-l", f"127.0.0.1:{self.ports[name]}", "-E"]
        argv = [*socket_activate, f"PYTHONPATH={path}", sys.executable, "-m", "tests.gated", name, str(self.folder)]
        self.servers[name] = self._process(argv, name)

    def proxy(self) -> None:
        """Start HAProxy with the configuration of ours, on ports that are free."""
        text = (self.root / "contrib" / "haproxy.cfg").read_text(encoding="utf-8")
        for name, port in {"people": 8080, "a": 8081, "b": 8082}.items():
            start = "bind" if name == "people" else f"server {name}"
            assert text.count(f"    {start} 127.0.0.1:{port}\n") == 1
            text = text.replace(f"    {start} 127.0.0.1:{port}\n", f"    {start} 127.0.0.1:{self.ports[name]}\n")
        file = self.folder / "haproxy.cfg"
        file.write_text(text, encoding="utf-8")
        self._process([find("haproxy"), "-db", "-f", str(file)], "haproxy")

    def _process(self, argv: list[str], name: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.err").open("ab") as errors:
            process = subprocess.Popen(argv, stderr=errors, stdout=errors)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process

    def ask(self, text: str, *, session: str = "", stream: bool = False) -> Heard:
        """Ask a question through HAProxy.

        Raises:
            AssertionError: there is no answer, or not the beginning of one.
        """
        client = http.client.HTTPConnection("127.0.0.1", self.ports["people"], timeout=60 * patience())
        headers = {"Content-Type": "application/json"} | ({"X-Session-Id": session} if session else {})
        # As large as a long chat.
        messages = [{"role": "user", "content": "x" * 200_000}, {"role": "user", "content": text}]
        got, begun, whole = b"", False, False
        try:
            client.request("POST", CHAT, json.dumps({"messages": messages, "stream": stream}), headers)
            answer = client.getresponse()
            begun = True
            assert answer.status == 200, (answer.status, answer.read())
            if not stream:
                got = answer.read()
            while stream and (part := answer.read1()):
                got += part
            whole = not stream or b"[DONE]" in got
        except (http.client.IncompleteRead, ConnectionError):
            assert begun, "an answer that had not begun was lost"
        finally:
            client.close()
        events = [part[6:] for part in got.split(b"\n\n")[:-1] if part.startswith(b"data: {")]
        seen = [json.loads(text) for text in (events if stream else [got] * whole)]
        assert {event["text"] for event in seen} <= {text} and len(seen) <= (4 if stream else 1)
        return Heard(text, seen[0]["by"] if seen else "", whole)

    def came(self, name: str) -> list[tuple[str, int]]:
        """The requests that came to a server, and how many it had then."""
        file = self.folder / name
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [(text, int(running)) for text, running in (line.rsplit(" ", 1) for line in lines)]

    def wait(self, true: Callable[[], object]) -> None:
        limit = time.monotonic() + LONGEST * patience()
        while not true():
            assert time.monotonic() < limit, [path.read_text() for path in self.folder.glob("*.err")]
            time.sleep(0.02)

    def reaches(self, name: str) -> None:
        """Wait until HAProxy has requests answered by a server."""
        self.wait(lambda: self.ask("again").by == name)

    def healthy(self) -> bool:
        """Return whether HAProxy reaches a server."""
        try:
            client = http.client.HTTPConnection("127.0.0.1", self.ports["people"], timeout=10 * patience())
            client.request("GET", "/health")
            return client.getresponse().status == 200
        except OSError:
            return False
        finally:
            client.close()


@pytest.fixture
def site(root: Path, tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        made = Site(tmp_path, root, stack)
        with ExitStack() as taken:
            for name in ("people", "a", "b"):
                free = taken.enter_context(socket.create_server(("127.0.0.1", 0)))
                made.ports[name] = free.getsockname()[1]
        yield made


def test_the_configuration_has_no_faults(root: Path) -> None:
    argv = [find("haproxy"), "-c", "-dW", "-f", str(root / "contrib" / "haproxy.cfg")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "warning" not in done.stderr.lower(), done.stderr


def test_one_of_two_servers_is_killed(site: Site) -> None:
    for name in ("a", "b"):
        site.start(name)
    site.proxy()
    site.wait(site.healthy)
    site.reaches("a")
    site.reaches("b")
    heard: list[Heard] = []
    early: list[Heard] = []
    middle = threading.Event()

    def client(number: int) -> None:
        for count in range(EACH):
            heard.append(site.ask(f"{number}-{count}", session=f"s{number}", stream=number % 2 == 0))
            if len(heard) >= BEFORE and not middle.is_set():
                early[:] = heard[:BEFORE]
                middle.set()

    def kill() -> None:
        middle.wait()
        site.servers["a"].kill()

    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        killing = pool.submit(kill)
        asking = [pool.submit(client, number) for number in range(CLIENTS)]
        wait(asking, return_when=FIRST_EXCEPTION)
        middle.set()
    for task in [*asking, killing]:
        task.result()
    check(site, heard, early)
    site.start("a")
    site.reaches("a")


def test_the_rest_waits_in_a_queue_and_who_hangs_up_waits_no_more(site: Site) -> None:
    for name in ("a", "b"):
        site.start(name)
    site.proxy()
    site.wait(site.healthy)
    site.reaches("a")
    site.reaches("b")

    def came() -> list[str]:
        return [text for name in ("a", "b") for text, _ in site.came(name) if text != "again"]

    with ThreadPoolExecutor(2 * ROOM + 8) as pool:
        asking = [pool.submit(site.ask, f"wait {number}") for number in range(2 * ROOM)]
        site.wait(lambda: len(came()) == 2 * ROOM)
        leaving = http.client.HTTPConnection("127.0.0.1", site.ports["people"])
        messages = [{"role": "user", "content": text} for text in ("x" * 200_000, "left")]
        body = json.dumps({"messages": messages})
        leaving.request("POST", CHAT, body, {"Content-Type": "application/json"})
        later = [pool.submit(site.ask, f"later {number}") for number in range(8)]
        time.sleep(1)
        assert len(came()) == 2 * ROOM, "both servers have as many as they answer at a time"
        leaving.close()
        time.sleep(1)
        (site.folder / "a.go").touch()
        site.wait(lambda: sum(task.done() for task in later) == len(later) - WAITING)
        assert {task.result().by for task in later if task.done()} == {"a"}, "they are for whichever is free first"
        (site.folder / "b.go").touch()
        answers = [task.result() for task in [*asking, *later]]
    assert all(each.whole for each in answers)
    assert sorted(came()) == sorted(each.text for each in answers), "each once, and not of the one that has left"
    assert max(running for name in ("a", "b") for _, running in site.came(name)) == ROOM


def check(site: Site, heard: list[Heard], early: list[Heard]) -> None:
    """Check that nothing was lost, and nothing answered twice."""
    assert sorted(each.text for each in heard) == sorted(f"{n}-{m}" for n in range(CLIENTS) for m in range(EACH))
    cut = [each for each in heard if not each.whole]
    assert len(cut) <= ROOM, "as many as the killed one was answering"
    homes = {(each.text[0], each.by) for each in early}
    assert len(homes) == CLIENTS and {by for _, by in homes} == {"a", "b"}, "each client stays with a server"
    a, b = ([each for each in site.came(name) if each[0] != "again"] for name in ("a", "b"))
    assert max(running for _, running in a + b) <= ROOM
    twice = {text for text, count in Counter(text for text, _ in a + b).items() if count > 1}
    assert twice <= {text for text, _ in a[-2 * ROOM :]} and len(twice) <= ROOM, "only what the killed one had"
    assert not twice & {each.text for each in cut}, "what had begun is not asked for again"
    assert {each.by for each in heard if each.text in twice} <= {"b"}
