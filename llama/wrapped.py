#!/usr/bin/env python3
"""Check that calls of symbols pass the linker, which is what --wrap needs to redirect them.

wrapped.py SOURCE SYMBOL... -- [OBJECT]    OBJECT is what SOURCE, which calls each SYMBOL, was compiled to

The linker redirects references to symbols that an object does not define. A compiler that sees a function beside its
caller leaves no such reference, and --wrap then has no effect, without any message.

wrap.cmake has it run before each link, in Buildroot as well: with Python's own library and nothing else.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

SYMTAB = 2  # sh_type (System V ABI, 4)
UNDEFINED = 0  # st_shndx


def symbols(elf: bytes) -> dict[str, bool]:
    """Return the names in an object's symbol table, each with True if the object defines it."""
    (offset,) = struct.unpack_from("<Q", elf, 40)
    size, count = struct.unpack_from("<HH", elf, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", elf, offset + size * i) for i in range(count)]
    names: dict[str, bool] = {}
    for _, kind, _, _, start, length, link, *_ in sections:
        if kind == SYMTAB:
            strings = sections[link][4]
            for name, _, _, section, _, _ in struct.iter_unpack("<IBBHQQ", elf[start : start + length]):
                begin = strings + name
                names[elf[begin : elf.index(b"\0", begin)].decode()] = section != UNDEFINED
    return names


def faults(source: str, wanted: list[str], objects: list[Path]) -> dict[str, str]:
    """Return the symbols whose --wrap has no effect on `source`, each with the reason."""
    if len(objects) != 1:
        return dict.fromkeys(wanted, f"{source} has {len(objects) or 'no'} objects")
    defined = symbols(objects[0].read_bytes())
    reasons = {None: f"{source} does not call it", True: f"{source} defines it, so its calls do not pass the linker"}
    return {symbol: reasons[found] for symbol in wanted if (found := defined.get(symbol)) in reasons}


def main(source: str, *words: str) -> int:
    """Report each fault in a line."""
    end = words.index("--")
    found = faults(source, list(words[:end]), [Path(name) for name in words[end + 1 :]])
    for symbol, reason in found.items():
        print(f"zosia: error: --wrap={symbol} has no effect: {reason}", file=sys.stderr)
    if found:
        print('zosia: see docs/development.md, "A newer llama.cpp, step by step"', file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
