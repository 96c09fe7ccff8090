"""A suggested recipe is valid, says why, and can be trained as it is, whatever the data is like."""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from engine.advice.machine import Machine
from engine.advice.suggest import Suggestion, baseline, findings, suggest
from engine.errors import DataError, RecipeError
from engine.jobs import train
from engine.recipe.load import load_recipe, parse_recipe
from engine.recipe.sections import Recipe
from engine.system import GIB
from engine.training.prepare import Prepared, prepare

from .conftest import CPU, Photos, Table


def prepared(suggestion: Suggestion, tmp_path: Path) -> Prepared:
    """The recipe written to a file, read and prepared: what `engine train --dry-run` does."""
    path = tmp_path / "recipe.toml"
    path.write_text(suggestion.text, encoding="utf-8")
    return prepare(load_recipe(path))


def test_a_folder_is_suggested_a_recipe_that_can_be_trained(photos: Photos, tmp_path: Path) -> None:
    for name in ("고양이", "개", "새"):
        photos(tmp_path / "동물" / "train" / name, 6)
    suggestion = suggest(tmp_path / "동물" / "train", machine=CPU)
    ready = prepared(suggestion, tmp_path)
    assert ready.classes == ["개", "고양이", "새"] and ready.recipe == load_recipe(tmp_path / "recipe.toml")
    assert ready.recipe.name == "동물" and ready.recipe.output == "models/동물"
    assert ready.recipe.data.folds.count == 5 and ready.folds == (0,)
    assert "log loss 1.0986, accuracy 0.333" in suggestion.text


def test_every_key_has_a_reason(photos: Photos, tmp_path: Path) -> None:
    for name in "ab":
        photos(tmp_path / "data" / name, 5)
    lines = suggest(tmp_path / "data", machine=CPU).text.splitlines()
    for before, line in itertools.pairwise(lines[: lines.index("[[stage]]")]):
        if re.match(r"(# )?\w+ = \S", line):
            assert " # " in line or before.startswith("# "), line
    assert max(map(len, lines)) <= 120 and len(lines) < 70


def test_names_from_outside_stay_names(photos: Photos, tmp_path: Path) -> None:
    """Quotes, backslashes, brackets and line ends, in class names, labels to drop and the path."""
    folder = tmp_path / 'it\'s "new" \\ [data]\n# evil'
    names = ('a"b', "c\\d", "e = 1", "g'''h\x7f", '"""', "#N/A", "not  sure?")
    for name in names:
        photos(folder / name.replace("/", "\u2215"), 4)
    ready = prepared(suggest(folder, machine=CPU), tmp_path)
    assert ready.recipe.data.train == str(folder)
    assert ready.classes == sorted([*names[:5], "#N\u2215A"]) and ready.recipe.data.drop_classes == ("not  sure[?]",)


