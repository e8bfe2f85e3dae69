"""A hub on loopback, of models that are as small as a test needs, and a Hugging Face cache in its library's layout."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.web import Answer, Web, serving
from zosia.inputs import download, model_files
from zosia.inputs.catalogue import Model
from zosia.inputs.download import CHUNK
from zosia.model.shape import Shape

BODY = b"GGUF" + random.Random(3).randbytes(5 * CHUNK + 1234)
OTHER = BODY[:-1] + bytes([BODY[-1] ^ 1])
COMMIT, NEXT = "a" * 40, "b" * 40
PROJECT = "maker/tiny-GGUF"
PROGRAM = """
import pickle, sys
from pathlib import Path
from zosia.inputs import model_files
from zosia.base.errors import ZosiaError
try:
    print(*model_files.gguf_files(pickle.loads(bytes.fromhex(sys.argv[1])), Path(sys.argv[2])), sep="\\n")
except ZosiaError as error:
    sys.exit(f"zosia: error: {error}")
"""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tiny(
    content: bytes | None = BODY, *, version: str = COMMIT, project: str = PROJECT, file: str = "tiny.gguf"
) -> Model:
    """A model of the hub, pinned to the content if there is one."""
    return Model(
        name="tiny",
        origin="hub",
        project=project,
        version=version,
        file=file,
        size=len(content or b""),
        sha256=sha256(content) if content else "",
        context=2048,
        shape=Shape(architecture="llama", block_count=1, embedding_length=64, context_length=2048),
        licence="MIT",
        title="Tiny",
    )


def told(content: bytes = BODY, commit: str = COMMIT) -> dict[str, str]:
    """Return the hub's headers for a file in LFS."""
    linked = {"X-Linked-Etag": f'"{sha256(content)}"', "X-Linked-Size": str(len(content))}
    return {"X-Repo-Commit": commit, "ETag": '"something-else"', **linked}


@dataclass
class Hub:
    """A hub, the server where its bytes are, and what this machine has."""

    web: Web
    cdn: Web
    cache: Path
    own: Path  # the person's Hugging Face cache

    def page(self, revision: str = COMMIT, file: str = "tiny.gguf") -> str:
        return f"/{PROJECT}/resolve/{revision}/{file}"

    def serve(
        self,
        content: bytes = BODY,
        revision: str = COMMIT,
        commit: str = COMMIT,
        sent: bytes = b"",
        file: str = "tiny.gguf",
    ) -> None:
        """Have a file at a revision; `sent` is what comes of it, if it is something else."""
        answer = Answer(location=f"{self.cdn.url}/blob?{sha256(content)}", headers=told(content, commit))
        self.web.pages |= {self.page(revision, file): [answer], self.page(commit, file): [answer]}
        self.cdn.files[f"/blob?{sha256(content)}"] = sent or content

    def says(self, *answers: Answer, revision: str = COMMIT) -> None:
        """Say something else first, or for ever, of the file at a revision."""
        self.web.pages[self.page(revision)] = list(answers)

    def get(self, model: Model | None = None) -> Path:
        return model_files.model_file(model or tiny(), self.cache)

    @property
    def place(self) -> Path:
        return self.cache / "models" / sha256(BODY) / "tiny.gguf"

    @property
    def part(self) -> Path:
        return self.place.with_name("tiny.gguf.part")

    @property
    def held(self) -> list[Path]:
        """The files in the cache, whole or not."""
        return [path for path in self.cache.rglob("*") if path.is_file() and path.suffix not in (".lock", ".json")]

    @property
    def heads(self) -> int:
        return sum(method == "HEAD" for method, _, _ in self.web.asked)

    def keep(self, content: bytes, commit: str = COMMIT, name: str = "", file: str = "tiny.gguf") -> Path:
        """Have a file in the person's Hugging Face cache, as that library lays it out."""
        folder = self.own / "models--maker--tiny-GGUF"
        blob = folder / "blobs" / (name or sha256(content))
        path = folder / "snapshots" / commit / file
        for parent in (blob.parent, path.parent):
            parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        path.symlink_to(Path("../../blobs", blob.name))
        return path


def start(hub: Hub, model: Model, **given: str) -> subprocess.Popen[str]:
    """Another process that wants a model, told where things are by the environment alone."""
    env = {**os.environ, "PYTHONPATH": str(Path(model_files.__file__).parents[2]), "HF_ENDPOINT": hub.web.url}
    env |= {"HF_HOME": str(hub.own.parent), **given}
    words = [sys.executable, "-c", PROGRAM, pickle.dumps(model).hex(), str(hub.cache)]
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def on_loopback(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the file, and nothing of this machine's own settings (which the library read when it was imported)."""
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))]:
        monkeypatch.delenv(name)
    home = tmp_path / "huggingface"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{web.url}/simple/")
    monkeypatch.setattr(constants, "ENDPOINT", web.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", web.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "PAUSE", 0)
    with serving() as cdn:
        running = Hub(web=web, cdn=cdn, cache=tmp_path / "cache", own=home / "hub")
        running.serve()
        yield running
