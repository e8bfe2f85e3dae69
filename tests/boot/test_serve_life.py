"""The life of a server: its machine is off, killed, or can't start, and the end."""

from __future__ import annotations

import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from tests import parrot
from zosia.base.patience import patience
from zosia.machine.qemu import Machine
from zosia.machine.status import Status
from zosia.serve import main
from zosia.serve.http.upstream import ENDED
from zosia.serve.service import Service

from .conftest import environment
from .server import QUESTION, STORY, Answer, Server, Start, folder, serve, served, server, service, start

__all__ = ["folder", "served", "server", "start"]


def test_ready_loading_off(start: Start, served: Machine) -> None:
    cold = start(replace(served, hot=None))
    early = cold.ask("/health")
    assert (early.status, early.json["status"]) == (503, "loading")
    answer = cold.ask("/v1/chat/completions", {"messages": QUESTION, "temperature": 0})  # waits
    assert answer.json["choices"][0]["message"]["content"] == parrot.ANSWER
    assert cold.ask("/health").json["status"] == "ok"


def test_idle_is_off_and_the_next_request_resumes(start: Start, server: Server) -> None:
    own = start(idle=0.5).ready()
    own.says("off after 0.5 s")
    assert not own.machines()
    assert own.ask("/health").json == {"status": "ok", "machine": "off"}
    answer = own.ask("/v1/chat/completions", {"messages": QUESTION, "temperature": 0})
    assert answer.json["choices"][0]["message"]["content"] == parrot.ANSWER


def test_the_saved_machine_is_resumed(start: Start, server: Server, served: Machine) -> None:
    assert served.hot
    states = {path: path.stat().st_mtime_ns for path in served.hot.glob("*.state")}
    assert len(states) == 1
    own = start().ready()
    assert own.end() == 0
    assert set(served.hot.glob("*.state")) == set(states)
    assert not list(served.hot.glob("*.cold"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_the_end_waits_for_answers(start: Start, server: Server, number: int, status: int) -> None:
    own = start().ready()
    got: list[str] = []

    def ask() -> None:
        body = {"messages": STORY, "max_tokens": 40, "temperature": 0}
        got.append(own.ask("/v1/chat/completions", body).json["choices"][0]["message"]["content"])

    asking = threading.Thread(target=ask)
    asking.start()
    while "zosia_active 1" not in own.ask("/metrics").body.decode():
        time.sleep(0.02)
    assert own.end(number) == status
    asking.join()
    assert got[0].startswith(parrot.STORY)


def test_a_second_signal_cuts_answers(start: Start, server: Server) -> None:
    own = start().ready()
    with openai.OpenAI(base_url=f"{own.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(model="any", messages=STORY, stream=True)
        next(iter(stream))
        own.process.send_signal(signal.SIGINT)
        own.says("running requests have 10 s to finish")
        own.process.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIError, match="the server is stopping"):
            for _ in stream:
                pass
    assert own.process.wait(60 * patience()) == 0


def test_a_machine_that_is_killed_is_resumed(start: Start, server: Server) -> None:
    own = start().ready()
    with openai.OpenAI(base_url=f"{own.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(model="any", messages=STORY, stream=True)
        next(iter(stream))
        (qemu,) = own.machines()
        qemu.kill()
        with pytest.raises(openai.APIError):
            for _ in stream:
                pass
        own.says("QEMU was killed by signal 9.*The next request resumes it")
        answer = client.chat.completions.create(model="any", messages=QUESTION, temperature=0)
        assert answer.choices[0].message.content == parrot.ANSWER


def test_three_crashes_in_a_minute_are_the_end(start: Start, server: Server) -> None:
    own = start().ready()
    for count in (1, 2, 3):
        (qemu,) = own.machines()
        qemu.kill()
        if count < 3:
            own.says(f"(?s)(The next request resumes it.*){{{count}}}")
            assert own.ask("/v1/models").status == 200
    assert own.process.wait(60 * patience()) == Status.QEMU_KILLED
    assert own.said.splitlines()[-1].startswith("zosia: error: QEMU was killed by signal 9")


# A gate that lets through what ends llama-server: parentheses so deep that its parser has no stack left. On a busy
# computer three times take longer than a minute.
LAX = """
import sys
from zosia.serve import guest, main
from zosia.serve.http import bodies
bodies.fault = lambda body: ""
guest.WITHIN = 3600.0
sys.exit(main.main(sys.argv[1:]))
"""
DEEP = {"messages": QUESTION, "grammar": f"root ::= {'(' * 50_000}"}


def test_a_server_that_crashes(server: Server, served: Machine, root: Path, tmp_path: Path) -> None:
    file = tmp_path / "serve.json"
    file.write_text(main.to_json(served, service(parallel=2)), encoding="utf-8")
    with Server([sys.executable, "-c", LAX, str(file)], tmp_path / "err", cwd=root, env=environment(root)) as own:
        own.ready()
        for count in (1, 2, 3):
            beside: list[Answer] = []
            other = threading.Thread(
                target=lambda: beside.append(own.ask("/v1/chat/completions", {"messages": STORY}))  # noqa: B023
            )
            other.start()
            until = time.monotonic() + 60 * patience()
            while "zosia_active 1" not in own.ask("/metrics").body.decode():
                assert time.monotonic() < until and other.is_alive(), beside
                time.sleep(0.02)
            answer = own.ask("/v1/chat/completions", DEEP)
            other.join()
            for each in (answer, *beside):
                assert each.status == 502 and each.json["error"]["message"] == ENDED, each
            if count < 3:
                own.says(f"(?s)(the machine ended: llama-server was ended .*The next request resumes it.*){{{count}}}")
                answer = own.ask("/v1/chat/completions", {"messages": QUESTION, "temperature": 0})
                assert answer.json["choices"][0]["message"]["content"] == parrot.ANSWER
        assert own.process.wait(60 * patience()) == 128 + signal.SIGSEGV
    assert own.said.splitlines()[-1].startswith("zosia: error: llama-server was ended by signal 11 (SEGV)")


def test_a_machine_that_can_not_start(start: Start, served: Machine) -> None:
    own = start(replace(served, hot=None).given(need=9999, enough=10000))
    assert own.process.wait(60 * patience()) == Status.NO_MEMORY
    error = own.said.splitlines()[-1]
    assert error.startswith("zosia: error: the model and its context take 9999 MiB") and "MEM=10000M" in error


def test_a_killed_server_takes_its_machine_along(start: Start, server: Server) -> None:
    own = start().ready()
    (qemu,) = own.machines()
    own.process.kill()
    assert qemu.wait(30 * patience()) is not None or not qemu.is_running()


def test_a_second_server_on_the_port(start: Start, server: Server, root: Path, tmp_path: Path, served: Machine) -> None:
    port = int(server.url.rpartition(":")[2])
    folder = tmp_path / "second"
    folder.mkdir()
    with serve(root, folder, served, Service(model="parrot", port=port)) as second:
        assert second.process.wait(60 * patience()) == Status.REFUSED
        (line,) = second.said.splitlines()
        assert line.startswith("zosia: error: ") and str(port) in line and "PORT=" in line


def test_another_program_is_about_to_change_the_disk(start: Start, served: Machine, tmp_path: Path) -> None:
    assert served.disk
    disk = shutil.copy(served.disk, tmp_path / "own.img")
    own = start(replace(served, disk=Path(disk), hot=None)).ready()
    Path(disk).open("ab").close()
    assert own.process.wait(60 * patience()) == Status.DISTURBED
