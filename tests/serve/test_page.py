"""The page in a real browser: photos go in, answers come out, what is wrong is said, and nothing leaves the house."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
import uvicorn

from engine.predict.predictor import Predictor
from engine.serve.app import app_of
from engine.serve.batcher import Shape
from engine.serve.model import RunModel
from engine.serve.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route


class Served(NamedTuple):
    address: str
    predictor: Predictor
    photos: list[Path]


@pytest.fixture(scope="module")
def served(pictured_run: Path, browser: Browser) -> Iterator[Served]:
    """A server of the pictured run, and some photos of its own data."""
    predictor = Predictor(pictured_run)
    data = predictor.models.recipe.data
    folder = next(path for path in map(Path, (data.test, data.train)) if path.is_dir() and any(path.rglob("*.jpg")))
    app = app_of(RunModel(predictor), Settings(shape=Shape(batch=4)))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", predictor, sorted(folder.rglob("*.jpg"))[:6])
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(served: Served, browser: Browser) -> Iterator[Page]:
    """The page, open, its model ready. At its end: no error in its console, and no request to anywhere else."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    page = context.new_page()
    errors: list[str] = []
    outside: list[str] = []
    page.on("console", lambda one: errors.append(one.text) if one.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request",
        lambda one: None if one.url.startswith((served.address, "blob:", "data:")) else outside.append(one.url),
    )
    page.goto(served.address)
    told(page, "#model", "classes")
    yield page
    context.close()
    assert outside == [] and [one for one in errors if "Failed to load resource" not in one] == []


def told(page: Page, place: str, pattern: str) -> None:
    """Wait until it is. (Playwright's wait_for_function evaluates text, which the page's policy forbids.)"""
    from playwright.sync_api import expect

    expect(page.locator(place)).to_have_text(re.compile(pattern), timeout=30_000)


def give(page: Page, *files: Path | tuple[str, bytes]) -> None:
    """Choose them, and wait until all are done."""
    parts = [(file.name, file.read_bytes()) if isinstance(file, Path) else file for file in files]
    page.set_input_files(
        "#files", [{"name": name, "mimeType": "image/jpeg", "buffer": content} for name, content in parts]
    )
    told(page, "#told", r"^(\d+) of \1 ")


def test_photos_are_answered_by_bars_and_a_bad_file_says_what_is_wrong(
    page: Page, served: Served, screenshots: Path
) -> None:
    give(page, *served.photos[:5], ("쪽지.jpg", b"no image at all\n" * 9))
    assert page.text_content("#told") == "6 of 6 photos done, 1 of them without an answer."
    cards = page.query_selector_all(".photo")
    assert len(cards) == 6 and "is not an image of a known format" in (cards[5].text_content() or "")
    shown = min(5, len(served.predictor.classes))
    for card, photo in zip(cards, served.photos[:5], strict=False):
        assert card.query_selector("h2").text_content() == photo.name  # type: ignore[union-attr]
        p_C = np.sort(served.predictor([photo]).probabilities_NC[0])[::-1][:shown]
        values = [one.text_content() for one in card.query_selector_all(".value")]
        assert values == [f"{100 * p:.1f}%" for p in p_C.tolist()]
        tracks = card.query_selector_all(".track")
        widths = [one.evaluate("it => it.firstChild.offsetWidth / it.offsetWidth") for one in tracks]
        np.testing.assert_allclose(widths, p_C, atol=0.01)
    page.click(".look")
    told(page, ".look >> nth=0", "Show the photo")
    page.evaluate("document.querySelector('.picture img').decode()")
    for scheme, width, name in (("light", 1280, "page"), ("dark", 1280, "page_dark"), ("light", 360, "page_narrow")):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        path = screenshots / f"{name}.png"
        page.screenshot(path=path)
        assert path.stat().st_size < 300_000
        assert max(one.evaluate("it => it.offsetHeight") for one in page.query_selector_all(".look")) < 60


