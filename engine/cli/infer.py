"""`engine infer`: fold models answer for a folder or table of images."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from engine.cli.common import FilePath, ViewNames, progress, set_option, table, tell
from engine.cli.shown import show_answers
from engine.cli.specialists import print_asked
from engine.ensemble.vote import RULES, Rule
from engine.predict.job import Job, prepare
from engine.predict.models import Wishes
from engine.predict.run import Outcome, answer, refuse_place, write
from engine.store.run_folder import RunFolder
from engine.text import count

_SHOWN = 10  # images that could not be seen, named one by one


@click.command(
    epilog="""\b
Examples:
  engine infer --tta 5 --folds models/
  engine infer --folds models/0 --data photos/ --out answers/
  engine infer --folds models/ --data photos/ --show 5
  engine infer --folds models/ --data photos/ --views plain,flip,scale_1.25
  engine infer --folds models/ --data test.csv --set data.test_images=photos/ --vote logit

\b
Writes into --out:
  predictions.parquet  id, path, prediction, confidence, status, label when known, and a column p:CLASS a class
  submission.csv       shaped like data.sample_submission when that is set
  scores.json          when the images have labels, or --truth gives them
"""
)
@click.option(
    "--folds",
    type=FilePath(),
    default=Path("models"),
    show_default=True,
    help="Folder of fold models, or one fold's folder.",
)
@click.option(
    "--data",
    type=FilePath(path_type=str),
    help="Images to predict: a folder, .csv, .tsv or .parquet.  [default: the recipe's data.test]",
)
@click.option("--out", type=FilePath(), help="Folder for the answers.  [default: FOLDS/predictions]")
@click.option(
    "--truth",
    type=FilePath(path_type=str),
    help="A table with the ids and labels of the images, to score the answers by.",
)
@click.option("--tta", type=click.IntRange(1, 10), help="Views of each image to average.  [default: predict.tta]")
@click.option("--views", type=ViewNames(), help="Their names, with commas between.  [default: predict.views]")
@click.option("--vote", type=click.Choice(RULES), help="How answers are averaged.  [default: ensemble.vote]")
@click.option("--batch", type=click.IntRange(1), help="Images in a batch.  [default: predict.batch]")
@click.option(
    "--show", type=click.IntRange(0), default=0, help="Show so many of the images with their likeliest classes."
)
@set_option
def infer(
    folds: Path,
    data: str | None,
    out: Path | None,
    truth: str | None,
    tta: int | None,
    views: tuple[str, ...] | None,
    vote: Rule | None,
    batch: int | None,
    show: int,
    sets: tuple[str, ...],
) -> None:
    """Predict images with all fold models together.

    What the images are, how they are prepared and how answers become one is read from the models' folder. --set may
    change data, decode, predict, ensemble and augment.executor.
    """
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    with progress(unit="files", title="indexing") as meter:
        job = prepare(folds, Wishes(data, truth, tta, views or (), vote, batch, sets=sets), meter)
    place = out or RunFolder(folds).predictions.path
    refuse_place(place)
    tell(*job.manifest.notices, *job.notices)
    with progress(title="predicting") as meter:
        outcome = answer(job, device, meter)
    files = write(job, outcome, place)
    if show:
        show_answers(job, outcome, show)
    _print(job, outcome, files)


def _print(job: Job, outcome: Outcome, files: list[Path]) -> None:
    tell(*(f"not seen: {job.manifest.paths[row]}: {outcome.status[row]}" for row in outcome.failed[:_SHOWN]))
    if outcome.failed:
        shares = "answered with the class shares of the training data"
        tell(f"{len(outcome.failed):,} images could not be seen and are {shares}")
    if job.sheet.left_out:
        more, first = len(job.sheet.left_out), job.sheet.left_out[0]
        tell(f"{more:,} images are not asked for by the sample submission, such as {first}")

    everyone = f"{count(job.models.members, 'model')}, {count(job.models.recipe.predict.tta, 'view')}"
    if (scores := outcome.scores) is not None:
        voters = [("class shares", scores.baseline)]
        if len(scores.alone) > 1:
            voters += [(f"model {name}", metrics) for name, metrics in scores.alone.items()]
        if scores.without_specialists:
            voters.append(("without specialists", scores.without_specialists))
        voters.append((everyone, scores.together))
        names = ("log_loss", "accuracy", "macro_f1")
        rows = [(who, *(f"{metrics[name]:.4f}" for name in names)) for who, metrics in voters]
        table("", "log loss", "accuracy", "macro F1", rows=rows, title=f"{scores.images:,} labelled images")
    print_asked(outcome)
    rate = len(outcome.status) / outcome.seconds
    click.echo(f"{len(outcome.status):,} images by {everyone}: {outcome.seconds:.1f} s, {rate:,.0f} images a second")
    for path in files:
        click.echo(str(path))
