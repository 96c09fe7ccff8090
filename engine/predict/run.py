"""From fold models and a folder of images to files with answers.

In three steps, so that whatever can be refused is refused before the first image is decoded: `prepare` reads the
checkpoints, the images' manifest and the sample submission; `answer` predicts; `write` puts the files in place, each
whole or not at all, once everything is known.

An image that cannot be read is answered, too: with the class shares of the training data, the best answer of somebody
who sees nothing. A submission without its row would be refused as a whole. It is named in `status` and to the user.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from engine.augment.views import views_of
from engine.data.ingest import Progress, ingest
from engine.data.listing import list_labels
from engine.data.manifest import OK, Manifest
from engine.data.names import Names, groups_of
from engine.ensemble.vote import Rule, blend, vote
from engine.errors import DataError, RecipeError
from engine.files import write_text
from engine.inference.predictor import Predictor
from engine.loader.batches import Loader, Samples
from engine.loader.source import Files
from engine.metrics import group_accuracy, score
from engine.order import eval_batches
from engine.predict.ids import find_ids
from engine.predict.panel import Found, Panel, find_specialists
from engine.predict.submission import Sheet, write_submission
from engine.predictions import Predictions
from engine.recipe.load import parse_recipe
from engine.recipe.sections import DataSection, Recipe
from engine.store import checkpoint
from engine.store.checkpoint import Checkpoint
from engine.text import some

PREDICTIONS, SUBMISSION, SCORES = "predictions.parquet", "submission.csv", "scores.json"


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be predicted, by whom, and what the submission will look like."""

    folders: tuple[Path, ...]
    checkpoints: tuple[Checkpoint, ...]
    recipe: Recipe  # data, decode, predict and augment.executor are followed
    manifest: Manifest
    labels: tuple[str, ...]  # of the manifest's images; "" where unknown
    sheet: Sheet
    specialists: tuple[Found, ...] = ()  # that are asked

    @property
    def classes(self) -> tuple[str, ...]:
        return self.checkpoints[0].classes


@dataclasses.dataclass(frozen=True)
class Scores:
    """Metrics by name over the `images` that have a known label: of all models together, of each alone, and of always
    answering the class shares. `unknown`: labels of the data that the models do not know.

    Specialists count in `together` and not in `alone`; `without_specialists` is what together was without them, {} when
    none were asked."""

    images: int
    together: dict[str, float]
    alone: dict[str, dict[str, float]]  # by the name of the fold's folder
    baseline: dict[str, float]
    unknown: tuple[str, ...]
    without_specialists: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Answers for every image of the job, in the manifest's order; `status` says "ok", or why an image was not seen."""

    answers: Predictions
    status: tuple[str, ...]
    scores: Scores | None  # None: the data has no labels
    seconds: float
    asked: dict[str, int] = dataclasses.field(default_factory=dict)  # images each specialist was asked about

    @property
    def failed(self) -> list[int]:
        """Rows whose image could not be seen."""
        return [row for row, status in enumerate(self.status) if status != OK]


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What the user asks for beside what the checkpoint's recipe says. None: as the recipe says.

    data: images to predict. The recipe's sample submission belongs to its own test images and is then left aside.
    truth: a table with the ids and labels of (some of) the images, to score the answers by; else folder names or the
    images' own table may hold labels. sets: "key=value" changes of the recipe: of data, decode, predict and
    augment.executor.
    """

    data: str | None = None
    truth: str | None = None
    views: int | None = None
    batch: int | None = None
    sets: tuple[str, ...] = ()

    def applied_to(self, saved: Checkpoint) -> Recipe:
        """The checkpoint's recipe with these changes. Raises RecipeError for one that a trained model cannot follow."""
        trained = parse_recipe(saved.recipe, origin="checkpoint.json")
        asked = {"predict.tta": self.views, "predict.batch": self.batch}
        sets = (*self.sets, *(f"{key}={value}" for key, value in asked.items() if value is not None))
        recipe = parse_recipe(saved.recipe, sets, origin="checkpoint.json")
        augment = trained.augment.model_copy(update={"executor": recipe.augment.executor})
        free = {"data": recipe.data, "decode": recipe.decode, "predict": recipe.predict, "augment": augment}
        if trained.model_copy(update=free) != recipe:
            raise RecipeError(
                f"--set {' --set '.join(self.sets)}: a trained model is used as it was trained. "
                "Only data, decode, predict and augment.executor can be changed"
            )
        data = {}
        if self.data is not None:
            data["test"] = self.data
            if not any(text.replace(" ", "").startswith("data.sample_submission=") for text in self.sets):
                data["sample_submission"] = ""
        return recipe.model_copy(update={"data": recipe.data.model_copy(update=data)})


