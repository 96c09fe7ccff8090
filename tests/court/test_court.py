"""From a run to suspects, from decisions to the labels that the next run is trained on."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path

import pytest

from engine.court.court import Court, places
from engine.court.evidence import Evidence
from engine.data.clean import clean
from engine.data.ingest import ingest
from engine.data.sources.litter import tidy
from engine.errors import DataError
from engine.recipe.sections import DataSection
from engine.store.run_folder import RunFolder


def labels_of(section: DataSection) -> dict[str, str]:
    """The labels that training learns with this section."""
    cleaned = clean(ingest(section.train, section), section)
    return dict(zip(cleaned.manifest.ids, cleaned.manifest.labels, strict=True))


def with_sets(section: DataSection, sets: list[str]) -> DataSection:
    return section.model_copy(update=dict(one.removeprefix("data.").split("=", 1) for one in sets))


def with_labels(court: Court, changed: dict[str, str]) -> Court:
    """The court of a run on the same photos, some of whose labels are others."""
    answers = court.ranking.evidence.answers
    labels = tuple(changed.get(id_, label) for id_, label in court.label_of.items())
    evidence = dataclasses.replace(court.ranking.evidence, answers=dataclasses.replace(answers, labels=labels))
    signals = dataclasses.replace(court.ranking.signals, evidence=evidence)
    return dataclasses.replace(court, ranking=dataclasses.replace(court.ranking, signals=signals))


def test_the_evidence_of_a_run_is_all_there_and_out_of_fold(opened: Court) -> None:
    evidence = opened.ranking.evidence
    assert evidence.members_MNC.shape == (2, 96, 4)
    assert evidence.by_epoch is not None and evidence.by_epoch.epochs == tuple(range(14))
    assert evidence.nearby is not None
    fold_of = dict(zip(evidence.answers.ids, evidence.answers.fold_N.tolist(), strict=True))
    for id_, near in zip(evidence.answers.ids, evidence.nearby.ids, strict=True):
        assert {fold_of[one] for one in near} == {1 - fold_of[id_]}


def test_suspects_come_with_what_a_person_needs(opened: Court) -> None:
    case = opened.case(0)
    assert [opened.case(place).wrong for place in range(len(opened))] == sorted(opened.ranking.wrong_N, reverse=True)
    assert len(case.instead) == 3 and case.label not in dict(case.instead)
    assert case.reasons and len(case.nearest) == 8 and Path(opened.path(case.id)).is_file()
    assert all(opened.case(place).label == "bar" for place in places(opened, 5, "bar"))
    with pytest.raises(KeyError):
        opened.path("../etc/passwd")


def test_corrected_labels_are_trained_on_and_old_ones_come_back(court: Court, tmp_path: Path) -> None:
    section = court.photos.recipe.data
    before = labels_of(section)
    wrong, new, gone, kept = (court.case(place) for place in range(4))
    court.decide(wrong.id, "relabel", wrong.instead[0][0], "minji")
    court.decide(new.id, "relabel", "새 이름, 하나", "minji")
    court.decide(gone.id, "drop", who="jun")
    court.decide(kept.id, "keep", who="jun")
    sets = court.corrections().write(tmp_path / "relabel.csv")
    assert [one.split("=")[0] for one in sets] == ["data.relabel", "data.exclude_file"]
    after = labels_of(with_sets(section, sets))
    expected = before | {wrong.id: wrong.instead[0][0], new.id: "새 이름, 하나"}
    del expected[gone.id]
    assert after == expected
    assert labels_of(section) == before
    court.decide(wrong.id, "undo")
    court.decide(gone.id, "undo")
    sets = court.corrections().write(tmp_path / "relabel.csv")
    assert labels_of(with_sets(section, sets[:1])) == before | {new.id: "새 이름, 하나"} and len(sets) == 1


def test_what_the_recipe_corrects_already_stays_corrected(court: Court, tmp_path: Path) -> None:
    first, second, third = (court.case(place) for place in range(3))
    table, left_out = tmp_path / "old.csv", tmp_path / "old.txt"
    table.write_text(f"image,label\n{Path(first.id).name},bar\n{second.id},bar\n", "utf-8")
    left_out.write_text(f"{court.case(5).id}\n", "utf-8")
    data = court.photos.recipe.data.model_copy(update={"relabel": str(table), "exclude_file": str(left_out)})
    photos = dataclasses.replace(court.photos, recipe=court.photos.recipe.model_copy(update={"data": data}))
    court = dataclasses.replace(court, photos=photos)
    court.decide(second.id, "relabel", "새것")
    court.decide(third.id, "drop")
    found = court.corrections()
    assert found.label_of == {first.id: "bar", second.id: "새것"}
    assert found.left_out == (court.case(5).id, third.id)


def test_a_label_that_the_recipe_calls_otherwise_is_refused(court: Court) -> None:
    data = court.photos.recipe.data.model_copy(update={"label_names": (("x", "고리"),)})
    photos = dataclasses.replace(court.photos, recipe=court.photos.recipe.model_copy(update={"data": data}))
    court = dataclasses.replace(court, photos=photos)
    court.decide(court.case(0).id, "relabel", "x")
    with pytest.raises(DataError, match=r"'x'.*'고리'"):
        court.corrections()


def test_a_decision_about_a_label_that_has_changed_since_does_not_count(court: Court) -> None:
    case, other = court.case(0), court.case(1)
    court.decide(case.id, "keep")
    court.decide(other.id, "drop")
    later = with_labels(court, {case.id: "elsewhere", other.id: "elsewhere"})
    assert set(court.decided()) == {case.id, other.id} and set(later.decided()) == {other.id}


def test_a_label_that_somebody_changed_since_is_not_changed_back(court: Court) -> None:
    case, other = court.case(0), court.case(1)
    court.decide(case.id, "relabel", "새것")
    court.decide(other.id, "relabel", "새것")
    later = with_labels(court, {case.id: "elsewhere", other.id: "새것"})
    assert later.corrections().label_of == {other.id: "새것"}


def test_a_new_label_is_written_as_training_will_read_it(court: Court) -> None:
    id_ = court.case(0).id
    court.decide(id_, "relabel", " 새\u00a0 이름\u200b ")
    assert court.corrections().label_of == {id_: tidy(" 새\u00a0 이름\u200b ")}
    with pytest.raises(ValueError, match="already"):
        court.decide(id_, "relabel", f"{court.case(0).label}\u200b")


def test_the_list_holds_every_label_with_reasons_and_decisions(court: Court, tmp_path: Path) -> None:
    court.decide(court.case(1).id, "drop", who="jun")
    court.write_list(tmp_path / "list.csv")
    with (tmp_path / "list.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [court.case(place).id for place in range(96)]
    assert (rows[1]["decision"], rows[1]["who"], rows[0]["decision"]) == ("drop", "jun", "")
    assert rows[0]["reasons"].startswith("held out") and float(rows[0]["own"]) < 0


def test_decisions_made_elsewhere_are_taken_in_once(court: Court, tmp_path: Path) -> None:
    case = court.case(0)
    elsewhere = tmp_path / "decisions.csv"
    head = "id,given,decision,new,who,when\n"
    elsewhere.write_text(f"{head}{case.id},{case.label},drop,,jun,2026-11-26T04:00:00Z\n", "utf-8")
    assert (court.merge(elsewhere), court.merge(elsewhere)) == (1, 0)
    assert court.decided()[case.id].who == "jun"
    elsewhere.write_text(f"{head}another,x,drop,,jun,2026-11-26T04:00:00Z\n", "utf-8")
    with pytest.raises(DataError, match="another"):
        court.merge(elsewhere)


def test_a_run_that_has_less_is_judged_by_what_it_has(finished_run: Path, tmp_path: Path) -> None:
    """As older engines left it, and without what neighbours take."""
    folder = tmp_path / "old"
    shutil.copytree(finished_run, folder, ignore=shutil.ignore_patterns("epochs.parquet", "bank.*", "*.safetensors"))
    evidence = Evidence.read(RunFolder(folder))
    assert evidence.by_epoch is None and evidence.nearby is None and len(evidence.members_MNC) == 2
    RunFolder(folder).out_of_fold.unlink()
    with pytest.raises(DataError, match=r"oof\.parquet: no such file.*data\.folds\.count"):
        Evidence.read(RunFolder(folder))
