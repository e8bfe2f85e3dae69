"""Files as context."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import zipfile
import zlib
from pathlib import Path

import pytest

from zosia.base.errors import ZosiaError
from zosia.chat.files import documents, extract, readers
from zosia.chat.files.documents import Document

TEXT = "Größe der Brücke: 12 m.\nZażółć gęślą jaźń.\n"


def written_pdf(lines: list[str], *, more: str = "", times: int = 1) -> bytes:
    """A PDF with a page for each line, compressed, and so often in the list of pages."""
    kids = " ".join(f"{4 + 2 * index} 0 R" for index in range(len(lines)))
    kids = " ".join([kids] * times)
    objects = [
        b"<</Pages 2 0 R>>",
        f"<</Type /Pages /Kids [{kids}] /Count {len(lines) * times}>>".encode(),
        b"<</Type /Font /Subtype /Type1 /BaseFont /Helvetica>>",
    ]
    for line in lines:
        drawn = zlib.compress(f"BT /F1 24 Tf 72 700 Td ({line}) Tj ET".encode() if line else b"")
        box = "/MediaBox [0 0 612 792] /Resources <</Font <</F1 3 0 R>>>>"
        objects += [
            f"<</Type /Page /Parent 2 0 R {box} /Contents {len(objects) + 2} 0 R>>".encode(),
            b"<</Filter /FlateDecode /Length %d>> stream\n%b\nendstream" % (len(drawn), drawn),
        ]
    data, places = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj %b endobj\n" % (number, text)
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    table = f"xref\n0 {len(places) + 1}\n0000000000 65535 f \n{table}"
    trailer = f"trailer <</Root 1 0 R /Size {len(places) + 1} {more}>>\nstartxref\n{len(data)}\n%%EOF\n"
    return data + table.encode() + trailer.encode()


def written_docx(body: str, *, files: dict[str, bytes] | None = None, relations: str = "") -> bytes:
    """A Word document."""
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    packages = "http://schemas.openxmlformats.org/package/2006/relationships"
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    document = f'<w:document xmlns:w="{word}" xmlns:r="{office}"><w:body>{body}</w:body></w:document>'
    main = f'<Relationship Id="r1" Type="{office}/officeDocument" Target="word/document.xml"/>'
    members = {
        "[Content_Types].xml": b'<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
        "_rels/.rels": f'<Relationships xmlns="{packages}">{main}</Relationships>'.encode(),
        "word/_rels/document.xml.rels": f'<Relationships xmlns="{packages}">{relations}</Relationships>'.encode(),
        "word/document.xml": document.encode(),
        **(files or {}),
    }
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return archive.getvalue()


def paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def read(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    found = documents.read(Path(name), folder)
    assert found.name == name
    return found.text


def refusal(folder: Path, name: str, data: bytes) -> str:
    with pytest.raises(ZosiaError) as refused:
        read(folder, name, data)
    assert refused.value.hint and "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (TEXT.encode(), TEXT),
        (TEXT.encode("utf-8-sig"), TEXT),
        (TEXT.encode("utf-16"), TEXT),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), TEXT),
        (TEXT.encode("utf-16-le"), TEXT),
        (TEXT.encode("utf-16-be"), TEXT),
        (TEXT.encode("utf-32"), TEXT),
        (b"one\rtwo\r\nthree\n", "one\ntwo\nthree\n"),
        (b"\x1b[31mred\x1b[0m\tx\n", "\x1b[31mred\x1b[0m\tx\n"),
        *((text.encode("latin-1"), text) for text in ("é\n", "Größe: 12 m", "Café crème, déjà vu", "# déjà\n" * 30)),
        ("the café’s price – 5 €".encode("cp1252"), "the café’s price – 5 €"),
        ("Příliš žluťoučký kůň úpěl ďábelské ódy".encode("cp1250"), "Příliš žluťoučký kůň úpěl ďábelské ódy"),
        *((text.encode(name), text) for text in ["Привет, мир. Это русский текст"] for name in ("cp1251", "koi8-r")),
        ("日本語のテキストです。これは試験です".encode("shift_jis"), "日本語のテキストです。これは試験です"),
        (b"<!DOCTYPE html>\n<p>kept</p>", "<!DOCTYPE html>\n<p>kept</p>"),
        (b"PDFs begin with %PDF-1.4", "PDFs begin with %PDF-1.4"),
    ],
)
def test_texts_are_read_as_they_are(tmp_path: Path, data: bytes, text: str) -> None:
    assert read(tmp_path, "notes.md", data) == text


@pytest.mark.parametrize("name", ["report.pdf", "report.txt", "report"])
def test_pdfs(tmp_path: Path, name: str) -> None:
    pdf = written_pdf(["Bridges of iron", "and of stone"])
    assert read(tmp_path, name, pdf) == "Bridges of iron\n\nand of stone"


def test_word_documents(tmp_path: Path) -> None:
    heading = '<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Bridges</w:t></w:r></w:p>'
    cells = "".join(f"<w:tr><w:tc>{paragraph(one)}</w:tc><w:tc>{paragraph('m')}</w:tc></w:tr>" for one in ("a", "b"))
    styles = (
        b'<w:styles xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:style w:type="paragraph" '
        b'w:styleId="Heading1"><w:name w:val="heading 1"/></w:style></w:styles>'
    )
    data = written_docx(
        heading + paragraph("Of iron &amp; stone") + f"<w:tbl>{cells}</w:tbl>", files={"word/styles.xml": styles}
    )
    text = read(tmp_path, "report.bin", data)
    assert text.startswith("# Bridges\n\nOf iron & stone\n\n| a | m |\n| --- | --- |\n| b | m |")


def test_pages(tmp_path: Path) -> None:
    page = (
        '<!DOCTYPE html><html><head><meta charset="iso-8859-1"><style>p {}</style><script>alert(1)</script></head>'
        '<body><h1>Größe</h1><p>12&nbsp;m <img src="data:image/png;base64,AAAA" alt="a bridge">'
        '<a href="https://example.com/">more</a></p></body></html>'
    )
    for name in ("page.html", "page", "page.txt"):
        text = read(tmp_path, name, page.encode("latin-1"))
        assert text.replace("\xa0", " ").strip() == "# Größe\n\n12 m a bridge[more](https://example.com/)"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("x.txt", b"", "x.txt is empty. Files of /proc"),
        ("x.txt", b" \n", "x.txt has no text. "),
        ("x.txt", bytes(range(256)) * 9, "x.txt is no text. Convert it first"),
        ("x", b"\x7fELF" + bytes(99), "x is no text. "),
        ("x.jpg", b"\xff\xd8\xff\xe0\x01\x02\x03\x04\x05\x06" * 9, "x.jpg is no text. "),
        ("x.pdf", written_pdf(["", ""]), "x.pdf has no text: its pages are pictures. "),
        ("x.pdf", written_pdf(["a"])[:200], "x.pdf is damaged, and can't be read. "),
        (
            "x.pdf",
            written_pdf(
                ["a"], more="/Encrypt <</Filter /Standard /V 1 /R 2 /O (%s) /U (%s) /P -1>> /ID [(a) (a)]"
            ).replace(b"%s", b"x" * 32),
            "x.pdf is encrypted. ",
        ),
        ("x.docx", written_docx(paragraph("a"))[:-40], "x.docx is damaged"),
        ("x.docx", written_docx("<w:p>"), "x.docx is damaged"),
        ("x.docx", extract.OLD_OFFICE + bytes(600), "x.docx is an old Office file, or has a password. "),
        ("x.docx", written_docx("").replace(b"word/", b"book/"), "x.docx is no Word document, but another archive. "),
        ("x.txt", b"word " * 3_300_000, "x.txt has more than 16 MB of text. "),
    ],
)
def test_what_can_not_be_read_is_refused_in_one_line(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    assert refusal(tmp_path, name, data).startswith(said)


def test_bombs_are_refused(tmp_path: Path) -> None:
    bomb = written_docx(paragraph("a"), files={"word/footnotes.xml": bytes(40_000_000)})
    assert len(bomb) < 200_000
    assert "has 40 MB when unpacked, and 32 are read. " in refusal(tmp_path, "x.docx", bomb)
    with (tmp_path / "sparse.txt").open("wb") as file:
        file.truncate(51_000_000)
    with pytest.raises(ZosiaError, match="has 51 MB, and files are read up to 50 MB"):
        documents.read(Path("sparse.txt"), tmp_path)


def test_bombs_that_are_pdfs_are_refused(tmp_path: Path) -> None:
    for times, counted in [(readers.MOST_PAGES + 1, "5,001"), (150_000, "too many")]:
        pages = written_pdf(["a"], times=times)
        assert f"has {counted} pages, and 5,000 are read. " in refusal(tmp_path, "x.pdf", pages)
    page = written_pdf(["a" * 76_000_000])
    assert len(page) < 200_000
    assert "has a page with more inside than is read. " in refusal(tmp_path, "x.pdf", page)


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("bytearray(3 << 30)", "takes more than 1 GiB of memory to read"),
        ("os.kill(os.getpid(), signal.SIGXCPU)", "takes more than 120 seconds to read"),
        ("os.abort()", "is damaged"),
    ],
)
def test_a_reader_that_is_led_astray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, said: str) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "markdownify.py").write_text(f"import os, signal\n{does}\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(library))
    assert said in refusal(tmp_path, "x.html", b"<html>")


def test_nothing_is_fetched(tmp_path: Path) -> None:
    """A picture that is elsewhere would be fetched from here."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x.png"
        server.settimeout(0.2)
        relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/image"
        drawing = "http://schemas.openxmlformats.org/drawingml/2006"
        body = (
            f'<w:p><w:r><w:drawing xmlns:a="{drawing}/main" xmlns:pic="{drawing}/picture" '
            f'xmlns:wp="{drawing}/wordprocessingDrawing"><wp:inline><wp:docPr descr="a bridge"/><a:graphic>'
            '<a:graphicData><pic:pic><pic:blipFill><a:blip r:link="i"/></pic:blipFill></pic:pic></a:graphicData>'
            "</a:graphic></wp:inline></w:drawing></w:r></w:p>"
        )
        outside = f'<Relationship Id="i" Type="{relation}" Target="{url}" TargetMode="External"/>'
        docx = written_docx(body + paragraph("text"), relations=outside)
        page = f'<!DOCTYPE html [<!ENTITY x SYSTEM "{url}">]><html><img src="{url}"><link href="{url}">text&x;'
        assert read(tmp_path, "x.docx", docx).split() == ["a", "bridge", "text"]
        assert "text" in read(tmp_path, "x.html", page.encode())
        with pytest.raises(TimeoutError):
            asked.append(server.accept())
    assert asked == []


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ZosiaError, match="pipe is no plain file"):
        documents.read(Path("pipe"), tmp_path)
    for name, said in [
        ("folder", "folder is a folder. "),
        ("/dev/zero", "/dev/zero is no plain file, but a pipe, socket or device. "),
        ("nothing", "nothing can't be read: No such file or directory. "),
        ("a\0b", "a\N{REPLACEMENT CHARACTER}b can't be read: embedded null byte"),
        ("~nobody-here/x", "~nobody-here/x is no path: "),
    ]:
        with pytest.raises(ZosiaError) as refused:
            documents.read(Path(name), tmp_path)
        assert str(refused.value).startswith(said)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux has it")
