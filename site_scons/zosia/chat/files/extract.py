"""Text of a file's bytes: of a PDF, a Word document or a page of HTML, or of text in any encoding."""

from __future__ import annotations

import codecs
import json
import re
import signal
import subprocess
import sys

from zosia.base.children import Child
from zosia.base.errors import ZosiaError
from zosia.chat.files import readers

SNIFFED = 8192  # bytes at the beginning that tell what a file holds
PAGE = (b"<!doctype html", b"<html")  # how one begins
OLD_OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # an OLE file, which a Word document with a password is as well
ZIP = b"PK\x03\x04"
MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
# The usual ones; charset-normalizer's others find rare encodings in a few accented letters.
ENCODINGS = (
    *("cp1252", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256", "iso8859_2"),
    *("cp932", "euc_jp", "gb18030", "big5", "cp949"),
)
CONTROLS = re.compile(r"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f]")  # without blanks and escape


def text(data: bytes, suffix: str, name: str) -> str:
    r"""Return the text of a file's bytes, whose lines end with \n.

    Args:
        suffix: end of the file's name, in lower case; what the file holds counts more.
        name: name of the file, for errors.

    Raises:
        ZosiaError: there is no text in it.
    """
    kind = _kind(data, suffix)
    found = _apart(data, kind, name) if kind else _decoded(data)
    if found is None:
        raise ZosiaError(f"{name} is no text", "Convert it first, to text, PDF, .docx or HTML")
    found = re.sub(r"[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", re.sub("\r\n?", "\n", found).replace("\0", ""))
    if len(found.encode()) > readers.MOST_TEXT:
        raise ZosiaError(f"{name} has more than {readers.MOST_TEXT // 10**6} MB of text", "Cut out what matters")
    if not found.strip() and kind == "pdf":
        raise ZosiaError(f"{name} has no text: its pages are pictures", "Recognise their text first: ocrmypdf IN OUT")
    if not found.strip():
        raise ZosiaError(f"{name} has no text", "Attach another file")
    return found


def _apart(data: bytes, kind: str, name: str) -> str:
    """Return the text that a reader finds in a process of its own."""
    with Child(
        [sys.executable, "-P", readers.__file__, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        try:
            output, _ = child.communicate(data)
        except BaseException:
            child.kill()
            raise
    overtime = -child.returncode in (signal.SIGXCPU, signal.SIGKILL)
    why, counted = json.loads(output) if output else ["time" if overtime else "damaged", ""]
    if why == "text":
        return str(counted)
    raise _refusal(why, counted, name)


def _refusal(why: str, counted: str, name: str) -> ZosiaError:
    unpacked, gigabytes = readers.MOST_XML // 10**6, readers.MEMORY >> 30
    known = {
        "password": ZosiaError(f"{name} is encrypted", "Save a copy without a password: qpdf --decrypt IN OUT"),
        "office": ZosiaError(f"{name} is an old Office file, or has a password", "Save it as .docx without a password"),
        "archive": ZosiaError(
            f"{name} is no Word document, but another archive", "Attach its files, or save it as PDF"
        ),
        "pages": ZosiaError(f"{name} has {counted} pages, and {readers.MOST_PAGES:,} are read", "Cut out what matters"),
        "bomb": ZosiaError(f"{name} has {counted} MB when unpacked, and {unpacked} are read", "Save it as PDF"),
        "stream": ZosiaError(f"{name} has a page with more inside than is read", "Leave that page out"),
        "memory": ZosiaError(f"{name} takes more than {gigabytes} GiB of memory to read", "Save it as text"),
        "time": ZosiaError(f"{name} takes more than {readers.SECONDS} seconds to read", "Save it as text"),
    }
    damaged = ZosiaError(f"{name} is damaged, and can't be read", "Open it in its own program, and save it again")
    return known.get(why, damaged)


def holds_text(head: bytes) -> bool:
    """Return whether a file that begins so seems to hold text."""
    return bool(_kind(head, "")) or _decoded(head, cut=True) is not None


def _kind(data: bytes, suffix: str) -> str:
    """Return which reader a file needs, "" for a text as it is."""
    head = data[:SNIFFED].removeprefix(codecs.BOM_UTF8)
    if head.lstrip().startswith(b"%PDF-"):
        return "pdf"
    if data.startswith((ZIP, OLD_OFFICE)):
        return "docx"
    page = suffix in (".html", ".htm", ".xhtml") or (suffix in ("", ".txt") and head.lstrip().lower().startswith(PAGE))
    return "html" if page and b"\0" not in head else ""


def _decoded(data: bytes, *, cut: bool = False) -> str | None:
    """Return the text that bytes are, None for what is none; `cut`: the last character may be incomplete."""
    mark = next((mark for mark in MARKS if data.startswith(mark)), b"")
    encoding = MARKS[mark] if mark else "utf-8-sig"
    try:
        found = codecs.getincrementaldecoder(encoding)().decode(data, final=not cut)
    except UnicodeDecodeError:
        found = _other_encoding(data) or ""
    controls = len(CONTROLS.findall(found))
    return None if "\0" in found or controls * 100 > len(found) or not found else found


def _other_encoding(data: bytes) -> str | None:
    """Return the text that bytes are in another encoding than UTF-8, None if there is none."""
    for encoding, zeros in (("utf-16-le", data[1:SNIFFED:2]), ("utf-16-be", data[:SNIFFED:2])):
        if zeros.count(0) * 2 > len(zeros):  # a half of an alphabet's letters
            return data.decode(encoding, "replace")
    if b"\0" in data[:SNIFFED]:
        return None
    import charset_normalizer  # slow to import, and only needed here

    for names in (ENCODINGS[:1], ENCODINGS[1:]):  # a few accented letters would pass for Polish
        if found := charset_normalizer.from_bytes(data, cp_isolation=list(names)).best():
            return str(found)
    return data.decode(ENCODINGS[0], "replace")