def prepare(models: Path, wishes: Wishes, progress: Progress | None = None) -> Job:
    """Read what is needed and check that it fits together; `progress(done, total)` counts files indexed.

    `models` is a folder of fold models, or one fold's own folder. Raises CheckpointError, RecipeError or DataError,
    naming the remedy.
    """
    folders = checkpoint.find_folds(models)
    checkpoints = [checkpoint.load(folder) for folder in folders]
    first = checkpoints[0]
    for folder, other in zip(folders, checkpoints, strict=True):
        if set(other.classes) != set(first.classes):
            only = sorted(set(other.classes) ^ set(first.classes))
            raise DataError(
                f"{folder} and {folders[0]} know different classes ({some(only)}); "
                "they do not answer the same question. Give folds of one training only"
            )
    recipe = wishes.applied_to(first)
    if not recipe.data.test:
        raise RecipeError("no images to predict: give --data FOLDER_OR_TABLE, or set data.test in the recipe")
    manifest = ingest(recipe.data.test, recipe.data, progress)
    names = Names.of(recipe.data)
    if recipe.data.sample_submission:
        sheet = Sheet.like(Path(recipe.data.sample_submission), manifest.ids, first.classes, names)
    else:
        sheet = Sheet.plain(manifest.ids, first.classes, names)
    labels = manifest.labels if wishes.truth is None else _labels(wishes.truth, recipe.data, manifest.ids)
    return Job(
        folders=tuple(folders),
        checkpoints=tuple(checkpoints),
        recipe=recipe,
        manifest=manifest,
        labels=tuple(map(names.class_of, labels)),
        sheet=sheet,
        specialists=find_specialists(folders, first.classes) if recipe.predict.specialists else (),
    )


def answer(job: Job, device: torch.device, rule: Rule = "soft", progress: Progress | None = None) -> Outcome:
    """Predict every image: views averaged within each model, then models with each other, both by `rule`; in between,
    specialists are asked.

    `progress(done, total)` counts images. Raises DataError when no image can be decoded.
    """
    began_s = time.perf_counter()
    manifest, predict = job.manifest, job.recipe.predict
    predictor = Predictor(job.checkpoints, device, views_of(predict), job.recipe.augment.executor)
    status = manifest.table["status"].to_pylist()
    rows_N = np.flatnonzero(np.array(status) == OK)
    unknown_N = np.full(len(manifest), -1)
    samples = Samples(manifest.ids, Files(manifest.paths), manifest.keys_N, unknown_N)
    loader = Loader(samples, job.recipe.decode, device)
    shares = [_class_shares(saved, manifest.ids) for saved in job.checkpoints]
    answers = list(map(_copied, shares))
    panel, joined = None, []
    if job.specialists:
        known = [saved.classes for saved in job.checkpoints]
        executor = job.recipe.augment.executor
        panel = Panel(job.specialists, job.folders, known, device, views_of(predict), executor, rule)
        joined = [_copied(shares[voters[0]]) for voters in panel.voters]
    seen_N = np.zeros(len(manifest), dtype=bool)
    for decoded in loader.photos(eval_batches(rows_N, predict.batch)):
        heard = [
            blend(logits_VBC.double().softmax(dim=2).cpu().numpy(), rule)
            for logits_VBC in predictor.logits(decoded.images)
        ]
        for voter, main_BC in zip(answers, heard, strict=True):
            voter.probabilities_NC[decoded.rows_B] = main_BC
        if panel is not None:
            for fold, joined_BC in zip(joined, panel.joined(decoded.images, heard), strict=True):
                fold.probabilities_NC[decoded.rows_B] = joined_BC
        seen_N[decoded.rows_B] = True
        if progress:
            progress(int(seen_N.sum()) + len(loader.quarantine), len(rows_N))
    for row in rows_N[~seen_N[rows_N]].tolist():
        status[row] = str(loader.quarantine[manifest.ids[row]].fault)
    if not seen_N.any():
        raise DataError(
            f"none of the {len(manifest)} images can be decoded; the first, {manifest.paths[0]}: {status[0]}"
        )
    together = main = vote(answers, rule)
    if panel is not None:
        # Every kept epoch has one vote, as it has without specialists.
        together = vote(joined, rule, [len(voters) for voters in panel.voters])
    names = [_name(folder) for folder in job.folders]
    groups = groups_of(together.classes, job.recipe.data)
    scores = _scores(job.labels, groups, together, dict(zip(names, answers, strict=True)), vote(shares))
    if scores is not None and panel is not None:
        without = _scores(job.labels, groups, main, {}, vote(shares))
        assert without is not None  # the labels are the same
        scores = dataclasses.replace(scores, without_specialists=without.together)
    asked = {} if panel is None else panel.asked
    return Outcome(together, tuple(status), scores, time.perf_counter() - began_s, asked)


