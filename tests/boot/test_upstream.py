"""A part of upstream's own tests of llama-server, against the gate; `python -m tests.upstream` runs all that can be."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import environment

# One of each kind; most share their arguments, so that their machine boots once and is resumed for each.
PART = [
    "test_basic.py::test_server_models",
    "test_basic.py::test_server_props",
    "test_chat_completion.py::test_chat_completions_multiple_choices",
    "test_chat_completion.py::test_chat_completion_stream",
    "test_chat_completion.py::test_chat_completion_with_timings_per_token",
    "test_chat_completion.py::test_completion_with_invalid_grammar",
    "test_chat_completion.py::test_context_size_exceeded_stream",
    "test_chat_completion.py::test_logit_bias",
    "test_chat_completion.py::test_logprobs_stream",
    "test_compat_anthropic.py::test_anthropic_count_tokens",
    "test_compat_anthropic.py::test_anthropic_messages_streaming",
    "test_compat_oai_responses.py::test_responses_stream_with_openai_library",
    "test_completion.py::test_completion_stream_vs_non_stream",
    "test_completion.py::test_n_probs_stream",
    "test_infill.py::test_infill_with_input_extra",
    "test_security.py::test_correct_api_key",
    "test_security.py::test_incorrect_api_key",
    "test_template.py::test_add_generation_prompt",
    "test_tokenize.py",
]
TESTS = 24  # of them, parameters included


@pytest.mark.boots
def test_a_part_of_upstreams_tests(root: Path, scons: Path) -> None:
    argv = [sys.executable, "-m", "tests.upstream", "-q", "--tb=short", *(f"unit/{name}" for name in PART)]
    done = subprocess.run(argv, cwd=root, env=environment(root), capture_output=True, text=True, check=False)
    passed = re.search(r"^(\d+) passed in ", done.stdout, re.M)
    assert done.returncode == 0 and passed and int(passed[1]) == TESTS, done.stdout[-4000:] + done.stderr
