"""`engine score`: how good the answers in a file are, how they compare with others, and whether a submission fits."""

from __future__ import annotations

import json
from pathlib import Path

import click

from engine.cli.common import FilePath, shown_interval, table, tell
from engine.errors import EngineError
from engine.files import write_text
from engine.intervals import Difference
from engine.metrics import ClassScores, Scores
from engine.predict.answers import read_answers, read_truth
from engine.predict.check import check as check_submission
from engine.predict.check import labels_in
from engine.predict.judge import Judgement, judge
from engine.text import count

_SHOWN = 20  # classes or groups in a table; the file has all of them


@click.command(
    epilog="""\b
Examples:
  engine score models/predictions/predictions.parquet
  engine score answers.csv test_labels.csv --per-class
  engine score new.parquet truth.csv --group sender --against old.parquet
  engine score --check submission.csv sample_submission.csv

\b
PREDICTIONS is a file of this engine, or any table with an id and then a column
of probabilities a class, or one column of labels. Intervals hold the truth in
95 of 100 cases; "better" is said only of a difference whose interval excludes 0.
"""
)
@click.argument("predictions", type=FilePath())
@click.argument("truth", type=FilePath(path_type=str), required=False)
@click.option("--group", default="", metavar="COLUMN", help="TRUTH's column of what belongs together, such as senders.")
@click.option("--label", default="", metavar="COLUMN", help="TRUTH's column of labels, where it is not clear.")
@click.option("--id", "id_", default="", metavar="COLUMN", help="TRUTH's column of ids, where it is not clear.")
@click.option("--against", type=FilePath(), help="Other predictions of the same images, to compare with.")
@click.option("--per-class", is_flag=True, help="Show each class as well, the worst first.")
@click.option("--json", "out", type=FilePath(dir_okay=False), help="A file for all of it.")
@click.option("--check", is_flag=True, help="Check that PREDICTIONS, a submission, fits TRUTH, its sample.")
@click.option("--known", type=FilePath(), help="With --check: a table with all labels that may be answered.")
def score(
    predictions: Path,
    truth: str | None,
    group: str,
    label: str,
    id_: str,
    against: Path | None,
    per_class: bool,
    out: Path | None,
    check: bool,
    known: Path | None,
) -> None:
    """Score the answers in PREDICTIONS by the labels in TRUTH, or by their own."""
    if check:
        if truth is None:
            raise click.UsageError("--check needs the sample: engine score --check SUBMISSION SAMPLE")
        return _check(predictions, Path(truth), known)
    if truth is None and (group or label or id_):
        raise click.UsageError("--group, --label and --id name columns of TRUTH, which is not given")
    judgement = judge(
        read_answers(predictions),
        None if truth is None else read_truth(truth, label, id_, group),
        None if against is None else read_answers(against),
    )
    tell(*judgement.notices)
    _print(judgement, per_class, bool(group))
    if judgement.against:
        click.echo(f"{predictions} against {against}:")
        for difference in judgement.against:
            click.echo(f"  {in_words(difference)}")
    if out is not None:
        write_text(out, json.dumps(judgement.to_dict(), ensure_ascii=False, indent=1) + "\n")
        click.echo(str(out))


def _check(submission: Path, sample: Path, known: Path | None) -> None:
    findings = check_submission(submission, sample, labels_in(known) if known else ())
    for finding in findings:
        click.echo(f"{submission}: {finding}")
    if findings:
        raise EngineError(f"{submission}: does not fit {sample}: {count(findings, 'finding')}")
    click.echo(f"{submission}: fits {sample}")


def in_words(one: Difference) -> str:
    """A difference as a sentence."""
    told = f"{one.metric.replace('_', ' ')} {one.first:.4f} -> {one.second:.4f}, {one.verdict}"
    if one.low is None or one.high is None:
        return told
    return f"{told} ({one.difference:+.4f}, 95% interval {one.low:+.4f} to {one.high:+.4f})"


def _print(judgement: Judgement, per_class: bool, per_group: bool) -> None:
    drawn = f", drawn by {judgement.groups:,} groups" if judgement.groups else ""
    rows = [
        (name.replace("_", " "), f"{one.value:.4f}", shown_interval(one)) for name, one in judgement.intervals.items()
    ]
    title = f"{count(judgement.scores.images, 'labelled image')}{drawn}"
    table("", "score", "95% interval", rows=rows, title=title)
    if judgement.brier is not None:
        parts = judgement.brier
        click.echo(
            f"brier = reliability {parts.reliability:.4f} - resolution {parts.resolution:.4f} + uncertainty "
            f"{parts.uncertainty:.4f} + within bins {parts.within:+.4f}"
        )
        click.echo(f"calibration error of a calibrated answer of these confidences: {judgement.chance:.4f}")
    if per_class:
        _print_classes(judgement.scores.per_class)
    if per_group:
        _print_groups(judgement.of_groups)


def _print_classes(classes: dict[str, ClassScores]) -> None:
    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:.4f}"

    worst = sorted(classes.items(), key=lambda item: (item[1].f1 is None, item[1].f1 or 0, item[0]))
    rows = [
        (name, one.support, cell(one.precision), cell(one.recall), cell(one.f1), cell(one.auc))
        for name, one in worst[:_SHOWN]
    ]
    title = _title("class", "classes", len(worst), "by F1, the worst first")
    table("class", "images", "precision", "recall", "F1", "AUC", rows=rows, title=title)


def _print_groups(groups: dict[str, Scores]) -> None:
    names = list(next(iter(groups.values())).metrics) if groups else []
    shown = [*groups.items()][:_SHOWN]
    rows = [(name, one.images, *(f"{one.metrics[metric]:.4f}" for metric in names)) for name, one in shown]
    title = _title("group", "groups", len(groups), "those with the most errors first")
    table("group", "images", *(name.replace("_", " ") for name in names), rows=rows, title=title)


def _title(one: str, many: str, number: int, order: str) -> str:
    return f"{f'{_SHOWN} of ' if number > _SHOWN else ''}{count(number, one, many)}, {order}"
