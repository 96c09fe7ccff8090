"""What the server answers: the bits of `engine infer`, a status for each photo, limits that hold, and its own state."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families as families

from engine.errors import DataError
from engine.predict.predictor import Predictor
from engine.quarantine import Fault, FaultKind
from engine.serve.app import app_of
from engine.serve.batcher import Shape
from engine.serve.heat import shown
from engine.serve.model import Answer, RunModel
from engine.serve.photo import Photo
from engine.serve.problems import Problem
from engine.serve.settings import Settings
from engine.serve.uploads import Limits


def jpeg(number: int = 0, height: int = 40, width: int = 56) -> bytes:
    coarse = np.random.default_rng(number).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height)).save(file, "JPEG")
    return file.getvalue()


def png(height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


GOOD = jpeg()
CUT = GOOD[: len(GOOD) // 2]


@pytest.fixture(scope="module")
def predictor(finished_run: Path) -> Predictor:
    return Predictor(finished_run)


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> Iterator[TestClient]:
    with TestClient(app_of(RunModel(predictor), Settings(shape=Shape(batch=8)))) as client:
        yield warm(client)


def warm(client: TestClient) -> TestClient:
    """Once its model is."""
    client.app.state.service.warm.result(60)  # type: ignore[attr-defined]
    return client


class Plain:
    """A model of two classes without a network: the answer is 0.25 and 0.75; `work` is done at each batch."""

    classes = ("모자", "bag")
    heatmaps = False

    def __init__(self, work: Callable[[Sequence[Photo]], None] = lambda photos: None) -> None:
        self.work = work
        self.about: dict[str, Any] = {"kind": "plain"}

    def __call__(self, photos: Sequence[Photo]) -> list[Answer | Fault]:
        self.work(photos)
        return [Answer(np.array([0.25, 0.75], dtype=np.float32), {}) for _ in photos]

    def heatmap(self, photo: Photo, label: str) -> Any:
        raise AssertionError("it has none")


def plain(**settings: Any) -> TestClient:
    return TestClient(app_of(Plain(), Settings(**settings)), raise_server_exceptions=False)


def form(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("photos", (f"{number}.jpg", content)) for number, content in enumerate(contents)]


def kind(response: Any) -> tuple[int, str]:
    told = response.json()
    assert set(told) == {"error", "kind", "detail", "remedy"} and all(told.values())
    return response.status_code, told["kind"]


def test_answers_are_the_predictors_to_the_last_bit_in_any_company(
    client: TestClient, predictor: Predictor, signs: Path
) -> None:
    photos = [path.read_bytes() for path in sorted((signs / "test").iterdir())]
    expected = predictor({"bytes": photos})
    everything = {"top": len(predictor.classes)}
    together = client.post("/predict", files=form(*photos), params=everything).json()["photos"]
    alone = [client.post("/predict", files=form(photo), params=everything).json()["photos"][0] for photo in photos[:5]]
    for row, answer in enumerate([*together, *alone]):
        row = row % len(photos)
        for ranked in answer["top"]:
            assert np.float32(ranked["probability"]) == expected[f"p:{ranked['name']}"][row]
        assert [one["probability"] for one in answer["top"]] == sorted(
            (one["probability"] for one in answer["top"]), reverse=True
        )
        assert answer["prediction"] == expected["prediction"][row]
        assert np.float32(answer["confidence"]) == expected["confidence"][row]
        beside = answer.keys() - {"name", "status", "prediction", "confidence", "top"}
        assert beside == {name for name in expected if not name.startswith("p:")} - {
            "prediction",
            "confidence",
            "status",
        }
        assert {name: answer[name] for name in beside} == {name: expected[name][row] for name in beside}
    assert len(together) == len(photos) and {"set", "strange", "strangeness"} <= expected.keys()


def test_photos_come_as_a_form_as_base64_or_as_the_body(client: TestClient) -> None:
    encoded = {"photos": [{"name": "모자.jpg", "base64": base64.b64encode(GOOD).decode()}]}
    ways = [
        client.post("/predict", files={"any": ("모자.jpg", GOOD)}, data={"other": "field"}),
        client.post("/predict", json=encoded),
        client.post("/predict", content=GOOD, headers={"content-type": "image/jpeg"}),
        client.post("/predict", content=GOOD, headers={"content-type": "application/octet-stream"}),
    ]
    assert [way.status_code for way in ways] == [200] * 4
    entries = [way.json()["photos"][0] for way in ways]
    assert [entry.pop("name") for entry in entries] == ["모자.jpg", "모자.jpg", "", ""]
    assert entries[0] == entries[1] == entries[2] == entries[3]


BAD = {
    "empty": (b"", 422, "empty"),
    "text": (b"no image at all\n" * 9, 415, "not an image"),
    "web page": (b"<!doctype html><html></html>", 415, "not an image"),
    "cut off": (CUT, 422, "damaged"),
    "header only": (GOOD[:40], 415, "not an image"),
    "bomb": (png(4000, 4000), 422, "too many pixels"),
    "heavy": (GOOD + bytes(70_000), 413, "too many bytes"),
}


@pytest.fixture(scope="module")
def strict(predictor: Predictor) -> Iterator[TestClient]:
    """Up to 8 photos of 60 kB and 4 megapixels each."""
    settings = Settings(shape=Shape(batch=8), limits=Limits(60_000, 400_000, 8), pixels=4e6)
    with TestClient(app_of(RunModel(predictor), settings)) as client:
        yield warm(client)


@pytest.mark.parametrize("name", BAD)
def test_each_kind_of_bad_photo_has_its_status(strict: TestClient, name: str) -> None:
    content, status, found = BAD[name]
    assert kind(strict.post("/predict", files=form(content))) == (status, found)
    assert kind(strict.post("/predict", content=content, headers={"content-type": "image/jpeg"})) == (status, found)


def test_bad_photos_cost_their_neighbours_nothing(strict: TestClient) -> None:
    alone = strict.post("/predict", files=form(GOOD)).json()["photos"][0]
    response = strict.post("/predict", files=form(*(content for content, _, _ in BAD.values()), GOOD))
    *bad, good = response.json()["photos"]
    assert response.status_code == 200 and good == alone | {"name": "7.jpg"}
    assert [(entry["status"], entry["kind"]) for entry in bad] == [(status, kind) for _, status, kind in BAD.values()]
    assert [entry["name"] for entry in bad] == [f"{number}.jpg" for number in range(7)]


REQUESTS: dict[str, tuple[dict[str, Any], int, str]] = {
    "no photo in the form": ({"data": {"a": "b"}, "files": {"": ("", b"")}}, 400, "no photo"),
    "no photo in JSON": ({"json": {"photos": []}}, 400, "no photo"),
    "no JSON": ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "malformed"),
    "deep JSON": ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400, "malformed"),
    "other JSON": ({"json": ["a"]}, 400, "malformed"),
    "two in one": ({"json": {"photos": [{"base64": "", "url": ""}]}}, 400, "malformed"),
    "a number": ({"json": {"photos": [{"base64": 7}]}}, 400, "malformed"),
    "not base64": ({"json": {"photos": [{"base64": "data:image/jpeg;base64,AAAA"}]}}, 422, "not base64"),
    "an address": ({"json": {"photos": [{"url": "http://example.com/a.jpg"}]}}, 403, "url off"),
    "no type": ({"content": GOOD}, 415, "media type"),
    "another type": ({"content": GOOD, "headers": {"content-type": "text/plain"}}, 415, "media type"),
    "no boundary": ({"content": GOOD, "headers": {"content-type": "multipart/form-data"}}, 400, "malformed"),
    "no form": ({"content": GOOD, "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, "malformed"),
    "a form cut off": (
        {
            "content": b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\nabc',
            "headers": {"content-type": "multipart/form-data; boundary=x"},
        },
        400,
        "malformed",
    ),
    "too many": ({"files": form(*[b"a"] * 9)}, 413, "too many photos"),
    "too many in JSON": ({"json": {"photos": [{"base64": ""}] * 9}}, 413, "too many photos"),
    "too large": ({"files": form(*[bytes(59_000)] * 8)}, 413, "too many bytes"),
    "no classes": ({"files": form(GOOD), "params": {"top": 0}}, 422, "value"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_each_kind_of_bad_request_has_its_status(strict: TestClient, name: str) -> None:
    request, status, found = REQUESTS[name]
    assert kind(strict.post("/predict", **request)) == (status, found)


def test_other_paths_and_methods_are_told_in_the_same_form(client: TestClient) -> None:
    assert kind(client.get("/other")) == (404, "no such page")
    assert kind(client.get("/predict")) == (405, "method")


def test_a_heatmap_is_the_predictors_as_a_picture_or_as_numbers(strict: TestClient, predictor: Predictor) -> None:
    label = predictor.classes[-1]
    told = strict.post("/heatmap", files=form(GOOD), params={"format": "json", "label": label}).json()
    expected_HW = predictor.heatmap(GOOD, label)
    assert (told["label"], told["height"], told["width"]) == (label, *expected_HW.shape)
    np.testing.assert_allclose(told["heat"], expected_HW, atol=5e-5)
    likeliest = strict.post("/heatmap", files=form(GOOD), params={"format": "json"}).json()["label"]
    assert likeliest == predictor([GOOD]).answers[0]
    for name in ("png", "jpeg"):
        answer = strict.post("/heatmap", files=form(GOOD), params={"format": name})
        assert answer.headers["content-type"] == f"image/{name}"
        with Image.open(io.BytesIO(answer.content)) as picture:
            assert picture.size == (56, 40) and picture.format == name.upper()


def test_a_heatmap_that_cannot_be_is_refused_with_the_reason(strict: TestClient) -> None:
    assert kind(strict.post("/heatmap", files=form(GOOD), params={"label": "nothing"})) == (422, "class")
    assert kind(strict.post("/heatmap", files=form(GOOD, GOOD))) == (413, "too many photos")
    for name, (content, status, found) in BAD.items():
        assert kind(strict.post("/heatmap", files=form(content))) == (status, found), name
    with plain() as client:
        assert kind(client.post("/heatmap", files=form(GOOD))) == (501, "no heatmap")


class Looking(Plain):
    """A model that can show where it looked, and takes no photo of more than 3,500 pixels."""

    heatmaps = True

    def __call__(self, photos: Sequence[Photo]) -> list[Answer | Fault]:
        answers = super().__call__(photos)
        large = Fault(FaultKind.TOO_LARGE, "is large")
        return [large if one.pixels > 3500 else answer for one, answer in zip(photos, answers, strict=True)]

    def heatmap(self, photo: Photo, label: str) -> Any:
        if photo.pixels > 3500:
            raise DataError("it cannot be read")
        return np.ones((2, 3), dtype=np.float32)


def test_a_photo_that_only_the_model_refuses_is_typed_whatever_class_is_asked_about() -> None:
    with TestClient(app_of(Looking(), Settings(shape=Shape(batch=1)))) as client:
        photo = jpeg(0, 60, 60)
        for params in ({}, {"label": "bag"}):
            assert kind(client.post("/heatmap", files=form(photo), params=params)) == (422, "too many pixels")


def test_photos_of_heatmaps_are_decoded_in_their_turn_and_not_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Photo] = []
    monkeypatch.setattr("engine.serve.service.shown", lambda photo: decoded.append(photo) or shown(photo))
    held = Held()
    with TestClient(app_of(Looking(held), Settings(timeout_s=0.5))) as client:
        assert kind(warm(client).post("/predict", files=form(GOOD))) == (504, "too late")
        assert kind(client.post("/heatmap", files=form(GOOD))) == (504, "too late") and not decoded
        held.may.set()
        assert client.post("/heatmap", files=form(GOOD)).status_code == 200 and len(decoded) == 1


def test_json_of_many_values_is_refused_before_they_are_made() -> None:
    with plain() as client:
        text = b'{"photos": [' + b",".join([b"[]"] * 9999) + b"]}"
        told = client.post("/predict", content=text, headers={"content-type": "application/json"})
        assert kind(told) == (400, "malformed") and "far more values" in told.json()["detail"]


def test_a_name_that_is_no_text_costs_nobody_an_answer() -> None:
    entry = b'{"name": "\\ud83d.jpg", "base64": "%s"}' % base64.b64encode(GOOD)
    with plain() as client:
        headers = {"content-type": "application/json"}
        told = client.post("/predict", content=b'{"photos": [%s]}' % entry, headers=headers)
    assert told.status_code == 200 and told.json()["photos"][0]["name"] == "?.jpg"


def test_files_that_are_named_in_the_old_way_are_not_lost() -> None:
    names = (b"filename*=utf-8''%EB%AA%A8.jpg", b'filename="b.jpg"')
    parts = [b'--x\r\nContent-Disposition: form-data; name="a"; %s\r\n\r\n%s\r\n' % (name, GOOD) for name in names]
    with plain() as client:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        told = client.post("/predict", content=b"".join(parts) + b"--x--\r\n", headers=headers)
    assert [one["name"] for one in told.json()["photos"]] == ["모.jpg", "b.jpg"]


def test_slow_addresses_keep_the_requests_time_and_cost_their_neighbours_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fetched(url: str, most: int, left_s: float) -> bytes | Problem:
        if left_s > 0:
            time.sleep(1.2)  # as a name that nobody resolves
        return GOOD

    monkeypatch.setattr("engine.serve.service.fetched", fetched)
    entries = [{"url": "http://slow.example/"}] * 20 + [{"base64": base64.b64encode(GOOD).decode()}]
    with plain(allow_url=True, timeout_s=2) as client:  # beyond which there would be a 504
        told = warm(client).post("/predict", json={"photos": entries}).json()["photos"]
    assert [one["status"] for one in told] == [422] * 20 + [200] and told[0]["kind"] == "url"


def test_what_addresses_hold_counts_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.serve.service.fetched", lambda *_: GOOD)
    with plain(allow_url=True, memory_bytes=2 * len(GOOD)) as client:
        for count, status in ((1, 200), (20, 503), (1, 200)):
            told = client.post("/predict", json={"photos": [{"url": "http://a.example/"}] * count})
            assert told.status_code == status
            assert client.app.state.service.memory.held == 0  # type: ignore[attr-defined]


def test_a_body_is_counted_while_it_comes_and_not_read_to_its_end() -> None:
    came = 0

    def endless() -> Iterator[bytes]:
        nonlocal came
        while came < 100_000_000:
            came += 10_000
            yield bytes(10_000)

    with plain(limits=Limits(50_000, 100_000, 8)) as client:
        response = client.post("/predict", content=endless(), headers={"content-type": "image/jpeg"})
        assert kind(response) == (413, "too many bytes")
        assert client.app.state.service.memory.held == 0  # type: ignore[attr-defined]


def test_who_is_refused_early_is_heard_to_the_end_so_that_he_sees_the_answer() -> None:
    came = 0

    def sent() -> Iterator[bytes]:
        nonlocal came
        for _ in range(9):
            came += 1
            yield bytes(10_000)

    with plain(limits=Limits(50_000, 100_000, 8)) as client:
        for path, type_, status in (("/predict", "text/plain", 415), ("/heatmap", "image/jpeg", 501), ("/no", "", 404)):
            came = 0
            assert client.post(path, content=sent(), headers={"content-type": type_}).status_code == status
            assert came == 9


def test_bodies_that_fill_the_memory_are_refused_and_what_is_answered_frees_it() -> None:
    with plain(memory_bytes=len(GOOD) + 10) as client:
        for _ in range(3):
            assert client.post("/predict", files=form(GOOD)).status_code == 200
        full = client.post("/predict", files=form(GOOD, GOOD))
        assert kind(full) == (503, "busy") and full.headers["retry-after"] == "1"
        assert client.post("/predict", files=form(GOOD)).status_code == 200


class Held:
    """Work that lasts until it is let go; warming up is let through."""

    def __init__(self) -> None:
        self.begun, self.may = threading.Event(), threading.Event()

    def __call__(self, photos: Sequence[Photo]) -> None:
        if photos[0].content == GOOD:
            self.begun.set()
            assert self.may.wait(10)


def test_a_full_queue_refuses_with_the_time_to_come_again_and_the_others_are_answered() -> None:
    held, found = Held(), []
    with TestClient(app_of(Plain(held), Settings(shape=Shape(batch=1, queue=1)))) as client:
        warm(client)  # until then that has the only place

        def ask() -> None:
            found.append(client.post("/predict", files=form(GOOD)).status_code)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        threads[0].start()
        assert held.begun.wait(10)
        threads[1].start()
        while client.app.state.service._batcher.waiting < 1:  # type: ignore[attr-defined]
            pass
        refused = client.post("/predict", files=form(GOOD))
        assert kind(refused) == (503, "busy") and int(refused.headers["retry-after"]) >= 1
        held.may.set()
        for thread in threads:
            thread.join()
    assert found == [200, 200]


def test_a_request_is_given_up_when_its_time_is_over() -> None:
    held = Held()
    with TestClient(app_of(Plain(held), Settings(timeout_s=0.5))) as client:
        assert kind(warm(client).post("/predict", files=form(GOOD))) == (504, "too late")
        held.may.set()
        assert client.post("/predict", files=form(GOOD)).status_code == 200


def test_a_model_that_breaks_is_told_of_and_the_next_photo_is_answered() -> None:
    def work(photos: Sequence[Photo]) -> None:
        if any(one.content == GOOD for one in photos):
            raise RuntimeError("out of luck")

    with TestClient(app_of(Plain(work), Settings()), raise_server_exceptions=False) as client:
        one = client.post("/predict", files=form(GOOD))
        assert kind(one) == (500, "broken") and "out of luck" in one.json()["detail"]
        assert [e["status"] for e in client.post("/predict", files=form(GOOD, jpeg(1))).json()["photos"]] == [500, 200]


def test_a_server_that_stops_refuses_work_and_says_that_it_is_not_ready() -> None:
    with plain() as client:
        assert warm(client).get("/ready").json() == {"status": "ready"}
        client.app.state.service.stopping = True  # type: ignore[attr-defined]
        refused = client.post("/predict", files=form(GOOD))
        assert kind(refused) == (503, "stopping") and refused.headers["retry-after"] == "1"
        assert kind(client.get("/ready")) == (503, "stopping")
        assert client.get("/health").json() == {"status": "alive"}


def test_a_model_that_cannot_be_loaded_is_never_ready() -> None:
    def work(_: Sequence[Photo]) -> None:
        raise RuntimeError("no weights")

    with TestClient(app_of(Plain(work), Settings())) as client:
        with pytest.raises(RuntimeError, match="no weights"):
            warm(client)
        told = client.get("/ready")
        assert kind(told) == (503, "not ready") and "no weights" in told.json()["detail"]


def test_metrics_count_requests_photos_batches_and_faults() -> None:
    with plain() as client:
        client.post("/predict", files=form(GOOD, b"text"))
        client.post("/predict", files=form(b""))
        client.get("/elsewhere")
        text = client.get("/metrics").text
    samples = {(one.name, *one.labels.values()): one.value for family in families(text) for one in family.samples}
    assert samples["engine_requests_total", "/predict", "200"] == 1
    assert samples["engine_requests_total", "/predict", "422"] == 1
    assert samples["engine_requests_total", "other", "404"] == 1
    assert samples["engine_request_seconds_count", "/predict"] == 2
    assert samples["engine_photos_total",] == 1
    assert samples["engine_photo_faults_total", "not an image"] == samples["engine_photo_faults_total", "empty"] == 1
    assert samples["engine_batch_photos_count",] == 1 and samples["engine_queue_photos",] == 0
    assert samples["engine_ready",] == 1 and samples["process_resident_memory_bytes",] > 1e6


def test_the_model_is_described(client: TestClient, predictor: Predictor) -> None:
    told = client.get("/model").json()
    assert told["classes"] == list(predictor.classes) and told["kind"] == "run"
    assert len(told["models"]) == 4 and told["contracts"][0]["fit"] == "letterbox"
    assert told["asked"] == {"risk": 0.1, "false_alarms": 0.05} and {"risk", "strange"} <= {*told["fitted"]}
    assert "torch" in told["versions"]["trained"] and told["limits"]["batch"] == 8


def test_the_interface_describes_itself_with_examples_and_every_error(client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    predict = told["paths"]["/predict"]["post"]
    assert {"multipart/form-data", "application/json", "image/*"} <= predict["requestBody"]["content"].keys()
    assert {"200", "400", "403", "405", "408", "413", "415", "422", "500", "503", "504"} == predict["responses"].keys()
    trouble = {"$ref": "#/components/schemas/Trouble"}
    assert predict["responses"]["415"]["content"]["application/json"]["schema"] == trouble
    assert all("example" in told["components"]["schemas"][name] for name in ("Trouble", "Answers"))
