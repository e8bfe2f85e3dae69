"""The manual in a real browser: on a phone and on a desk, in light and dark, from a server and from files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, TimeoutError, ViewportSize, expect

Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
PALETTE = {"light": "default", "dark": "slate"}  # Material's names
PHONE, DESK = ViewportSize(width=390, height=844), ViewportSize(width=1440, height=900)
# What is wider than the page, unless it is scrolled within.
LONGEST = 20_000  # ms
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
LINKS = "[...document.querySelectorAll('a[href]')].map(link => link.href)"
IDS = "[...document.querySelectorAll('[id]')].map(node => node.id)"
# Contrast of a text's colour with its ground, as WCAG counts it.
CONTRAST = """([text, ground]) => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[0-9.]+/g).map((n) => n / 255).map(
      (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const of = (query, name) => light(getComputedStyle(document.querySelector(query))[name]);
  const pair = [of(text, "fill"), of(ground, ground === "body" ? "backgroundColor" : "fill")].sort((a, b) => b - a);
  return (pair[0] + 0.05) / (pair[1] + 0.05);
}"""


@dataclass
class Seen:
    """Complaints of a page, and the addresses that it requested."""

    complaints: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)

    def console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def failed(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # its icon was still on the way when the page was left
            self.complaints.append(f"{request.failure}: {request.url}")

    def request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("file", "data", "blob", "about") and parts.hostname != "127.0.0.1":
            self.strange.append(request.url)


@contextmanager
def opened(browser: Browser, viewport: ViewportSize, scheme: Scheme = "light") -> Iterator[tuple[Page, Seen]]:
    """A page of its own, and what is seen of it."""
    context = browser.new_context(viewport=viewport, color_scheme=scheme, device_scale_factor=1)
    page, seen = context.new_page(), Seen()
    page.on("console", seen.console)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("request", seen.request)
    page.on("requestfailed", seen.failed)
    try:
        yield page, seen
    finally:
        context.close()


def test_pages_render(browser: Browser, server: str, pages: list[str], root: Path) -> None:
    """Each page is loaded in one look and put into the others; which one it is loaded in differs from page to page."""
    pictures = root / "build/test-logs/site"
    looks = [(viewport, scheme) for viewport in (PHONE, DESK) for scheme in SCHEMES]
    with opened(browser, DESK) as (page, seen):
        for number, name in enumerate(pages):
            page.goto("about:blank")  # of which nothing is left to be drawn again
            for viewport, scheme in [*looks[number % 4 :], *looks[: number % 4]]:
                page.set_viewport_size(viewport)
                page.emulate_media(color_scheme=scheme)
                if first := page.url == "about:blank":
                    page.goto(f"{server}/{name}")
                    assert page.locator("h1").count() == 1, name
                look = f"{Path(name).stem}-{viewport['width']}-{scheme}"
                try:
                    body = page.locator("body")
                    expect(body).to_have_attribute("data-md-color-scheme", PALETTE[scheme], timeout=LONGEST)
                    if not first:  # its parts move until they are in place
                        with suppress(TimeoutError):
                            page.wait_for_function(f"{OVERFLOW} === 0", timeout=LONGEST)
                    assert page.evaluate(OVERFLOW) == 0, f"{look} is wider than the screen"
                except AssertionError:
                    page.screenshot(path=pictures / f"{look}.png", full_page=True)
                    raise
    assert seen == Seen()


def test_drawings_can_be_read(browser: Browser, server: str, root: Path) -> None:
    plots = (root / "docs/benchmarks.md").read_text(encoding="utf-8").count("<!-- plot:")
    for scheme in SCHEMES:
        with opened(browser, PHONE, scheme) as (page, _):
            page.goto(f"{server}/architecture.html")
            drawings = page.locator(".zosia-graph svg")
            assert drawings.count() == 4
            assert page.evaluate(CONTRAST, [".zosia-graph .node text", ".zosia-graph .node path"]) > 7
            assert page.evaluate(CONTRAST, [".zosia-graph .edge text", "body"]) > 7
            for at in range(drawings.count()):
                drawing, frame = drawings.nth(at), page.locator(".zosia-graph").nth(at)
                natural = drawing.evaluate("svg => svg.viewBox.baseVal.width * 4 / 3")  # points in pixels
                assert drawing.evaluate("svg => svg.getBoundingClientRect().width") == pytest.approx(natural, rel=0.02)
                assert frame.evaluate("figure => figure.clientWidth") <= PHONE["width"]
            page.goto(f"{server}/benchmarks.html")
            assert page.locator(".zosia-plot svg").count() == plots > 1
            assert page.evaluate(CONTRAST, [".zosia-plot text", "body"]) > 7


def test_links_and_anchors_are_alive(browser: Browser, site: Path, pages: list[str]) -> None:
    ids: dict[str, set[str]] = {}
    links: dict[str, list[str]] = {}
    with opened(browser, DESK) as (page, seen):
        for name in pages:
            page.goto((site / name).as_uri())
            links[name], ids[name] = page.evaluate(LINKS), set(page.evaluate(IDS))
    assert seen == Seen()
    dead = []
    for name, targets in links.items():
        for target in targets:
            address, anchor = urldefrag(target)
            if urlsplit(address).scheme != "file":
                assert address.startswith("https://"), target
                continue
            path = Path(unquote(urlsplit(address).path))
            if not path.is_file() or (anchor and anchor not in ids[str(path.relative_to(site))]):
                dead.append(f"{name}: {target}")
    assert sum(map(len, links.values())) > 100
    assert dead == []


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("origin", ["server", "files"])
def test_search_finds(browser: Browser, server: str, site: Path, viewport: ViewportSize, origin: str) -> None:
    start = f"{server}/index.html" if origin == "server" else (site / "index.html").as_uri()
    with opened(browser, viewport) as (page, seen):
        page.goto(start)
        if viewport is PHONE:
            page.locator("label.md-header__button[for=__search]").click()
        page.locator("input.md-search__input").click()
        page.keyboard.type("Parallels")
        result = page.locator(".md-search-result__link[href*='iso.html']").first
        result.wait_for(timeout=LONGEST)
        others = page.locator(".md-search-result__link:not([href*='iso.html'])")  # of half the word
        expect(others).to_have_count(0, timeout=LONGEST)
        result.click()
        page.wait_for_url("**/iso.html*")
        page.locator("mark", has_text="Parallels").first.wait_for(state="attached", timeout=LONGEST)
    assert seen == Seen()


def test_an_address_that_leads_nowhere(browser: Browser, server: str) -> None:
    with opened(browser, DESK) as (page, seen):
        page.goto(f"{server}/404.html")
        assert "404" in page.inner_text("h1")
    assert seen == Seen()


def test_the_palette_is_the_readers_choice(browser: Browser, server: str) -> None:
    scheme: Callable[[Page], Any] = lambda page: page.get_attribute("body", "data-md-color-scheme")  # noqa: E731
    with opened(browser, DESK, "dark") as (page, seen):
        page.goto(f"{server}/index.html")
        assert scheme(page) == "slate"
        page.locator("label[title='Always light']").click()
        assert scheme(page) == "default"
        page.goto(f"{server}/models.html")
        assert scheme(page) == "default", "it is remembered"
    assert seen == Seen()
