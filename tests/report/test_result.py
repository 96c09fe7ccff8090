"""The report of a run: its numbers are those of the run, it needs nothing beside itself, and it is made of whatever is
there."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from engine.cli.main import main
from engine.ensemble.risk import Risk, risk_coverage
from engine.ensemble.runs import fit_runs
from engine.errors import CheckpointError, RecipeError
from engine.metrics import evaluate
from engine.predictions import LabelledPredictions, Predictions
from engine.recipe.load import parse_recipe
from engine.report.result import confused, write_report
from engine.report.result.answers import Answers, read_answers, rows_of
from engine.report.result.confused import alike_order
from engine.report.result.photos import small_url
from engine.report.result.places import Places
from engine.report.result.trust import reliability, selective, sets_seen
from engine.store.run_folder import RunFolder


class Page(HTMLParser):
    """A page taken apart: figures by title, tables by id or label as rows of texts, addresses, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text("utf-8")
        self.figures: dict[str, float] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self._label, self._cell = "", False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href", "action", "data")]
        if "data-figure" in found:
            self.figures[str(found["data-figure"])] = float(str(found["data-v"]))
        if found.get("role") == "region":
            self._label = str(found["aria-label"])
        if tag == "table":
            self.tables[self._label] = []
        if tag == "tr":
            self.tables[self._label].append([])
        if tag in ("td", "th") and self.tables.get(self._label):
            self.tables[self._label][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.tables[self._label][-1][-1] += data.strip()

    @property
    def matrix(self) -> dict[str, Any]:
        found = re.search(r'id="matrix-data">(.*?)</script>', self.source)
        return json.loads(found[1]) if found else {}


@pytest.fixture(scope="module")
def page(finished_run: Path, pictured_run: Path, reported: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of the finished run, which is the one that is pictured unless another one is."""
    own = tmp_path_factory.mktemp("finished") / "report.html"
    return Page(reported if pictured_run == finished_run else write_report(finished_run, own))


def test_the_headline_is_what_the_run_scored(page: Page, finished_run: Path) -> None:
    scores = json.loads(RunFolder(finished_run).scores.read_text("utf-8"))
    told = scores["out_of_fold"]
    assert page.figures == {
        "Accuracy": told["accuracy"],
        "Log loss": told["log_loss"],
        "Macro F1": told["macro_f1"],
        "Calibration error": told["calibration_error"],
    }
    low, high = scores["intervals"]["log_loss"]["low"], scores["intervals"]["log_loss"]["high"]
    assert f"{low:.3f} to {high:.3f}" in page.source
    assert f"{scores['baseline_log_loss']:.3f} by answering the class shares" in page.source
    assert "25.0% by always answering" in page.source  # four classes of as many photos


def test_the_table_of_classes_is_what_metrics_say(page: Page, finished_run: Path) -> None:
    answers = Predictions.read(RunFolder(finished_run).out_of_fold)
    assert isinstance(answers, LabelledPredictions)
    expected = evaluate(answers, per_class=True).per_class
    rows = {row[0]: row for row in page.tables["Scores of each class"][1:]}
    assert set(rows) == set(answers.classes)
    for name, one in expected.items():
        values = [one.precision, one.recall, one.f1]
        shown = ["–" if value is None else f"{100 * value:.1f}%" for value in values]
        assert rows[name][1:5] == [str(one.support), *shown]


def test_what_was_read_class_by_class_is_the_whole(finished_run: Path) -> None:
    path = RunFolder(finished_run).out_of_fold
    whole, read = Predictions.read(path), read_answers(path)
    assert isinstance(whole, LabelledPredictions)
    order_NC = np.argsort(-whole.probabilities_NC, axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(read.top_NT, order_NC)
    np.testing.assert_array_equal(read.share_NT, np.take_along_axis(whole.probabilities_NC, order_NC, 1))
    assert read.nats_N.mean() == pytest.approx(evaluate(whole).metrics["log_loss"], rel=1e-6)


def test_the_matrix_holds_every_answer(page: Page, finished_run: Path) -> None:
    read = read_answers(RunFolder(finished_run).out_of_fold)
    matrix = page.matrix
    counted_CC = np.zeros_like(read.confusion_CC)
    for row, flat in enumerate(matrix["rows"]):
        counted_CC[row, flat[::2]] = flat[1::2]
    np.testing.assert_array_equal(counted_CC, read.confusion_CC)
    assert sorted(matrix["alike"]) == list(range(len(read.classes)))


def test_look_alikes_stand_together() -> None:
    """Of six classes in pairs that are far apart in their names, each stands beside its own."""
    confusion_CC = np.eye(6, dtype=np.int64) * 50
    for a, b in ((0, 3), (1, 4), (2, 5)):
        confusion_CC[a, b] = confusion_CC[b, a] = 20
    order = alike_order(confusion_CC)
    for a, b in ((0, 3), (1, 4), (2, 5)):
        assert abs(order.index(a) - order.index(b)) == 1


def test_the_page_needs_nothing_beside_itself(page: Page) -> None:
    outside = [address for address in page.addresses if not address.startswith(("#", "data:"))]
    assert not outside
    assert "link" not in page.tags or 'rel="icon" href="data:,"' in page.source
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|https?://", page.source)
    assert len(page.source.encode()) < 5_000_000


def test_every_plot_is_named_and_has_numbers_behind_it(page: Page) -> None:
    plots = re.findall(
        r'<svg class="plot"[^>]*aria-labelledby="([^"]+)"><title[^>]*>[^<]+</title><desc[^>]*>[^<]+', page.source
    )
    assert len(plots) == page.source.count('<svg class="plot"') > 5
    for ids in plots:
        assert all(f'id="{one}"' in page.source for one in ids.split())
    for table in ("Reliability in numbers", "Risk and coverage in numbers", "Epochs"):
        assert len(page.tables[table]) > 5
    assert len(page.tables["Epochs"]) == 1 + 2 * 14  # folds and epochs


def test_each_part_has_its_place(page: Page) -> None:
    for said in ("How it answers", "Fitted after training", "stands a set of classes", "The most confident mistakes"):
        assert said in page.source
    assert page.source.count('class="shot"') > 24 and ">photo is gone<" not in page.source
    assert page.source.count("data:image/jpeg;base64,") > 60  # pairs, galleries, augmented images
    assert "# signs" in page.source and "| 고리 | 24 |" in page.source  # the model card


def test_a_run_whose_photos_are_gone_still_has_a_report(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "models"
    shutil.copytree(finished_run, run, ignore=shutil.ignore_patterns("epoch_*", "tensorboard", "bank*"))
    claim = json.loads((run / "run.json").read_text("utf-8"))
    claim["recipe"]["data"]["train"] = str(tmp_path / "no" / "such")
    (run / "run.json").write_text(json.dumps(claim), "utf-8")
    page = Page(write_report(run))
    assert ">photo is gone<" in page.source and "The images cannot be looked at" in page.source
    assert page.figures["Accuracy"] > 0


def made_run(folder: Path, answers: LabelledPredictions | None, scored: bool = True) -> Path:
    """A folder as a run leaves it, of these out-of-fold answers; photos and models are gone."""
    run = RunFolder(folder)
    folder.mkdir(parents=True)
    recipe = {
        "name": "made",
        "data": {"train": str(folder / "gone")},
        "stage": [{"size": 32, "batch": 4, "epochs": 1, "lr": 1e-3}],
    }
    run.claim.write_text(json.dumps({"recipe": parse_recipe(recipe).model_dump(mode="json")}), "utf-8")
    if answers is not None:
        answers.write(run.out_of_fold)
        run.scores.write_text(json.dumps({"baseline_log_loss": 2.0, "out_of_fold": evaluate(answers).metrics}), "utf-8")
    elif scored:
        run.scores.write_text(json.dumps({"baseline_log_loss": None, "out_of_fold": {}}), "utf-8")
    return folder


def made_answers(classes: list[str], images: int, seed: int = 0) -> LabelledPredictions:
    """Answers that are right more often than not."""
    random = np.random.default_rng(seed)
    labels_N = random.integers(0, len(classes), images)
    scores_NC = random.gumbel(size=(images, len(classes)))
    scores_NC[np.arange(images), labels_N] += 2 + math.log(len(classes))
    p_NC = np.exp(scores_NC) / np.exp(scores_NC).sum(1, keepdims=True)
    ids = tuple(f"{row:06d}" for row in range(images))
    one = Predictions(ids, tuple(classes), p_NC.astype(np.float32))
    return one.labelled([classes[label] for label in labels_N], np.arange(images) % 5)


def matrix_of(answers: LabelledPredictions) -> dict[str, Any]:
    """Of answers that were never in a file."""
    order_NC = np.argsort(-answers.probabilities_NC, axis=1, kind="stable")[:, :3]
    share_NC = np.take_along_axis(answers.probabilities_NC, order_NC, 1)
    true_N = answers.probabilities_NC[np.arange(len(answers)), answers.labels_N]
    return confused.matrix(
        Answers(answers.ids, answers.classes, answers.labels_N, order_NC, share_NC, true_N, answers.fold_N)
    )


def test_whole_paths_of_this_machine_are_not_told(
    page: Page, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page is sent; what is told of a place is enough to know which it was."""
    data = json.loads(RunFolder(finished_run).claim.read_text("utf-8"))["recipe"]["data"]
    for whole in (data["train"], data["cache"], str(finished_run), str(finished_run.parent)):
        assert Path(whole).is_absolute() and whole not in page.source
    assert f"/{'/'.join(Path(data['train']).parts[-2:])}" in page.source
    values = ["/home/kim/photos/train", "/home/kim/runs/models/0/weights.safetensors", "/data/train"]
    places = Places(Path("/home/kim/runs/models"), values)
    assert places("/home/kim/runs/models/0/weights.safetensors") == "0/weights.safetensors"
    assert places("/home/kim/photos/train") == ".../photos/train" and places("/data/train") == "/data/train"
    assert places("photos/train") == "photos/train" and places(0.5) == 0.5
    assert places("of /home/kim/runs/models/oof.parquet: gone") == "of .../runs/models/oof.parquet: gone"
    monkeypatch.setenv("HOME", "/home/kim")
    assert Places(Path("/x/y"), [])("/home/kim/photos: gone") == "~/photos: gone"
    gone = Page(write_report(made_run(tmp_path / "sub" / "run", made_answers(["a", "b"], 40))))
    assert "cannot be looked at" in gone.source and str(tmp_path) not in gone.source


def test_a_photo_that_was_predicted_is_not_taken_for_one_of_training(tmp_path: Path) -> None:
    """Tables number both from 1."""
    run = made_run(tmp_path / "run", made_answers(["a", "b"], 60))
    folder = RunFolder(run).predictions
    folder.path.mkdir()
    Image.new("RGB", (40, 40), (250, 10, 10)).save(tmp_path / "new.jpg")
    table = {"id": ["000001"], "path": [str(tmp_path / "new.jpg")], "prediction": ["a"], "status": ["ok"]}
    pq.write_table(
        pa.table(table | {"confidence": pa.array([0.9], pa.float32()), "strangeness": [0.01]}), folder.predictions
    )
    page = Page(write_report(run, heatmaps=False))
    before, _, strangers = page.source.partition('<h3 id="strangers">')
    assert 'data-id="000001"' in before and "data:image/jpeg" not in before
    assert strangers.count("data:image/jpeg") == 1


def test_a_class_whose_name_begins_anothers_is_read_alone(tmp_path: Path) -> None:
    answers = made_answers(["a.b", "a", "a.b.c"], 50)
    answers.write(tmp_path / "oof.parquet")
    read = read_answers(tmp_path / "oof.parquet")
    np.testing.assert_array_equal(read.answer_N, answers.probabilities_NC.argmax(1))
    np.testing.assert_array_equal(rows_of(tmp_path / "oof.parquet", read, np.arange(50)), answers.probabilities_NC)


def test_pictures_do_not_wait_to_be_looked_at(page: Page) -> None:
    """They stand in the page: a print or a PDF shall have them all."""
    assert "loading=" not in page.source


def test_a_name_is_text_wherever_it_stands(tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", "</script><b>", "a & b", '"quoted"', "가나다"]
    page = Page(write_report(made_run(tmp_path / "run", made_answers(names, 200))))
    assert page.tags.count("script") == 2  # the matrix's numbers and the page's own
    assert "<script>alert" not in page.source and "<b>" not in re.sub(r'<b class="[^"]+">', "", page.source)
    assert page.matrix["names"] == names
    assert [row[0] for row in page.tables["Scores of each class"][1:]].count("가나다") == 1


def test_four_hundred_classes_fit(tmp_path: Path) -> None:
    names = [f"class {number:03d} of a rather long name" for number in range(400)]
    path = write_report(made_run(tmp_path / "run", made_answers(names, 4000)))
    page = Page(path)
    assert path.stat().st_size < 2_000_000
    assert len(page.tables["Scores of each class"]) == 401 and len(page.matrix["rows"]) == 400


def test_one_fold_without_anything_held_out(tmp_path: Path) -> None:
    page = Page(write_report(made_run(tmp_path / "run", None)))
    assert not page.figures and "All images were trained on" in page.source
    assert page.source.count("Needs photos that were held out") >= 3


def test_a_run_that_is_not_finished(tmp_path: Path, finished_run: Path) -> None:
    run = made_run(tmp_path / "run", None, scored=False)
    lines = RunFolder(finished_run).log.read_text("utf-8").splitlines()[:3]
    RunFolder(run).log.write_text("\n".join(lines) + "\n", "utf-8")
    page = Page(write_report(run))
    assert "not finished: 3 epochs trained so far" in page.source and "Learning rate" in page.source


def test_a_folder_of_something_else_is_refused(tmp_path: Path, finished_run: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no run; give the folder"):
        write_report(tmp_path)
    with pytest.raises(RecipeError, match="a report trains nothing"):
        write_report(finished_run, tmp_path / "report.html", sets=["train.ema=0.9"])
    with pytest.raises(CheckpointError, match="no run to compare with"):
        write_report(made_run(tmp_path / "run", made_answers(["a", "b"], 40)), against=tmp_path)


def test_a_dozen_photos_that_are_all_right_prove_little(tmp_path: Path) -> None:
    """Draws of what is all right are all right; 0.025 ** (1 / 12) is what a dozen can say (Clopper and Pearson)."""
    one = Predictions(tuple(map(str, range(12))), ("a", "b", "c"), np.eye(3)[np.arange(12) % 2])
    page = Page(write_report(made_run(tmp_path / "run", one.labelled([*"ab"] * 6, [0, 1] * 6))))
    assert "100% are answered rightly (95% interval 73.5% to 100%)" in page.source
    assert "100.0% to 100.0%" not in page.source.partition("<aside")[0].partition("</dl>")[0]
    card = page.source.partition('id="card-text"')[2]
    assert "Never held out, so that nothing is known of how well they are told: c." in card
    assert "Weakest classes" not in card


def test_two_runs_are_compared_photo_by_photo(tmp_path: Path) -> None:
    """The same photos, of which the second run answers more rightly."""
    worse = made_answers(["a", "b", "c"], 400)
    p_NC = worse.probabilities_NC.copy()
    p_NC[np.arange(400), worse.labels_N] += 1
    better = Predictions(worse.ids, worse.classes, p_NC / p_NC.sum(1, keepdims=True))
    first = made_run(tmp_path / "first", worse)
    second = made_run(tmp_path / "second", better.labelled(worse.labels, worse.fold_N))
    for run in (first, second):  # with a log they are finished
        record = {"fold": 0, "stage": 0, "epoch": 0, "size": [32, 32], "lr": 1e-3, "train_loss": 1.0, "metrics": {}}
        record |= {"best": True, "images": 4, "train_seconds": 1.0, "valid_seconds": 0.1}
        lines = [json.dumps(record | {"fold": fold}) for fold in range(5)]
        RunFolder(run).log.write_text("\n".join(lines) + "\n", "utf-8")
        RunFolder(run).scores.touch()
    page = Page(write_report(second, against=first))
    rows = {row[0]: row for row in page.tables["Scores of both runs"][1:]}
    assert rows["log loss"][-1] == "better" and rows["accuracy"][-1] == "better"
    assert "The recipes do not differ" not in page.source  # data.train does


def test_an_ensemble_of_several_runs(tmp_path: Path) -> None:
    runs = [made_run(tmp_path / name, made_answers(["a", "b", "c"], 300, 0)) for name in ("small", "large")]
    fit_runs(runs, tmp_path / "both")
    page = Page(write_report(tmp_path / "both"))
    assert "2 runs answer together: small and large" in page.source
    assert [row[0].rpartition("/")[2] for row in page.tables["Runs"][1:]] == ["small", "large", "together"]
    assert "the reports of the runs have their curves" in page.source
    claim = RunFolder(runs[1]).claim
    tables = json.loads(claim.read_text("utf-8"))
    tables["recipe"]["model"] |= {"backbone": "test_resnet", "pretrained": False}
    claim.write_text(json.dumps(tables), "utf-8")
    both = Page(write_report(tmp_path / "both")).source
    card = both.partition('id="card-text"')[2]
    first = tables["recipe"]["stage"][0]["size"][0]
    assert (
        card.count("* An image classifier: ") == 2
        and f"test_resnet (timm), weights drawn at random, trained at {first} x" in card
    )
    assert "No starting weights of test_resnet" in card and "Starting weights: " in card
    assert "test_resnet" in both.partition('<p class="meta">')[2].partition("</p>")[0]


def test_the_command_says_where_the_page_is(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", made_answers(["a", "b"], 60))
    result = CliRunner().invoke(main, ["report", str(run), "--no-heatmaps"])
    assert result.exit_code == 0 and result.output == f"{run / 'report.html'}: 0.1 MB\n"


def test_the_reliability_curve_is_isotonic_and_its_parts_add_up() -> None:
    """Answers that are right half as often as they say lie below the diagonal, with their band around them."""
    random = np.random.default_rng(0)
    said_N = random.uniform(0.5, 1, 3000).astype(np.float32)
    right_N = random.random(3000) < said_N / 2
    answers = Answers(
        ids=tuple(map(str, range(3000))),
        classes=("a", "b"),
        truth_N=np.where(right_N, 0, 1),
        top_NT=np.tile([0, 1], (3000, 1)),
        share_NT=np.stack([said_N, 1 - said_N], 1),
        true_N=np.where(right_N, said_N, 1 - said_N),
        fold_N=np.zeros(3000, dtype=np.int64),
    )
    found = reliability(answers)
    curve = found.curve
    assert (np.diff(curve.y_K) >= 0).all()
    assert curve.low_K is not None and curve.high_K is not None
    inside = (curve.low_K <= curve.x_K / 2 + 0.02) & (curve.x_K / 2 - 0.02 <= curve.high_K)
    assert inside.mean() > 0.9 and (curve.y_K < curve.x_K).all()
    parts = found.miscalibration - found.discrimination + found.uncertainty
    assert parts == pytest.approx(found.score) == pytest.approx(np.mean((said_N - right_N) ** 2), abs=1e-6)
    assert found.miscalibration > 0.1
    one_sender = dataclasses.replace(answers, groups=("one",) * 3000)
    assert reliability(one_sender).curve.low_K is None


def test_risk_is_what_is_wrong_among_the_surest(finished_run: Path) -> None:
    answers = read_answers(RunFolder(finished_run).out_of_fold)
    whole = Predictions.read(RunFolder(finished_run).out_of_fold)
    assert isinstance(whole, LabelledPredictions)
    curve, expected = selective(answers), risk_coverage(whole)
    for coverage, risk in zip(curve.x_K, curve.y_K, strict=True):
        at = np.flatnonzero(np.isclose(expected.coverage_K, coverage))
        if len(at):  # a coverage between which no two photos are equally sure
            assert risk == pytest.approx(expected.risk_K[at[0]])
    assert curve.x_K[-1] == 1 and curve.y_K[-1] == pytest.approx(1 - answers.right_N.mean())


def test_sets_hold_the_truth_as_often_as_was_asked(tmp_path: Path) -> None:
    answers = made_answers([*"abcdef"], 3000)
    answers.write(tmp_path / "oof.parquet")
    seen = sets_seen(tmp_path / "oof.parquet", read_answers(tmp_path / "oof.parquet"), Risk.fit(answers, 0.99))
    assert seen is not None and seen.images == 3000
    assert seen.coverage == pytest.approx(0.99, abs=0.01) and 1 < seen.size < 6


def test_predictions_are_told_in_short(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run", made_answers(["a", "b"], 60))
    folder = RunFolder(run).predictions
    folder.path.mkdir()
    table = pa.table(
        {
            "id": ["1", "2", "3", "4"],
            "path": ["1.jpg", "2.jpg", "3.jpg", "4.jpg"],
            "prediction": ["a", "b", "a", "a"],
            "confidence": pa.array([0.9, 0.8, 0.7, 0.5], pa.float32()),
            "status": ["ok", "ok", "ok", "is empty (0 bytes)"],
            "set": [["a"], ["b", "a"], ["a"], None],
            "abstain": [False, True, False, None],
            "strange": [False, True, False, None],
            "strangeness": [0.6, 0.01, 0.4, None],
        }
    )
    pq.write_table(table, folder.predictions)
    page = Page(write_report(run))
    assert "4 photos were answered" in page.source
    assert "No answer is given to 33.3%" in page.source and "33.3% are called strange" in page.source
    assert page.tables["Sizes of sets"][1:] == [["1", "2"], ["2", "1"]]
    assert page.tables["Photos that could not be read"][1:] == [["is empty (0 bytes)", "1"]]
    strangers = page.source.partition('<h3 id="strangers">')[2]
    assert strangers.index("as strange as 1 in 100 of") < strangers.index("as strange as 1 in 2 of")


def test_a_picture_takes_no_more_than_it_may() -> None:
    """Noise, which no JPEG makes small, still fits."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (340, 340, 3), dtype=np.uint8))
    for most in (16_000, 3_000):
        assert len(base64.b64decode(small_url(noise, most).partition(",")[2])) <= most


def test_of_very_many_cells_the_rarest_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = made_answers([*"abcdefgh"], 4000)
    assert matrix_of(answers)["least"] == 1
    monkeypatch.setattr(confused, "CELLS", 12)
    shown = matrix_of(answers)
    assert shown["least"] > 1 and sum(len(row) // 2 for row in shown["rows"]) <= 12 + 8
    for place, row in enumerate(shown["rows"]):
        assert place in row[::2]  # what is right stays


def test_what_answering_together_gained_is_told_from_one_model_on(page: Page, finished_run: Path) -> None:
    scores = json.loads(RunFolder(finished_run).scores.read_text("utf-8"))
    rows = page.tables["From one model to all"][1:]
    told = scores["out_of_fold"]
    assert rows[-1][1:] == [f"{told['log_loss']:.4f}", f"{100 * told['accuracy']:.1f}%"]
    assert rows[0][0] == "each fold's best epoch, one view"
    gains = page.tables["What was fitted"][1:]
    assert len(gains) == len(scores["ensemble"])
    assert [row[-1] == "kept" for row in gains] == [gain["kept"] for gain in scores["ensemble"]]


def test_what_is_not_finished_or_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    made_run(tmp_path / "before", None, scored=False)
    run = made_run(tmp_path / "run", made_answers(["a", "b"], 40))
    RunFolder(run).predictions.path.mkdir()
    pq.write_table(pa.table({"id": ["1"]}), RunFolder(run).predictions.predictions)  # of somebody else's making
    page = Page(write_report(run))
    assert "Nothing was predicted yet" in page.source and "No run beside this one ended before it" in page.source
