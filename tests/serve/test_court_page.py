"""The court's page: what its server answers, to whom, and how a person goes through it in a real browser."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engine.court.court import Court
from engine.errors import EngineError
from engine.serve.court_page import court_app, serve, write_court
from engine.store.run_folder import RunFolder

if TYPE_CHECKING:
    from fastapi.testclient import TestClient
    from playwright.sync_api import Browser, Page

HOST = "127.0.0.1:8900"
PLACES = range(20)


@pytest.fixture(scope="module")
def opened(pictured_run: Path) -> Court:
    return Court.open(RunFolder(pictured_run))


@pytest.fixture
def court(opened: Court, tmp_path: Path) -> Court:
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(opened.run.claim, folder)
    return Court(RunFolder(folder), opened.ranking, opened.photos, opened.alike)


@pytest.fixture
def client(court: Court) -> TestClient:
    from fastapi.testclient import TestClient

    app = court_app(court, PLACES, "minji", "secret", lambda: None, HOST)
    return TestClient(app, base_url=f"http://{HOST}")


def rows(court: Court) -> list[dict[str, str]]:
    with court.file.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_suspects_are_told_and_decisions_written_at_once(client: TestClient, court: Court) -> None:
    told = client.get("/secret/court").json()
    first = told["cases"][0]
    assert len(told["cases"]) == 20 and first["id"] == court.case(0).id and told["decided"] == {}
    answer = client.post("/secret/decide", json={"id": first["id"], "decision": "relabel", "new": "새 이름"})
    assert answer.json() == {first["id"]: {"decision": "relabel", "new": "새 이름", "who": "minji"}}
    assert rows(court)[0]["new"] == "새 이름" and rows(court)[0]["given"] == first["label"]
    court.decide(told["cases"][1]["id"], "drop", who="jun")  # somebody else, meanwhile
    assert len(client.get("/secret/decided").json()) == 2
    undone = client.post("/secret/decide", json={"id": first["id"], "decision": "undo"}).json()
    assert list(undone) == [told["cases"][1]["id"]] and len(rows(court)) == 3


def test_photos_are_shown_by_number_and_nothing_else_is(client: TestClient) -> None:
    case = client.get("/secret/court").json()["cases"][0]
    for number in (case["photo"], *(one["photo"] for one in case["nearest"])):
        answer = client.get(f"/secret/photo/{number}?small=1")
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg"
    for path in ("photo/100000", "photo/-1", "photo/..%2F..%2Fetc%2Fpasswd", "photo/x", "etc/passwd", "openapi.json"):
        assert client.get(f"/secret/{path}").status_code in (404, 422)


def test_who_does_not_know_the_secret_or_comes_from_elsewhere_is_refused(client: TestClient, court: Court) -> None:
    wish = {"id": court.case(0).id, "decision": "drop"}
    assert client.get("/court").status_code == 404
    assert client.get("/guess/court").status_code == 404
    assert client.get("/secret/court", headers={"Host": "evil.example:8900"}).status_code == 421
    evil = {"Origin": "http://evil.example"}
    assert client.post("/secret/decide", json=wish, headers=evil).status_code == 403
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # what a page of another site can send unasked
    assert client.post("/secret/decide", content="id=1&decision=drop", headers=form).status_code == 422
    assert client.post("/secret/decide", content=b"x" * 100_000).status_code == 413
    assert client.post("/secret/decide", content=iter([b"x" * 100_000])).status_code == 411  # and says no length
    assert not court.file.exists()


def test_what_is_no_decision_is_refused_in_words(client: TestClient, court: Court) -> None:
    id_ = court.case(0).id
    for wish, status in (
        ({"id": "nobody", "decision": "drop"}, 404),
        ({"id": id_, "decision": "relabel"}, 422),
        ({"id": id_, "decision": "undo"}, 422),
        ({"id": id_, "decision": "hang"}, 422),
    ):
        assert client.post("/secret/decide", json=wish).status_code == status
    assert not court.file.exists()


def test_a_port_that_is_taken_is_named(court: Court) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(EngineError, match="--port"):
            serve(court, PLACES, "minji", taken.getsockname()[1], open_browser=False)


def test_the_page_in_one_file_asks_nothing_of_a_network(court: Court, tmp_path: Path) -> None:
    write_court(court, range(3), tmp_path / "court.html")
    page = (tmp_path / "court.html").read_text("utf-8")
    content = json.loads(re.search(r"const CONTENT = (.*);\n", page).group(1))  # type: ignore[union-attr]
    assert len(content["cases"]) == 3
    assert all(one.startswith("data:image/jpeg") for one in content["photos"].values())
    assert "://" not in re.sub(r"data:image/jpeg;base64,[^\"]*", "", page)
    assert str(Path(court.photos.manifest.paths[0]).parent) not in page  # nothing of the disk it was made on


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture
def address(court: Court) -> Iterator[str]:
    """Of the court's server, which has ended at the end."""
    told: list[str] = []
    arguments: dict[str, Any] = {"open_browser": False, "tell": told.append}
    thread = threading.Thread(target=serve, args=(court, PLACES, "민지"), kwargs=arguments)
    thread.start()
    while not told:
        time.sleep(0.02)
    found = re.search(r"http://127\.0\.0\.1:\d+/\S+/", told[0])
    assert found is not None
    yield found.group()
    import httpx

    with contextlib.suppress(httpx.TransportError):  # it may be about to end
        httpx.post(f"{found.group()}end")
    thread.join(20)
    assert not thread.is_alive()


