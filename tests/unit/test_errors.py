"""Hints for mistyped words."""

from __future__ import annotations

import pytest

from zosia.base.errors import near


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("smollm2", "Did you mean smollm2-135m?"),
        ("SMOLLM2-135M", "Did you mean smollm2-135m?"),
        ("GPT-OSS-20B-q4", "Did you mean gpt-oss-20b-Q4?"),
        ("gpt-oss-20b-Q4", "Did you mean gpt-oss-20b-Q4?"),
        ("llama", "Choose one of: gpt-oss-20b-Q4, smollm2-135m"),
    ],
)
def test_near(word: str, remedy: str) -> None:
    assert near(word, iter(["smollm2-135m", "gpt-oss-20b-Q4"])) == remedy