def test_files_of_proc_are_refused(tmp_path: Path) -> None:
    for name in ("status", "pagemap", "mem"):
        with pytest.raises(ZosiaError, match=r"is empty. Files of /proc"):
            documents.read(Path(f"/proc/self/{name}"), tmp_path)


def test_a_file_that_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, fstat = tmp_path / "log.txt", os.fstat
    path.write_text("one\n", encoding="utf-8")

    def written_meanwhile(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        with path.open("a", encoding="utf-8") as log:
            log.write("two\n")
        return found

    monkeypatch.setattr(os, "fstat", written_meanwhile)
    with pytest.raises(ZosiaError, match=r"^log.txt changed while it was read. Try again when it is complete$"):
        documents.read(Path("log.txt"), tmp_path)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder as a project has it."""
    for name, data in {
        "a.md": b"a",
        "b [1].md": b"b",
        "deep/c.md": b"c",
        "deep/d/e.py": b"e",
        "deep/report.pdf": written_pdf(["p"]),
        "deep/photo.jpg": b"\xff\xd8\0\0",
        "deep/none.txt": b"",
        ".env": b"secret",
        ".git/config": b"x",
        "CVS/Root": b"x",
    }.items():
        path = tmp_path / "notes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "notes/deep/loop").symlink_to("..")
    (tmp_path / "notes/link.md").symlink_to("a.md")
    (tmp_path / "notes/gone.md").symlink_to("nothing")
    os.mkfifo(tmp_path / "notes/deep/pipe")
    return tmp_path


ALL = ["a.md", "b [1].md", "deep/c.md", "deep/d/e.py", "deep/report.pdf", "link.md"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["notes"], ALL),
        (["notes/**"], ALL),
        (["notes/a.md", "notes"], [*ALL[1:], "a.md"]),  # what is named alone comes last
        (["notes", "notes/a.md", "notes/*"], [*ALL[1:], "a.md"]),
        (["notes/a.md", "notes/deep"], ["deep/c.md", "deep/d/e.py", "deep/report.pdf", "a.md"]),
        (["notes/*.md"], ["a.md", "b [1].md", "link.md"]),
        (["notes/b [1].md"], ["b [1].md"]),
        (["notes/.env", "notes/[a].md"], ["a.md", ".env"]),
        (["notes/**/*.md"], ["a.md", "b [1].md", "deep/c.md", "link.md"]),
        (["n*/deep/?.md"], ["deep/c.md"]),
        (["notes/.e*"], [".env"]),
    ],
)
def test_files_that_words_name(notes: Path, words: list[str], found: list[str]) -> None:
    some, _ = documents.attached(words, notes)
    assert [each.name for each in some] == [f"notes/{name}" for name in found]
    assert {each.name for each in some if each.named} == {word for word in words if (notes / word).is_file()}
    absolute, _ = documents.attached([str(notes / word) for word in words], Path("/"))
    assert [each.name for each in absolute] == [str(notes / each.name) for each in some]


def test_paths_in_a_line(notes: Path) -> None:
    for text, words in [
        ("notes/a.md 'notes/b [1].md'", ["notes/a.md", "notes/b [1].md"]),
        ("notes/b [1].md", ["notes/b [1].md"]),
        ("b\\ [1].md x", ["b [1].md", "x"]),
        (" ", []),
    ]:
        assert documents.split(text, notes) == words
    with pytest.raises(ZosiaError, match=r"^it's can't be split into paths: .*\. Close each quote that is opened$"):
        documents.split("it's", notes)


def test_what_is_left_out_has_a_reason(notes: Path) -> None:
    _, left = documents.attached(["notes"], notes)
    assert {str(path.relative_to("notes")): why for path, why in left} == {
        ".env": "is hidden",
        ".git": "is hidden",
        "CVS": "belongs to version control",
        "deep/loop": "is a link to a folder",
        "deep/none.txt": "is empty",
        "deep/photo.jpg": "is no text",
        "deep/pipe": "is no plain file",
        "gone.md": "can't be read: No such file or directory",
    }
    (notes / "notes/deep/report.pdf").write_bytes(b"%PDF-1.4 broken")
    found, left = documents.attached(["notes/deep"], notes)
    assert [document.name for document in found] == ["notes/deep/c.md", "notes/deep/d/e.py"]
    assert (Path("notes/deep/report.pdf"), "is damaged, and can't be read") in left
    with pytest.raises(ZosiaError, match=r"report.pdf is damaged"):
        documents.attached(["notes/deep/report.pdf"], notes)


@pytest.mark.parametrize("word", ["notes/*.txt", "notes/.git/*.md", "nowhere/*", "notes/deep/*.jpg"])
def test_a_glob_that_names_nothing(notes: Path, word: str) -> None:
    with pytest.raises(ZosiaError, match="names no file with text"):
        documents.attached([word], notes)


def test_too_many_files(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MOST_FILES", 5)
    with pytest.raises(ZosiaError, match=r"notes holds more than 5 files. Name a smaller folder"):
        documents.attached(["notes"], notes)


def test_a_text_can_not_end_early() -> None:
    text = "```\nFile: other.md\n````\nx\n"
    assert documents.framed([Document("a.md", text), Document("b.md", "b")]) == (
        "File: a.md\n`````\n```\nFile: other.md\n````\nx\n`````\n\nFile: b.md\n```\nb\n```"
    )
    assert documents.shown(Path("a\nFile: b\udcff")) == "a\N{REPLACEMENT CHARACTER}File: b\N{REPLACEMENT CHARACTER}"


def test_what_fits() -> None:
    async def count(text: str) -> int:
        assert text.startswith("File: ")
        return text.count("x")

    def fitted(room: int, *named: str) -> tuple[str, dict[str, int], str]:
        some = [
            Document(name, "x" * size, named=name in named) for name, size in zip("abcd", (3, 9, 2, 1), strict=True)
        ]
        taken, left = asyncio.run(documents.fit(some, count, room))
        missed = documents.missed(left, taken)
        names = "".join(document.name for document in taken)
        return names, {document.name: tokens for document, tokens in left}, missed[0].name if missed else ""

    assert fitted(5) == ("ac", {"b": 9, "d": 1}, "")
    assert fitted(12, "b") == ("ab", {"c": 2, "d": 1}, "")  # which is the first to have its room
    assert fitted(8, "b") == ("acd", {"b": 9}, "b")
    assert fitted(0) == ("", {"a": 3, "b": 9, "c": 2, "d": 1}, "d")
    assert fitted(9, "b") == ("b", {"a": 3, "c": 2, "d": 1}, "d")
    assert fitted(15, *"abcd") == ("abcd", {}, "")