def ready(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("body[data-ready]")


def wait(page: Page, selector: str, text: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_text(text)


def picture(page: Page, path: Path) -> None:
    page.wait_for_load_state("networkidle")
    page.screenshot(path=path)


def test_a_person_goes_through_by_keyboard(court: Court, address: str, browser: Browser, screenshots: Path) -> None:
    errors: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.on("pageerror", lambda error: errors.append(str(error)))
    ready(page, address)
    picture(page, screenshots / "court.png")
    cases = [court.case(place) for place in range(6)]
    assert page.inner_text("#given") == cases[0].label
    page.keyboard.press("k")
    wait(page, "#id", cases[1].id)
    page.keyboard.press("1")
    wait(page, "#id", cases[2].id)
    page.keyboard.press("/")
    page.keyboard.type("새 이름")
    page.keyboard.press("Enter")
    wait(page, "#id", cases[3].id)
    page.keyboard.press("d")
    wait(page, "#id", cases[4].id)
    page.keyboard.press("u")
    wait(page, "#id", cases[3].id)
    page.keyboard.press("t")
    wait(page, "#id", cases[4].id)
    assert page.inner_text("#count") == "4 of 20 decided"
    assert [(row["id"], row["decision"], row["new"], row["who"]) for row in rows(court)] == [
        (cases[0].id, "keep", "", "민지"),
        (cases[1].id, "relabel", cases[1].instead[0][0], "민지"),
        (cases[2].id, "relabel", "새 이름", "민지"),
        (cases[3].id, "drop", "", "민지"),
        (cases[3].id, "undo", "", "민지"),
        (cases[3].id, "unsure", "", "민지"),
    ]
    page.keyboard.press("ArrowRight")
    wait(page, "#id", cases[5].id)
    page.keyboard.press("z")
    assert page.locator("#stage.zoomed").count() == 1
    page.keyboard.press("q")
    page.wait_for_selector("text=Every decision is saved")
    assert errors == []
    page.close()


def test_undo_that_is_not_saved_can_be_tried_again(court: Court, address: str, browser: Browser) -> None:
    page = browser.new_page()
    ready(page, address)
    for count in (1, 2):
        page.keyboard.press("k")
        wait(page, "#count", f"{count} of 20 decided")
    page.route("**/decide", lambda route: route.abort())
    page.keyboard.press("u")
    page.wait_for_selector("#told:has-text('Not saved')")
    page.unroute("**/decide")
    page.keyboard.press("u")
    wait(page, "#count", "1 of 20 decided")
    page.close()
    assert list(court.decided()) == [court.case(0).id]


def test_the_page_fits_a_telephone_and_the_dark(
    court: Court, address: str, browser: Browser, screenshots: Path
) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme="dark")
    ready(page, address)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("footer [data-do=drop]").click()
    wait(page, "#count", "1 of 20 decided")
    if not os.environ.get("ENGINE_SCREENSHOTS"):
        picture(page, screenshots / "court_narrow.png")
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    bar, last = (page.locator(one).bounding_box() for one in ("footer", "#id"))
    assert bar and last and last["y"] + last["height"] <= bar["y"] and bar["y"] + bar["height"] <= 740.5
    page.evaluate("scrollTo(0, 0)")
    at_top = page.locator("footer").bounding_box()
    assert at_top and at_top["y"] + at_top["height"] <= 740.5
    page.close()


def test_the_file_keeps_decisions_until_they_are_downloaded(court: Court, browser: Browser, tmp_path: Path) -> None:
    write_court(court, range(5), tmp_path / "court.html")
    page = browser.new_page()
    ready(page, (tmp_path / "court.html").as_uri())
    page.fill("#who input", "jun")
    page.locator("#who input").blur()
    page.keyboard.press("d")
    page.keyboard.press("1")
    wait(page, "#count", "2 of 5 decided")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.inner_text("#count") == "2 of 5 decided"
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "decisions.csv")
    page.close()
    assert court.merge(tmp_path / "decisions.csv") == 2
    assert {one.kind: one.who for one in court.decided().values()} == {"drop": "jun", "relabel": "jun"}
