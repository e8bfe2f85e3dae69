"""Bodies of requests: what would take llama-server's stack or time is refused."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import accumulate

DEPTH = 100  # levels of JSON, and of a grammar's parentheses; llama-server recurses into both, on a small stack
GRAMMAR = 1 << 18  # characters of a grammar or a schema; those in use have a tenth
SCHEMAS = ("json_schema", "response_format", "tools", "grammar_triggers")

# What a prompt is made of, in this order: system prompts of Anthropic's messages and OpenAI's responses, and tools;
# then the conversation, or a text.
BEGINNINGS = ("system", "instructions", "tools")
CONTENTS = ("messages", "input", "prompt", "input_prefix")
BEGINNING = 256  # characters or tokens of a text, which has no turns to tell where later ones differ

# A quoted string; possessive, so that a long one takes neither memory nor a second try.
STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
CLASS = rb"\[[^\]\\]*+(?:\\.[^\]\\]*+)*+\]"
QUOTED = re.compile(STRING, re.DOTALL)
# Strings that llama-server parses by recursion, and what of them is no parenthesis for it (llama-grammar.cpp, and
# _visit_pattern of json-schema-to-grammar.cpp): a grammar, and the regular expressions of a schema and of a trigger.
GRAMMAR_TEXT = re.compile(STRING + rb"|" + CLASS + rb"|<[^>]*+>|#[^\n]*+", re.DOTALL)
PATTERN_TEXT = re.compile(rb"\\.|" + CLASS, re.DOTALL)
PARSED = {"grammar": GRAMMAR_TEXT, "pattern": PATTERN_TEXT, "value": PATTERN_TEXT}

BRACKETS = b"[]{}"
OTHERS = bytes(set(range(256)) - set(BRACKETS))
STEPS = {byte: 1 if byte in b"[{" else -1 for byte in BRACKETS}


def json_depth(body: bytes) -> int:
    """Return how deep JSON is nested."""
    return max(accumulate(map(STEPS.__getitem__, QUOTED.sub(b"", body).translate(None, OTHERS))), default=0)


def parentheses(text: str, literal: re.Pattern[bytes]) -> int:
    """Return how deep a text's parentheses are nested, without those of its literals."""
    level = deepest = 0
    for byte in literal.sub(b"", text.encode("utf-8", "replace")):
        if byte == 0x28:
            level += 1
            deepest = max(deepest, level)
        elif byte == 0x29:
            level = max(level - 1, 0)
    return deepest


class _Fault(Exception):
    """Reason to refuse a body."""


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Check all pairs of an object: of two with one name Python would keep the last."""
    for name, value in pairs:
        if name in PARSED and isinstance(value, str):
            if len(value) > GRAMMAR:
                raise _Fault(f"{name} has more than {GRAMMAR} characters")
            if parentheses(value, PARSED[name]) > DEPTH:
                raise _Fault(f"{name} is nested more than {DEPTH} levels deep")
    return dict(pairs)


def session(body: bytes) -> str:
    """Return a digest of how a request begins, or "": later ones of the same conversation have the same.

    A chat begins with all up to its first question, which is also what later requests have in common with it.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(value, dict):
        return ""
    start = [value.get(name) for name in BEGINNINGS]
    for name in CONTENTS:
        content = value.get(name)
        if isinstance(content, list) and any(isinstance(part, dict) for part in content):
            asked = (n for n, part in enumerate(content) if isinstance(part, dict) and part.get("role") == "user")
            start.append(content[: next(asked, 0) + 1])
        elif isinstance(content, str | list):
            start.append(content[:BEGINNING])
    if not any(start):
        return ""
    return hashlib.blake2b(json.dumps(start, sort_keys=True).encode(), digest_size=16).hexdigest()


def fault(body: bytes) -> str:
    """Return why a request's body is refused, or "". Takes time in proportion to its size."""
    if json_depth(body) > DEPTH:
        return f"the JSON is nested more than {DEPTH} levels deep"
    try:
        # llama-server reads no other encoding, and Python would guess one.
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_pairs)
    except _Fault as error:
        return str(error)
    except (ValueError, RecursionError):
        return "the body is not JSON"
    if not isinstance(value, dict):
        return "the body is not a JSON object"
    large = [name for name in SCHEMAS if value.get(name) and len(json.dumps(value[name])) > GRAMMAR]
    return f"{large[0]} has more than {GRAMMAR} characters" if large else ""