def test_a_batch_becomes_a_table_with_the_models_own_numbers(page: Page, served: Served) -> None:
    give(page, *served.photos, ('a,"b".jpg', b""))
    with page.expect_download() as started:
        page.click("#csv")
    text = Path(started.value.path()).read_text("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    expected = served.predictor({"path": [str(path) for path in served.photos]})
    assert [row["file"] for row in rows] == [*(path.name for path in served.photos), 'a,"b".jpg']
    for number, row in enumerate(rows[:-1]):
        assert row["prediction"] == row["class_1"] == expected["prediction"][number] and row["status"] == "200"
        assert np.float32(row["confidence"]) == expected["confidence"][number]
        if "set" in expected:
            assert row["set"] == " | ".join(expected["set"][number])
    assert rows[-1]["status"] == "422" and rows[-1]["error"] == "The file is empty (0 bytes)."


def test_where_the_model_looked_is_shown_and_hidden_again(page: Page, served: Served) -> None:
    give(page, served.photos[0])
    plain = page.get_attribute(".picture img", "src")
    page.focus(".look")
    page.keyboard.press("Enter")
    told(page, ".look", "Show the photo")
    assert (
        page.get_attribute(".picture img", "src") != plain
        and page.evaluate("document.activeElement.className") == "look"
    )
    assert page.evaluate("document.querySelector('.picture img').decode().then(() => true)")
    page.keyboard.press("Enter")
    told(page, ".look", "Where did it look?")
    assert page.get_attribute(".picture img", "src") == plain


def test_a_busy_server_is_asked_again(page: Page, served: Served) -> None:
    asked: list[str] = []

    def busy_once(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.fulfill(status=503, headers={"Retry-After": "1"}, json={"detail": "busy"})
        else:
            route.continue_()

    page.route("**/predict*", busy_once)
    give(page, served.photos[0])
    assert len(asked) == 2 and page.text_content("#told") == "1 of 1 photo done."


def test_an_answer_that_breaks_off_stops_nothing(page: Page, served: Served) -> None:
    asked: list[str] = []

    def broken_once(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(body='{"photos": [') if len(asked) == 1 else route.continue_()

    page.route("**/predict*", broken_once)
    give(page, *served.photos[:3])
    assert page.text_content("#told") == "3 of 3 photos done, 1 of them without an answer."
    assert page.text_content(".notes .bad") == "The server's answer broke off. Try again later."


def test_what_stands_beside_an_answer_is_said_and_names_are_text(page: Page, served: Served) -> None:
    name = "<b onclick=alert(1)>모자</b>"
    entry = {
        "status": 200,
        "prediction": name,
        "confidence": 0.5,
        "top": [{"name": name, "probability": 0.5}],
        "set": [name, "bag"],
        "abstain": True,
        "strange": True,
        "near": "train/7.jpg",
    }
    page.route("**/predict*", lambda route: route.fulfill(json={"photos": [entry]}))
    give(page, served.photos[0])
    assert [one.text_content() for one in page.query_selector_all(".notes li")] == [
        "Not like anything I was trained on.",
        "Not sure enough to answer.",
        f"Could be: {name}, bag.",
        "Nearly the same as a training photo: train/7.jpg.",
    ]
    assert page.text_content(".ranks .name") == name and page.query_selector(".ranks b") is None


def test_photos_are_pasted_dropped_and_taken(page: Page, served: Served) -> None:
    content = json.dumps(list(served.photos[0].read_bytes()))
    page.evaluate(
        """(bytes) => {
          const hold = (name) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(JSON.parse(bytes))], name, {type: "image/jpeg"}));
            return data;
          };
          dispatchEvent(new ClipboardEvent("paste", {clipboardData: hold("image.jpg")}));
          const drop = new DragEvent("drop", {dataTransfer: hold("dropped.jpg"), bubbles: true});
          document.getElementById("drop").dispatchEvent(drop);
          const canvas = document.createElement("canvas");
          setInterval(() => canvas.getContext("2d").fillRect(0, 0, 99, 99), 20);
          navigator.mediaDevices.getUserMedia = async () => canvas.captureStream(25);
        }""",
        content,
    )
    page.focus("#camera")
    page.keyboard.press("Enter")
    for _ in range(500):
        if page.evaluate("document.getElementById('video').videoWidth"):
            break
        page.wait_for_timeout(20)
    page.click("#take")
    told(page, "#told", "^3 of 3 ")
    names = [one.text_content() for one in page.query_selector_all(".photo h2")]
    assert sorted(filter(None, names)) == ["dropped.jpg", "pasted-1.jpg", "photo-2.jpg"]
    assert page.query_selector(".notes .bad") is None


def test_the_keyboard_reaches_everything_in_order(page: Page, served: Served) -> None:
    give(page, *served.photos[:2])
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached == ["files", "camera", "csv", "clear"]
    page.focus("#clear")
    page.keyboard.press("Enter")
    assert page.query_selector(".photo") is None and page.text_content("#told") == ""
