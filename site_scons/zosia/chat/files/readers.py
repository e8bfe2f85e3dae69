"""Readers of PDFs, Word documents and HTML: `python readers.py KIND`, which zosia.chat.files.extract starts.

Standard input has the file's bytes; standard output gets ["text", TEXT], or a reason of that module and what it counts.
A process of its own has bounds on its memory and time, which a file can be made to take any amount of. It imports
nothing of zosia, opens no file, and needs no network.
"""

from __future__ import annotations

import io
import json
import logging
import resource
import sys
import zipfile
from typing import Any

MOST_TEXT = 16_000_000  # bytes; a context of a million tokens holds a quarter of it
MOST_PAGES = 5000  # of a PDF
MOST_XML = 32_000_000  # bytes of a Word document but its pictures, uncompressed
MEMORY = 1 << 30  # bytes of this process
SECONDS = 120  # of processor time


class Refusal(Exception):
    """A reason of zosia.chat.files.extract, and what it counts."""


def pdf(data: bytes) -> str:
    """Return the text of a PDF, page by page."""
    import pypdf
    from pypdf.errors import DependencyError, LimitReachedError

    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Refusal("password", "")
        pages = len(reader.pages)
    except DependencyError as error:  # of a library for AES, which is large
        raise Refusal("password", "") from error
    except LimitReachedError as error:
        raise Refusal("pages", "too many") from error
    if pages > MOST_PAGES:
        raise Refusal("pages", f"{pages:,}")
    found, size = [], 0
    try:
        for page in reader.pages:
            found.append(page.extract_text())
            size += len(found[-1])
            if size > MOST_TEXT:
                break
    except LimitReachedError as error:
        raise Refusal("stream", "") from error
    return "\n\n".join(found)


def docx(data: bytes) -> str:
    """Return the text of a Word document, as Markdown."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile as error:
        raise Refusal("damaged" if data.startswith(b"PK") else "office", "") from error
    if not any(member.filename.startswith("word/") for member in members):
        raise Refusal("archive", "")
    # zipfile reads no more of a member than this, whatever is in it.
    size = sum(member.file_size for member in members if not member.filename.startswith("word/media/"))
    if size > MOST_XML:
        raise Refusal("bomb", f"{size / 1e6:,.0f}")
    import mammoth

    # Pictures are not read, so those that are elsewhere are not fetched either.
    pictures = mammoth.images.img_element(lambda image: {"src": ""})
    result = mammoth.convert_to_html(io.BytesIO(data), convert_image=pictures, include_embedded_style_map=False)
    return html(result.value.encode())


def html(data: bytes) -> str:
    """Return the text of a page, as Markdown, without scripts and styles; a picture is its description."""
    from markdownify import MarkdownConverter

    class Converter(MarkdownConverter):
        def convert_img(self, element: Any, text: str, parent_tags: object) -> str:
            return str(element.get("alt") or "")

        def convert_svg(self, element: Any, text: str, parent_tags: object) -> str:
            return ""

        convert_script = convert_style = convert_template = convert_object = convert_iframe = convert_svg

    converter: Any = Converter(heading_style="atx", table_infer_header=True, bullets="-")
    return str(converter.convert(data))  # bytes, whose encoding a page may declare


def answer(kind: str, data: bytes) -> list[str]:
    """Return the text that a file of a kind holds, or the reason why there is none."""
    try:
        return ["text", {"pdf": pdf, "docx": docx, "html": html}[kind](data)]
    except Refusal as refusal:
        return list(refusal.args)
    except MemoryError:
        return ["memory", ""]
    except Exception:  # the libraries raise any, even for what is only a bit damaged
        return ["damaged", ""]


def main(kind: str) -> None:
    """Read standard input, and print its text."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable()  # pypdf's notes about a file
    json.dump(answer(kind, sys.stdin.buffer.read()), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
