"""The benchmark of many clients, without a machine."""

from __future__ import annotations

import http.client
from typing import Any

import pytest

from zosia.base.errors import ZosiaError
from zosia_build.benchmarks import crowd


class Server:
    """A server whose answers are these, in turn; an exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked = list(answers), 0

    def answer(self, question: str, tokens: int) -> str:
        found = self.answers[self.asked % len(self.answers)]
        self.asked += 1
        if isinstance(found, Exception):
            raise found
        return str(found)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "SECONDS", 0.05)
    monkeypatch.setattr(crowd, "MANY", 1)
    monkeypatch.setattr(crowd, "QUESTIONS", ("Who?",))


def test_what_clients_see() -> None:
    server: Any = Server("a", "b", OSError("gone"), http.client.BadStatusLine("x"))
    seen = crowd._together(server)
    assert seen["answered"] + seen["not answered"] == server.asked
    assert seen["not answered"] >= 2
    assert seen["different answers to a question"] == 2


def test_no_answer_at_all() -> None:
    server: Any = Server(ValueError("status 503"))
    with pytest.raises(ZosiaError, match="requests was answered: status 503"):
        crowd._together(server)