@pytest.mark.parametrize("name", ["~", "~root", "$HOME", "a$NOWHERE", "$$"])
def test_what_a_shell_would_read_otherwise_stays_a_name(
    photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for label in "ab":
        photos(tmp_path / name / label, 3)
    assert len(prepared(suggest(name, machine=CPU), tmp_path).ids) == 6


def test_a_class_of_which_nothing_can_be_read_is_left_out(photos: Photos, tmp_path: Path) -> None:
    for name in "ab":
        photos(tmp_path / "data" / name, 4)
    (tmp_path / "data" / "bad[1]").mkdir()
    (tmp_path / "data" / "bad[1]" / "x.jpg").write_bytes(b"no picture")
    suggestion = suggest(tmp_path / "data", machine=CPU)
    assert prepared(suggestion, tmp_path).recipe.data.drop_classes == ("bad[[]1]",)
    assert "1 class of which no image can be used, left out: 'bad[1]'" in findings(suggestion.survey)


def test_a_table_says_where_its_files_and_labels_are(photos: Photos, table: Table, tmp_path: Path) -> None:
    names = photos(tmp_path / "set" / "jpg" / "all", 12)
    path = table(tmp_path / "set" / "labels.csv", {"row": range(12), "pic": names, "breed": list("ab") * 6})
    data = prepared(suggest(path, machine=CPU), tmp_path).recipe.data
    assert (data.path_column, data.label_column) == ("pic", "breed")
    assert Path(data.images) == tmp_path / "set" / "jpg" / "all"


def test_what_is_usual_is_not_written(photos: Photos, table: Table, tmp_path: Path) -> None:
    names = photos(tmp_path, 8)
    path = table(tmp_path / "t.csv", {"image": [f"{name}.jpg" for name in names], "label": list("ab") * 4})
    text = suggest(path, machine=CPU).text
    assert not any(key in text for key in ("path_column", "label_column", "images =", "group_column", "test ="))


def test_labels_that_may_be_in_several_columns_have_to_be_named(photos: Photos, table: Table, tmp_path: Path) -> None:
    names = photos(tmp_path, 8)
    path = table(tmp_path / "t.csv", {"image": names, "q1": list("ab") * 4, "q2": list("xxyy") * 2})
    with pytest.raises(DataError, match=r"any of 'q1', 'q2'.*--label"):
        suggest(path, machine=CPU)
    ready = prepared(suggest(path, label="q2", machine=CPU), tmp_path)
    assert ready.classes == ["x", "y"] and ready.recipe.data.label_column == "q2"
    with pytest.raises(DataError, match=r"no column q3; its columns are 'image', 'q1', 'q2'"):
        suggest(path, label="q3", machine=CPU)


def test_photos_of_one_person_stay_together(photos: Photos, table: Table, tmp_path: Path) -> None:
    names = photos(tmp_path / "images", 48)
    columns = {"image": names, "label": list("ab") * 24, "sender_id": [i // 4 for i in range(48)], "kids": [1] * 48}
    suggestion = suggest(table(tmp_path / "t.csv", columns), machine=CPU)
    ready = prepared(suggestion, tmp_path)
    assert ready.recipe.data.group_column == "sender_id" and "12 values; called like a person" in suggestion.text
    folds_of = {}
    for id_, fold in zip(ready.ids, ready.fold_N.tolist(), strict=True):
        folds_of.setdefault(names.index(id_) // 4, set()).add(fold)
    assert all(len(folds) == 1 for folds in folds_of.values())
    assert "kids" not in suggestion.text


def test_one_class_is_refused_with_the_reason(photos: Photos, tmp_path: Path) -> None:
    photos(tmp_path / "data" / "only", 3)
    with pytest.raises(DataError, match="one class, 'only'"):
        suggest(tmp_path / "data", machine=CPU)


def test_images_without_labels_are_refused(photos: Photos, table: Table, tmp_path: Path) -> None:
    names = photos(tmp_path / "data", 3)
    with pytest.raises(DataError, match="lie in no class folder"):
        suggest(tmp_path / "data", machine=CPU)
    with pytest.raises(DataError, match="none of its columns"):
        suggest(table(tmp_path / "t.csv", {"image": names}), machine=CPU)


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for name in ("nothing", "nothing.csv"):
        with pytest.raises(DataError, match="no such folder or table"):
            suggest(tmp_path / name, machine=CPU)


def test_words_for_tables_are_refused_for_a_folder(photos: Photos, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder; images, label and group are for tables"):
        suggest(tmp_path, label="kind", machine=CPU)


def test_classes_decide_how_many_folds_there_are(photos: Photos, tmp_path: Path) -> None:
    photos(tmp_path / "data" / "many", 9)
    photos(tmp_path / "data" / "few", 3)
    assert prepared(suggest(tmp_path / "data", machine=CPU), tmp_path).recipe.data.folds.count == 3


def test_a_gpu_trains_all_folds(photos: Photos, tmp_path: Path) -> None:
    for name in "ab":
        photos(tmp_path / "data" / name, 5)
    ready = prepared(suggest(tmp_path / "data", machine=Machine("H100", 80 * GIB, 16, True)), tmp_path)
    assert ready.folds == (0, 1, 2, 3, 4) and ready.recipe.model.backbone.startswith("convnext_tiny")


def test_a_test_part_and_a_sample_submission_are_taken(photos: Photos, table: Table, tmp_path: Path) -> None:
    names = photos(tmp_path / "images", 12)
    path = table(tmp_path / "train.csv", {"image": names[:8], "label": list("ab") * 4})
    test = table(tmp_path / "test.csv", {"image": names[8:]})
    sample = table(tmp_path / "sample_submission.csv", {"image": names[8:], "label": "a" * 4})
    suggested = suggest(path, machine=CPU).text
    assert f'# test = "{test}"' in suggested and f'# sample_submission = "{sample}"' in suggested
    assert load_text(suggested)["data"].keys() == {"train", "images", "folds"}
    data = prepared(suggest(path, test=str(test), submission=str(sample), machine=CPU), tmp_path).recipe.data
    assert (data.test, data.sample_submission) == (str(test), str(sample))


def load_text(text: str) -> dict[str, dict[str, object]]:
    return tomllib.loads(text)


def test_test_images_are_looked_for_among_those_trained_on(photos: Photos, tmp_path: Path) -> None:
    for name in "ab":
        photos(tmp_path / "train" / name, 3)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "x.jpg").write_bytes((tmp_path / "train" / "a" / "p0.jpg").read_bytes())
    text = suggest(tmp_path / "train", test=str(tmp_path / "test"), machine=CPU).text
    assert "Test images that are among the training images" in text


def test_a_folder_of_parts_is_held_out_as_it_says(photos: Photos, tmp_path: Path) -> None:
    for part, number in (("train", 4), ("val", 2), ("test", 2)):
        for name in "ab":
            photos(tmp_path / "data" / part / name, number, prefix=part)
    suggestion = suggest(tmp_path / "data", machine=CPU)
    ready = prepared(suggestion, tmp_path)
    assert (ready.recipe.data.train, ready.folds, len(ready.ids)) == (str(tmp_path / "data"), (0,), 12)
    assert len(ready.fold_data(0).held_rows_N) == 4 and "the data itself says" in suggestion.text
    assert f'# test = "{tmp_path / "data" / "test"}"' in suggestion.text and ready.recipe.name == "data"


def test_a_validation_part_beside_is_told(photos: Photos, tmp_path: Path) -> None:
    for part in ("train", "validation"):
        for name in "ab":
            photos(tmp_path / "data" / part / name, 3, prefix=part)
    told = findings(suggest(tmp_path / "data" / "train", machine=CPU).survey)
    assert told[0].startswith("validation lies beside it") and f"engine init {tmp_path / 'data'} holds" in told[0]
    told = findings(suggest(tmp_path / "data" / "validation", machine=CPU).survey)
    assert not any("lies beside" in line for line in told)


def test_a_column_of_splits_is_followed(photos: Photos, table: Table, tmp_path: Path) -> None:
    names = photos(tmp_path, 16)
    columns = {"image": names, "label": list("ab") * 8, "split": ["train"] * 8 + ["val"] * 4 + ["test"] * 4}
    ready = prepared(suggest(table(tmp_path / "t.csv", columns), machine=CPU), tmp_path)
    assert ready.recipe.data.fold_column == "split" and ready.folds == (0,)
    assert len(ready.ids) == 12 and len(ready.fold_data(0).held_rows_N) == 4


def test_rows_for_testing_that_no_key_leaves_out_are_told(photos: Photos, table: Table, tmp_path: Path) -> None:
    columns = {"image": photos(tmp_path, 12), "label": list("ab") * 6, "split": ["train"] * 8 + ["test"] * 4}
    suggestion = suggest(table(tmp_path / "t.csv", columns), machine=CPU)
    assert not suggestion.recipe.data.fold_column and "4 rows that column split calls test" in suggestion.text


def test_a_column_of_folds_is_followed(photos: Photos, table: Table, tmp_path: Path) -> None:
    columns = {"image": photos(tmp_path, 12), "label": list("ab") * 6, "fold": [i % 3 for i in range(12)]}
    ready = prepared(suggest(table(tmp_path / "t.csv", columns), machine=CPU), tmp_path)
    assert (ready.recipe.data.fold_column, ready.recipe.data.folds.count) == ("fold", 3)


def test_labels_that_mean_none_are_left_out(photos: Photos, table: Table, tmp_path: Path) -> None:
    labels = [*"ab" * 4, "Not sure", "other", "기타", "nan", "", "NA"]
    path = table(tmp_path / "t.csv", {"image": photos(tmp_path, 14), "label": labels})
    suggestion = suggest(path, machine=CPU)
    ready = prepared(suggestion, tmp_path)
    assert ready.classes == ["NA", "a", "b"]
    assert set(ready.recipe.data.drop_classes) == {"Not sure", "other", "기타", "nan", ""}
    told = "\n".join(findings(suggestion.survey))
    assert "5 images left out" in told and "may mean that there is none: 'NA' (1)" in told
    assert all(line in suggestion.text.replace("\n#     ", " ") for line in findings(suggestion.survey))


def test_two_classes_are_kept_whatever_they_are_called(photos: Photos, tmp_path: Path) -> None:
    for name in ("cat", "other"):
        photos(tmp_path / "data" / name, 3)
    assert prepared(suggest(tmp_path / "data", machine=CPU), tmp_path).classes == ["cat", "other"]


def test_missing_files_are_left_out(photos: Photos, table: Table, tmp_path: Path) -> None:
    names = [*photos(tmp_path, 8), "gone", "lost"]
    suggestion = suggest(table(tmp_path / "t.csv", {"image": names, "label": list("ab") * 5}), machine=CPU)
    ready = prepared(suggestion, tmp_path)
    assert ready.recipe.data.missing == "leave_out" and len(ready.ids) == 8
    assert any("2 of 10 files" in line and "'gone', 'lost'" in line for line in findings(suggestion.survey))


def test_classes_too_small_to_divide_do_not_decide(photos: Photos, tmp_path: Path) -> None:
    for name, number in (("many", 9), ("some", 6), ("two", 2), ("one", 1)):
        photos(tmp_path / "data" / name, number)
    suggestion = suggest(tmp_path / "data", machine=CPU)
    ready = prepared(suggestion, tmp_path)
    assert (ready.recipe.data.rare_classes, ready.recipe.data.folds.count) == ("train", 5)
    assert len(ready.classes) == 4 and "validated in none: 'one' (1), 'two' (2)" in "".join(suggestion.survey.notices)


@pytest.mark.parametrize(("number", "folds"), [(2, 2), (1, 1)])
def test_a_handful_of_photos_is_divided_as_far_as_it_goes(
    photos: Photos, tmp_path: Path, number: int, folds: int
) -> None:
    for name in "ab":
        photos(tmp_path / "data" / name, number)
    assert prepared(suggest(tmp_path / "data", machine=CPU), tmp_path).recipe.data.folds.count == folds


def test_what_training_refuses_is_said(photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(recipe: Recipe) -> None:
        raise RecipeError("stage.0.batch = 8: no")

    for name in "ab":
        photos(tmp_path / "data" / name, 3)
    monkeypatch.setattr("engine.advice.suggest.prepare", refuse)
    suggestion = suggest(tmp_path / "data", machine=CPU)
    assert suggestion.refused == "stage.0.batch = 8: no"
    assert "# As it stands, engine train refuses it: stage.0.batch = 8: no" in suggestion.text


def test_what_is_found_is_said(photos: Photos, tmp_path: Path) -> None:
    for name in ("a", "b"):
        photos(tmp_path / "data" / name, 12)
    (tmp_path / "data" / "a" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "data" / "b" / "again.jpg").write_bytes((tmp_path / "data" / "b" / "p3.jpg").read_bytes())
    (tmp_path / "data" / "b" / "wrong.jpg").write_bytes((tmp_path / "data" / "a" / "p3.jpg").read_bytes())
    suggestion = suggest(tmp_path / "data", machine=CPU)
    told = "\n".join(findings(suggestion.survey))
    for title in ("cannot be decoded", "The same file under several labels", "Exact duplicates"):
        assert title in told and title in suggestion.text
    assert len(prepared(suggestion, tmp_path).ids) == 23


def test_left_and_right_are_not_mirrored(photos: Photos, tmp_path: Path) -> None:
    for name in ("left_hand", "right_hand"):
        photos(tmp_path / "data" / name, 3)
    assert suggest(tmp_path / "data", machine=CPU).recipe.augment.flip == 0


def test_long_photos_are_shown_whole(photos: Photos, tmp_path: Path) -> None:
    for name in "ab":
        photos(tmp_path / "data" / name, 3, size=(20, 40))
    augment = suggest(tmp_path / "data", machine=CPU).recipe.augment
    assert augment.valid.fit == "letterbox" and augment.crop.letterbox_p > 0


def test_what_is_suggested_trains(photos: Photos, table: Table, tmp_path: Path) -> None:
    columns = {"image": photos(tmp_path, 16), "label": list("ab") * 8, "patient": [i // 2 for i in range(16)]}
    text = suggest(table(tmp_path / "t.csv", columns), machine=CPU).text
    smaller = ("model.backbone=test_convnext", "model.pretrained=false", "stage.*.size=32", "stage.*.epochs=1")
    result = train(parse_recipe(text, [*smaller, f"output={tmp_path / 'models'}", "decode.threads=1"]))
    assert result.folds == (0,) and result.metrics["log_loss"] > 0


def test_the_baseline_is_the_entropy_of_the_shares() -> None:
    loss, accuracy = baseline({"a": 3, "b": 1})
    assert loss == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))) and accuracy == 0.75