def write(job: Job, outcome: Outcome, folder: Path) -> list[Path]:
    """Write predictions.parquet, submission.csv and, when the data has labels, scores.json; returns their paths."""
    written = [folder / PREDICTIONS, folder / SUBMISSION]
    outcome.answers.write(written[0], _beside(job, outcome))
    write_submission(written[1], job.sheet, outcome.answers)
    if outcome.scores is None:
        (folder / SCORES).unlink(missing_ok=True)  # of other images: it would be taken for these
    else:
        written.append(folder / SCORES)
        write_text(written[2], json.dumps(dataclasses.asdict(outcome.scores), ensure_ascii=False, indent=1) + "\n")
    return written


def _beside(job: Job, outcome: Outcome) -> dict[str, pa.Array]:
    """The columns of predictions.parquet between the id and the probabilities: path, prediction (the likeliest class),
    confidence (its probability), status, and label where the images have any."""
    answers = outcome.answers
    columns = {
        "path": pa.array(job.manifest.paths, pa.string()),
        "prediction": pa.array(answers.answers, pa.string()),
        "confidence": pa.array(answers.probabilities_NC.max(1), pa.float32()),
        "status": pa.array(outcome.status, pa.string()),
    }
    return columns | ({"label": pa.array(job.labels, pa.string())} if any(job.labels) else {})


def _labels(truth: str, section: DataSection, ids: Sequence[str]) -> list[str]:
    """For each id its label in the table `truth`, "" where it has none."""
    if not Path(truth).is_file():
        raise DataError(f"{truth}: no such table of labels")
    by_id = list_labels(truth, section)
    found = find_ids(list(by_id), ids)
    label_of = {
        sample_id: label for sample_id, label in zip(found, by_id.values(), strict=True) if sample_id is not None
    }
    if not label_of:
        raise DataError(f"{truth}: none of its ids is an image's: {some(list(by_id))}; images are like {some(ids, 3)}")
    return [label_of.get(sample_id, "") for sample_id in ids]


def _copied(answers: Predictions) -> Predictions:
    return dataclasses.replace(answers, probabilities_NC=answers.probabilities_NC.copy())


def _name(folder: Path) -> str:
    """What a model is called: the fold's number, and the epoch's where a fold kept several."""
    is_epoch = folder.name.startswith(checkpoint.EPOCH_PREFIX)
    return f"{folder.parent.name}/{folder.name}" if is_epoch else folder.name


def _class_shares(saved: Checkpoint, ids: Sequence[str]) -> Predictions:
    """What a model answers about images that it cannot see."""
    counts_C = np.array(saved.class_counts, dtype=np.float64)
    shares_NC = np.tile(counts_C / counts_C.sum(), (len(ids), 1))
    return Predictions(tuple(ids), saved.classes, shares_NC)


def _scores(
    labels: Sequence[str],
    groups: Sequence[str],
    together: Predictions,
    alone: dict[str, Predictions],
    blind: Predictions,
) -> Scores | None:
    """How good the answers are where the label is known; None when it is nowhere."""
    index = {name: column for column, name in enumerate(together.classes)}
    labels_N = np.array([index.get(label, -1) for label in labels], dtype=np.int64)
    known_N = labels_N >= 0
    if not known_N.any():
        return None

    def scored(answers: Predictions) -> dict[str, float]:
        ordered = answers.in_order(together.ids, together.classes)
        metrics = score(ordered.probabilities_NC[known_N], labels_N[known_N])
        if groups:
            metrics["group_accuracy"] = group_accuracy(ordered.probabilities_NC[known_N], labels_N[known_N], groups)
        return metrics

    return Scores(
        images=int(known_N.sum()),
        together=scored(together),
        alone={name: scored(answers) for name, answers in alone.items()},
        baseline=scored(blind),
        unknown=tuple(sorted(set(labels) - {""} - set(index))),
    )
