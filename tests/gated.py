"""A gate as a process, in front of a llama-server that repeats: `python -m tests.gated NAME FOLDER`.

It listens where systemd has it listen. The file NAME in FOLDER gets a line for each request as it comes, and the number
of requests at that time. Questions that begin with "wait" are answered when the file NAME.go is there.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from tests.gate import EVENTS, Asked, Llama, chunk, response
from zosia.serve.gate import Gate
from zosia.serve.service import Service

SECONDS, PARTS = 0.02, 4


class Parrot(Llama):
    """A llama-server that answers with the last message, and its own name."""

    def __init__(self, name: str, file: Path) -> None:
        super().__init__()
        self.name, self.file = name, file
        self.running = 0
        self.answers: set[asyncio.Task[None]] = set()

    async def work(self) -> None:
        """Answer what comes."""
        while True:
            while self.asked.empty():
                await asyncio.sleep(0.002)
            answer = asyncio.create_task(self.reply(self.asked.get()))
            self.answers.add(answer)
            answer.add_done_callback(self.answers.discard)

    async def reply(self, asked: Asked) -> None:
        """Answer one request."""
        self.running += 1
        value = json.loads(asked.body)
        text = value["messages"][-1]["content"]
        with self.file.open("a", encoding="utf-8") as file:
            file.write(f"{text} {self.running}\n")
        while text.startswith("wait") and not self.file.with_name(f"{self.name}.go").exists():
            await asyncio.sleep(0.01)
        answer = json.dumps({"text": text, "by": self.name}).encode()
        if value.get("stream"):
            asked.say(EVENTS)
            for _ in range(PARTS):
                asked.say(chunk(b"data: " + answer + b"\n\n"))
                await asyncio.sleep(SECONDS / PARTS)
            asked.say(chunk(b"data: [DONE]\n\n") + chunk(b""), end=True)
        else:
            await asyncio.sleep(SECONDS)
            asked.say(response(answer), end=True)
        self.running -= 1


async def serve(name: str, folder: Path) -> None:
    """Serve until a signal."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, sys.exit, 0)
    llama = Parrot(name, folder / name)
    await Gate(Service(model=name, log=folder / f"{name}.log"), llama).start()
    await llama.work()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2])))
