"""Archives as Linux unpacks them, written from its documentation, and independent of zosia_build.cpio."""

from __future__ import annotations


def archive(files: dict[str, bytes]) -> bytes:
    """Return a newc archive of programs."""
    data = b""
    for name, content in {**files, "TRAILER!!!": b""}.items():
        numbers = [0, 0o100755, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        data += b"070701" + b"".join(b"%08x" % number for number in numbers) + name.encode() + b"\0"
        data += bytes(-len(data) % 4) + content
        data += bytes(-len(data) % 4)
    return data
