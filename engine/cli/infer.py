"""`engine infer`: fold models answer for a folder or table of images."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import click

from engine.cli.beside import print_beside
from engine.cli.common import FilePath, Share, ViewNames, Weights, progress, set_option, shown_interval, table, tell
from engine.cli.screen import stop_on_signals
from engine.cli.shown import show_answers
from engine.cli.specialists import print_asked
from engine.ensemble.vote import RULES, Rule
from engine.predict.begun import held
from engine.predict.job import Job, prepare
from engine.predict.models import Wishes, run_folders
from engine.predict.outcome import Outcome
from engine.predict.run import answer
from engine.predict.writing import refuse_place, write
from engine.ranks import join_ranks
from engine.store.run_folder import RunFolder
from engine.text import count

_SHOWN = 10  # images that could not be seen, named one by one


@click.command(
    epilog="""\b
Examples:
  engine infer --tta 5 --folds models/
  engine infer --folds models/0 --data photos/ --out answers/
  engine infer --folds models/ --data photos/ --show 5
  engine infer --folds models/ --data photos/ --risk 1%
  engine infer --folds small/ --folds large/ --weights 1,2 --data photos/ --out answers/
  engine infer --folds models/ --data photos/ --views plain,flip,scale_1.25
  engine infer --folds models/ --data test.csv --set data.test_images=photos/ --vote logit
  engine infer --folds models/ --data 'photos/**/*.jpg' --data more/
  find photos -name '*.jpg' -print0 | engine infer --folds models/ --data -
  torchrun --nproc-per-node 8 -m engine.cli.main infer --folds models/ --data test.parquet

\b
Writes into --out:
  predictions.parquet  id, path, prediction, confidence, status, label when known, what is asked for beside answers
                       (set, abstain, strange, strangeness, near), and a column p:CLASS a class
  submission.csv       shaped like data.sample_submission when that is set
  scores.json          when the images have labels, or --truth gives them

Until then answers are collected in parts/ there. Stop it with Ctrl-C (exit code 3), or lose the machine: the same
command goes on, and decodes no image again whose answer is in parts/. Ranks need a folder that all of them see.
"""
)
@click.option(
    "--folds",
    type=FilePath(),
    multiple=True,
    default=(Path("models"),),
    show_default="models",
    help="Folder of fold models, one fold's folder, or that of an ensemble of runs. May be repeated: runs that answer "
    "together, each by its own steps, with equal votes.",
)
@click.option("--weights", type=Weights(), help="How much each of several --folds counts.  [default: equal]")
@click.option(
    "--data",
    type=FilePath(path_type=str),
    multiple=True,
    help="Images to predict: a folder, a .csv, .tsv or .parquet, a pattern such as 'photos/**/*.jpg', an image, or - "
    "for a list of paths on standard input. May be repeated.  [default: the recipe's data.test]",
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
@click.option(
    "--risk",
    type=Share(),
    help="Also a set of classes that lacks the true one in no more than this share of images, such as 1%.  "
    "[default: predict.risk]",
)
@click.option("--batch", type=click.IntRange(1), help="Images in a batch.  [default: predict.batch]")
@click.option(
    "--show", type=click.IntRange(0), default=0, help="Show so many of the images with their likeliest classes."
)
@click.option("--overwrite", is_flag=True, help="Remove what an unfinished prediction left in --out first.")
@set_option
def infer(
    folds: tuple[Path, ...],
    weights: tuple[float, ...] | None,
    data: tuple[str, ...],
    out: Path | None,
    truth: str | None,
    tta: int | None,
    views: tuple[str, ...] | None,
    vote: Rule | None,
    risk: float | None,
    batch: int | None,
    show: int,
    overwrite: bool,
    sets: tuple[str, ...],
) -> None:
    """Predict images with all fold models together.

    What the images are, how they are prepared and how answers become one is read from the models' folder. --set may
    change data, decode, predict, ensemble and augment.executor.
    """
    run_folders(folds)  # before a folder is made inside one
    if out is None and len(folds) > 1:
        raise click.UsageError("several --folds need --out, the folder for the answers")
    place = out or RunFolder(folds[0]).predictions.path
    refuse_place(place)
    sets = sets if risk is None else (*sets, f"predict.risk={risk}")
    wishes = Wishes(data or None, truth, tta, views or (), vote, batch, weights or (), sets)
    with join_ranks() as ranks, ExitStack() as stack:
        if ranks.leads:
            stack.enter_context(held(place))
        with progress(title="listing") as meter:
            job = prepare(folds, wishes, meter, place, ranks, overwrite)
        if ranks.leads:
            tell(*job.notices)
        with stop_on_signals() as stop, progress(title="predicting") as meter:
            outcome = answer(job, ranks.device, meter if ranks.leads else None, stop=stop, ranks=ranks)
        if ranks.leads:
            files = write(job, outcome, place)
            if show:
                show_answers(job, outcome, show)
            _print(job, outcome, files)
            job.parts.clear()


def _print(job: Job, outcome: Outcome, files: list[Path]) -> None:
    failed = outcome.images - outcome.seen
    if failed:
        tell(*(f"not seen: {path}: {why}" for path, why in islice(outcome.failed, _SHOWN)))
        shares = "answered with the class shares of the training data"
        tell(f"{failed:,} images could not be seen and are {shares}")
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
        rows.append(("  95% interval", *(shown_interval(scores.intervals[name]) for name in names)))
        table("", "log loss", "accuracy", "macro F1", rows=rows, title=f"{scores.images:,} labelled images")
    print_asked(outcome)
    print_beside(outcome)
    rate = outcome.answered / outcome.seconds
    click.echo(f"{outcome.answered:,} images by {everyone}: {outcome.seconds:.1f} s, {rate:,.0f} images a second")
    for path in files:
        click.echo(str(path))
