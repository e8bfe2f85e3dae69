"""The API of a machine without a network, as its clients see it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest

from tests import parrot
from zosia.base.patience import patience
from zosia.machine.qemu import Machine
from zosia.settings.settings import Settings

from .conftest import environment
from .server import QUESTION, STORY, Server, Start, folder, served, server, start

__all__ = ["folder", "served", "server", "start"]


# What of a template tells llama-server how a model calls tools; the parrot's own knows none.
TOOLS = """{% if tools %}<|im_start|>system
Call: <tool_call>
{"name": "...", "arguments": ...}
</tool_call>{% for tool in tools %} {{ tool | tojson }}{% endfor %}<|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or '' }}{% for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


# ---- The openai package


def test_a_whole_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="any", messages=QUESTION, temperature=0)
    assert answer.choices[0].message.content == parrot.ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage and answer.usage.completion_tokens > 5


def test_a_streamed_answer(client: openai.OpenAI) -> None:
    parts = client.chat.completions.create(model="any", messages=QUESTION, temperature=0, stream=True)
    pieces = [part.choices[0].delta.content or "" for part in parts if part.choices]
    assert "".join(pieces) == parrot.ANSWER
    assert len([piece for piece in pieces if piece]) > 5  # and not in one piece at the end


def test_models(client: openai.OpenAI, settings: Settings) -> None:
    (model,) = client.models.list().data
    assert model.id == settings.model.title  # and not the path in the guest


def test_a_schema(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(model="any", messages=QUESTION, response_format=form, max_tokens=50)
    assert isinstance(json.loads(answer.choices[0].message.content or "")["ok"], bool)


def test_a_tool_is_called_and_its_result_answered(start: Start, server: Server, served: Machine) -> None:
    """The parrot begins a call, the grammar makes the rest; and it hears of a cat, which only the result names."""
    own = start(served.given(llama_args=(*served.task.llama_args, "--chat-template", TOOLS))).ready()
    where = {"type": "object", "properties": {"room": {"enum": ["the hall"]}}, "required": ["room"]}
    tools: Any = [{"type": "function", "function": {"name": "look", "parameters": where}}]
    with openai.OpenAI(base_url=f"{own.url}/v1", api_key="none", max_retries=0) as client:
        ask: Any = partial(client.chat.completions.create, model="any", tools=tools, temperature=0, max_tokens=200)
        (choice,) = ask(messages=QUESTION, tool_choice="required").choices
        assert choice.finish_reason == "tool_calls" and choice.message.tool_calls
        (call,) = choice.message.tool_calls
        assert (call.type, call.function.name, call.function.arguments) == ("function", "look", '{"room":"the hall"}')
        result: Any = {"role": "tool", "tool_call_id": call.id, "content": "There is a cat"}
        (after,) = ask(messages=[*QUESTION, choice.message, result]).choices
        assert (after.message.content, after.message.tool_calls, after.finish_reason) == (parrot.CAT, None, "stop")
        parts = [part.choices[0] for part in ask(messages=QUESTION, tool_choice="required", stream=True)]
        functions = [call.function for part in parts for call in part.delta.tool_calls or [] if call.function]
        assert "".join(each.name or "" for each in functions) == "look" and len(functions) > 3
        assert "".join(each.arguments or "" for each in functions) == '{"room":"the hall"}'
        assert parts[-1].finish_reason == "tool_calls"


def test_logprobs_and_completions(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="any", messages=QUESTION, logprobs=True, top_logprobs=2, max_tokens=3)
    tokens = answer.choices[0].logprobs.content if answer.choices[0].logprobs else None
    assert tokens and len(tokens) == 3 and len(tokens[0].top_logprobs) == 2
    text = client.completions.create(model="any", prompt="<|im_start|>assistant\n", max_tokens=4, temperature=0)
    assert parrot.ANSWER.startswith(text.choices[0].text.strip()) and text.choices[0].text.strip()


def test_other_forms_of_the_api(server: Server, client: openai.OpenAI) -> None:
    assert client.responses.create(model="any", input="Who are you?", temperature=0).output_text == parrot.ANSWER
    answer = server.ask("/v1/messages", {"model": "any", "max_tokens": 50, "messages": QUESTION, "temperature": 0})
    assert answer.json["content"] == [{"type": "text", "text": parrot.ANSWER}]
    with pytest.raises(openai.InternalServerError, match="the models of this server write text"):
        client.embeddings.create(model="any", input="a")


def test_the_program_llm(server: Server, root: Path, tmp_path: Path) -> None:
    entry = {"model_id": "zosia", "model_name": "any", "api_base": f"{server.url}/v1"}
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([entry]), encoding="utf-8")
    argv: list[str | Path] = [
        Path(sys.executable).with_name("llm"),
        "-m",
        "zosia",
        "Who are you?",
        "-o",
        "temperature",
        "0",
    ]
    env = environment(root, LLM_USER_PATH=str(tmp_path), no_proxy="127.0.0.1")
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{parrot.ANSWER}\n"), done.stderr


