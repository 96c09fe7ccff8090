"""`engine vote`: files of predictions become one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from engine.cli.common import FilePath, table, tell
from engine.ensemble.stack import KINDS, Kind
from engine.ensemble.vote import RULES, Rule
from engine.errors import RecipeError
from engine.predict.voting import Ballot, Voted, check_place, vote_files, write_answer
from engine.text import count

_FITTED = ("score", "fit", "select")
_METRICS = ("log_loss", "accuracy", "macro_f1")


@click.command(
    "vote",
    epilog="""\b
Examples:
  engine vote models/a/predictions/predictions.parquet theirs.csv --out both.csv
  engine vote a.csv b.csv c.csv --vote hard --out labels.csv
  engine vote a.parquet b.csv --weights 2,1 --vote logit --truth truth.csv
  engine vote a/oof.parquet b/oof.parquet --weights fit
  engine vote a.parquet b.parquet --stack logistic --fit-on a/oof.parquet,b/oof.parquet \\
    --out submission.csv --sample sample_submission.csv

\b
A file is predictions.parquet or oof.parquet of this engine, or a table with the id
first and then a column of probabilities a class, or one of labels. Files are joined
by id and by the names of classes, in whatever order they stand.
""",
)
@click.argument("files", nargs=-1, required=True, type=FilePath())
@click.option("--vote", "rule", type=click.Choice(RULES), help="How answers become one.  [default: soft]")
@click.option(
    "--weights",
    metavar="NUMBERS|score|fit|select",
    help="A weight for each file, such as 2,1; or by log loss, the best there are, or by forward selection.",
)
@click.option("--stack", type=click.Choice(KINDS), help="Fit a model on the answers instead of voting.")
@click.option("--truth", type=FilePath(), help="A table of ids and labels, to fit on and to score by.")
@click.option("--group", default="", metavar="COLUMN", help="The column of --truth that says what belongs together.")
@click.option(
    "--fit-on",
    metavar="FILE,FILE",
    help="Labelled files of the same candidates, in the same order, to fit on, such as their oof.parquet.",
)
@click.option("--common", is_flag=True, help="Join the samples and classes that all files have.")
@click.option("--out", type=FilePath(), help="Where the answer is written, .parquet or .csv.")
@click.option("--sample", type=FilePath(), help="A sample submission whose shape --out is to have.")
def vote_command(
    files: tuple[Path, ...],
    rule: Rule | None,
    weights: str | None,
    stack: Kind | None,
    truth: Path | None,
    group: str,
    fit_on: str | None,
    common: bool,
    out: Path | None,
    sample: Path | None,
) -> None:
    """Join predictions that lie in files, of this engine and of other tools, into one.

    Where labels are known (in the files, or by --truth), each file is scored, and the join beside the best of them.
    What is fitted is scored by samples that it was not fitted on ("held out"), and by all ("in sample").
    """
    if stack and (weights or rule):
        raise RecipeError(f"--stack is neither a vote nor weighted; leave {'--weights' if weights else '--vote'} out")
    if group and truth is None:
        raise RecipeError("--group is a column of --truth: add --truth TABLE")
    fitted = stack or (weights if weights in _FITTED else None)
    if fit_on and not fitted:
        raise RecipeError(f"--fit-on: nothing is fitted; add --weights {' or '.join(_FITTED)}, or --stack")
    ballot = Ballot(
        files,
        fitted or "equal",  # type: ignore[arg-type]  # of _FITTED
        () if fitted or weights is None else _numbers(weights),
        rule or "soft",
        truth,
        group,
        _paths(fit_on),
        common,
    )
    check_place(out, (*files, *ballot.fit_on, *([truth] if truth else [])), sample)
    voted = vote_files(ballot)
    tell(*voted.notices)
    if voted.scored is None and out is None:
        raise RecipeError("nothing to do: give --out FILE to write the answer, or --truth TABLE to score it")
    _print(voted)
    if out is not None:
        tell(*write_answer(voted, out, sample))
        click.echo(str(out))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise RecipeError(
            f"--weights {text}: expected a number for each file, such as 2,1, or one of {', '.join(_FITTED)}"
        ) from None


def _paths(text: str | None) -> tuple[Path, ...]:
    kind = FilePath()
    return tuple(kind.convert(part, None, None) for part in (text or "").split(",") if part)


def _print(voted: Voted) -> None:
    join, scored = voted.join, voted.scored
    weights = [f"{weight:.3f}" for weight in join.weights] or [""] * len(join.names)
    if scored is None:
        table("file", "weight", rows=list(zip(join.names, weights, strict=True)))
    else:
        rows: list[tuple[Any, ...]] = [
            (name, weight, *_cells(scored.alone[name])) for name, weight in zip(join.names, weights, strict=True)
        ]
        how = join.how if join.stack else f"{join.rule} vote"
        if scored.in_sample is not None:
            rows.append((f"{how}, in sample", "", *_cells(scored.in_sample)))
        if scored.together is not None:
            fair = ", held out" if scored.in_sample is not None else ""
            rows.append((how + fair, "", *_cells(scored.together)))
        title = f"{count(scored.images, 'labelled sample')}"
        table("", "weight", "log loss", "accuracy", "macro F1", rows=rows, title=title)
        _print_difference(voted)
    click.echo(f"{count(len(voted.answer), 'sample')} answered by {count(join.names, 'file')}")


def _cells(metrics: dict[str, float]) -> list[str]:
    return [f"{metrics[name]:.4f}" for name in _METRICS]


def _print_difference(voted: Voted) -> None:
    scored = voted.scored
    if scored is None or scored.difference is None or len(voted.join.names) < 2:
        return
    one = scored.difference
    between = "" if one.low is None or one.high is None else f" ({one.low:+.4f} to {one.high:+.4f})"
    click.echo(f"log loss against the best file, {scored.best}: {one.difference:+.4f}{between}: {one.verdict}")
