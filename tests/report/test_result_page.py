"""The report in a real browser: by keyboard, in light and dark, wide and narrow; and its pictures for the docs."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Open = Callable[..., "Page"]

CONTRAST = """() => {
  const light = (c) => { const v = c.map((x) => (x /= 255) <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
    return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const ground = (node) => { for (; node; node = node.parentElement) {
    const c = parse(getComputedStyle(node).backgroundColor); if (c.length === 3 || c[3] === 1) return c.slice(0, 3); }
    return [255, 255, 255]; };
  const poor = [];
  for (const node of document.querySelectorAll("p, h1, h2, h3, h4, td, th, dt, dd, li, a, button, code, pre, span")) {
    if (!node.checkVisibility() || ![...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim())) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color).slice(0, 3)), light(ground(node))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) poor.push(node.className + ": " + node.textContent.trim().slice(0, 40));
  }
  return poor;
}"""


@pytest.fixture
def open_page(browser: Browser, reported: Path) -> Iterator[Open]:
    """Opens the report; whatever the page complains of fails the test in the end."""
    contexts, complaints = [], []

    def opened(width: int = 1280, height: int = 900, dark: bool = False) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.goto(reported.as_uri())
        page.wait_for_function("document.querySelector('#matrix').dataset.zoom")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints


def test_tables_sort_by_keyboard(open_page: Open) -> None:
    page = open_page()
    photos = page.locator("#class-table thead button", has_text="recall")
    photos.focus()
    recalls = "[...document.querySelectorAll('#class-table tbody tr')].map((row) => Number(row.cells[3].dataset.v))"
    page.keyboard.press("Enter")
    assert page.evaluate(recalls) == sorted(page.evaluate(recalls), reverse=True)
    assert page.locator("#class-table th[aria-sort]").get_attribute("aria-sort") == "descending"
    page.keyboard.press("Space")
    assert page.evaluate(recalls) == sorted(page.evaluate(recalls))
    assert page.locator("#class-table th[aria-sort]").get_attribute("aria-sort") == "ascending"


def test_the_matrix_is_read_by_keyboard(open_page: Open) -> None:
    page = open_page()
    matrix, said = page.locator("#matrix"), page.locator("#matrix-said")
    matrix.focus()
    page.keyboard.press("n")
    worst = said.inner_text()
    assert worst.startswith("True ") and ", answered " in worst
    page.keyboard.press("Home")
    page.keyboard.press("PageUp")
    assert "answered rightly" in said.inner_text()
    page.keyboard.press("ArrowRight")
    assert said.inner_text().startswith("True ")
    page.keyboard.press("+")
    classes = int(page.evaluate("JSON.parse(document.querySelector('#matrix-data').textContent).names.length"))
    zoom = float(str(matrix.get_attribute("data-zoom")))
    assert zoom > 1 if classes > 4 else zoom == 1  # four are always seen
    page.keyboard.press("0")
    assert matrix.get_attribute("data-zoom") == "1.00"
    before = said.inner_text()
    page.locator("#matrix-order").select_option("name")
    matrix.focus()
    assert said.inner_text() == before  # the same cell, elsewhere


def test_photos_open_large(open_page: Open) -> None:
    page = open_page()
    shots = page.locator("#photos .gallery").first.locator(".shot")
    shots.first.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog")
    assert dialog.is_visible() and dialog.locator(".place").inner_text() == f"1 of {shots.count()}"
    assert dialog.locator("h3").inner_text() == shots.first.get_attribute("data-title")
    page.keyboard.press("ArrowRight")
    assert dialog.locator(".place").inner_text().startswith("2 of")
    page.keyboard.press("h")
    assert page.locator("dialog .toggle").get_attribute("aria-pressed") == "true"
    assert page.locator("dialog img.heat").evaluate("(img) => getComputedStyle(img.parentElement).display") != "none"
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert shots.nth(1).evaluate("(shot) => shot === document.activeElement")


def test_the_first_key_skips_to_the_report(open_page: Open) -> None:
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")


@pytest.mark.parametrize("width", [360, 768, 1600])
def test_nothing_is_wider_than_the_window(open_page: Open, width: int) -> None:
    page = open_page(width)
    page.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_what_is_written_can_be_read(open_page: Open, dark: bool) -> None:
    page = open_page(dark=dark)
    page.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")
    assert page.evaluate(CONTRAST) == []


def test_every_control_and_picture_has_a_name(open_page: Open) -> None:
    page = open_page()
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, canvas, select, input, svg[role=img], [role=region]")].filter(
        (node) => node.checkVisibility() && !(node.ariaLabel || node.textContent.trim() || node.labels?.length ||
        node.getAttribute("aria-labelledby")))"""
    )
    assert nameless == []


def test_pictures_for_the_docs(open_page: Open, screenshots: Path) -> None:
    """The top of the page; in 256 colours, which is a third of the bytes."""
    for name, width, height, dark in (
        ("report", 1280, 1240, False),
        ("report_dark", 1280, 1240, True),
        ("report_narrow", 390, 1000, False),
    ):
        page = open_page(width, height, dark)
        path = screenshots / f"{name}.png"
        with Image.open(io.BytesIO(page.screenshot())) as picture:
            picture.convert("RGB").quantize(256).save(path, optimize=True)
        assert 5_000 < path.stat().st_size < 300_000