def test_curl_by_the_socket_with_an_old_http(start: Start, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "private" / "s"
    start(socket=path).ready()
    body = json.dumps({"messages": QUESTION, "temperature": 0})
    argv: list[str | Path] = [
        "curl",
        "-sS",
        "--http1.0",
        "--unix-socket",
        path,
        "http://localhost/v1/chat/completions",
        "-d",
        body,
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == parrot.ANSWER, done.stderr
    assert (path.parent.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)


# What eight clients ask, each in another order, and what they get: a slot has another conversation each time.
ASKED: Any = (
    (STORY, parrot.story(24)),
    (QUESTION, parrot.ANSWER),
    ([{"role": "user", "content": "Is there a cat?"}], parrot.CAT),
)


def test_eight_clients_are_all_answered_alike(server: Server) -> None:
    """More than there are slots. Two minutes of them: `python -m zosia_build.benchmarks 1 clients`."""

    async def client(number: int) -> list[tuple[str, str]]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
            heard = []
            for turn in range(len(ASKED)):
                asked, known = ASKED[(number + turn) % len(ASKED)]
                answer = await made.chat.completions.create(model="any", messages=asked, temperature=0, max_tokens=24)
                heard.append((answer.choices[0].message.content or "", known))
            return heard

    async def all_at_once() -> list[list[tuple[str, str]]]:
        return await asyncio.gather(*(client(number) for number in range(8)))

    heard = [pair for each in asyncio.run(all_at_once()) for pair in each]
    assert len(heard) == 24
    for answer, known in heard:
        assert answer == known


def test_hanging_up_cancels(server: Server, client: openai.OpenAI) -> None:
    """Else the story, which has no end, would go on, and with a few more of its kind nobody would be answered."""
    for _ in range(5):  # one more than there are slots
        stream = client.chat.completions.create(model="any", messages=STORY, stream=True)
        next(iter(stream))
        stream.close()
    answer = client.chat.completions.create(model="any", messages=QUESTION, temperature=0)
    assert answer.choices[0].message.content == parrot.ANSWER


def test_an_error_of_llama_server_is_passed_on(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="context"):
        client.chat.completions.create(model="any", messages=[{"role": "user", "content": "long " * 20_000}])


# ---- What is refused


def test_what_is_not_meant_is_refused(server: Server) -> None:
    for path in ("/slots", "/lora-adapters", "/cors-proxy?url=x", "/etc/passwd", "/models/sse"):
        assert server.ask(path).status in (403, 404), path
    assert server.ask("/props", {"default_generation_settings": {}}).status == 405
    assert (
        server.ask("/tools").json
        == server.ask("/tools", {"tool": "read_file", "params": {"path": "/etc/passwd"}}).json
        == []
    )
    assert server.ask("/v1/models", Host="evil.example").status == 421
    assert server.ask("/v1/models", Origin="http://evil.example").status == 403


def test_a_key(start: Start, server: Server) -> None:
    own = start(key="secret-of-mine").ready()
    assert own.ask("/v1/models").status == 401
    assert own.ask("/v1/models", Authorization="Bearer secret-of-yours").status == 401
    assert own.ask("/v1/models", Authorization="Bearer secret-of-mine").status == 200
    assert own.ask("/health").status == 200
    assert "secret-of-mine" not in own.said


# ---- As it is typed


def test_scons_serve(root: Path, scons: Path, small: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv: list[str | Path] = [scons, "serve", f"MODEL={small}", f"PORT={port}", "UI=0", "HOT=0", "KEY=auto"]
    with subprocess.Popen(argv, cwd=root, env=environment(root), stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr
        lines = []
        for line in child.stderr:
            lines.append(line)
            if "ready after" in line:
                break
        key = next(line.split()[1] for line in lines if line.startswith("  KEY "))
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0) as client:
            answer = client.chat.completions.create(model="any", messages=QUESTION, temperature=0)
            assert answer.choices[0].message.content == parrot.ANSWER
        child.send_signal(signal.SIGINT)
        assert child.wait(60 * patience()) == 0


@pytest.mark.parametrize("typed", ["PROMPT=hi", "SYSTEM=hi"])
def test_what_is_for_a_chat_is_refused(root: Path, scons: Path, small: Path, typed: str) -> None:
    done = subprocess.run(
        [scons, "serve", f"MODEL={small}", typed], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "is not for `scons serve`" in done.stderr
