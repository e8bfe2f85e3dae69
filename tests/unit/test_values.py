"""Values of variables, and the errors for invalid ones."""

from __future__ import annotations

import pytest

from zosia.base.errors import ZosiaError
from zosia.settings import values


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512),
        ("512M", 512),
        ("512m", 512),
        ("512MiB", 512),
        ("2G", 2048),
        ("2gb", 2048),
        ("524288K", 512),
        (" 64 ", 64),
        ("65536K", 64),
    ],
)
def test_memory(text: str, size: int) -> None:
    assert values.memory(text) == size


@pytest.mark.parametrize(
    "text", ["", "63", "63M", "65535K", "0", "-512", "1.5G", "512X", "M", "4 G", "512B", "512i", "٥١٢", "4G\nx"]
)
def test_no_memory(text: str) -> None:
    with pytest.raises(ZosiaError, match=r"^MEM=[\s\S]* is not a size from 64 MiB to 1 TiB\. Set .*MEM=512M"):
        values.memory(text)


def test_count() -> None:
    assert [values.count("SMP", text, 1, 64) for text in ("1", "08", "64")] == [1, 8, 64]


@pytest.mark.parametrize("text", ["", "0", "65", "-1", "+1", "1.0", "1e1", "two", "²", "٢", " 1"])
def test_no_count(text: str) -> None:
    with pytest.raises(ZosiaError, match=r"^SMP=.* is not a whole number from 1 to 64"):
        values.count("SMP", text, 1, 64)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("--temp 0.5  -n 10", ["--temp", "0.5", "-n", "10"]),
        ("-p 'two words' \"it's\"", ["-p", "two words", "it's"]),
        ("-p $HOME *.c ~ `id` # x", ["-p", "$HOME", "*.c", "~", "`id`", "#", "x"]),
        ("-p zażółć\\ gęślą", ["-p", "zażółć gęślą"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert values.words("LLAMA_ARGS", text) == words


@pytest.mark.parametrize("text", ["-p 'open", '"', "\\"])
def test_words_that_do_not_end(text: str) -> None:
    with pytest.raises(ZosiaError, match=r"^LLAMA_ARGS=.* can't be split.*Close each quote"):
        values.words("LLAMA_ARGS", text)


def test_check_known() -> None:
    values.check_known("a variable", ["MEM", "SMP"], iter(["SMP", "MEM"]))
    with pytest.raises(ZosiaError, match=r"^MEMM is not a variable of zosia\. Did you mean MEM\?"):
        values.check_known("a variable", ["SMP", "MEMM"], ["MEM", "SMP"])


def test_check_value() -> None:
    values.check_value("ACCEL", "kvm", iter(["kvm", "tcg"]))
    with pytest.raises(ZosiaError, match=r"^ACCEL=kvn is not a value that zosia knows\. Did you mean kvm\?"):
        values.check_value("ACCEL", "kvn", ["kvm", "tcg"])


def test_flag() -> None:
    assert [values.flag("VERBOSE", text) for text in ("1", "0", "")] == [True, False, False]
    with pytest.raises(ZosiaError, match=r"^VERBOSE=yes is not"):
        values.flag("VERBOSE", "yes")
