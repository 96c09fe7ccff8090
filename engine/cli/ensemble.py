"""`engine ensemble`: how a run, or several, become one answer is fitted anew, and nothing is trained."""

from __future__ import annotations

from pathlib import Path

import click

from engine.cli.common import FilePath, set_option, table
from engine.cli.gains import print_gains

_METRICS = {"log_loss": "log loss", "accuracy": "accuracy", "macro_f1": "macro F1", "calibration_error": "calibration"}


@click.command(
    epilog="""\b
Examples:
  engine ensemble models/
  engine ensemble models/ --set ensemble.weights=select --set ensemble.calibrate=vector
  engine ensemble models/ --set predict.risk=0.01 --set predict.abstain_accuracy=0.98
  engine ensemble small/ large/ --out both/
  engine ensemble small/ large/ --out both/ --set ensemble.stack=logistic

With one run, writes its ensemble.json, oof.parquet and scores.json anew. With
several, writes these into --out; engine infer --folds OUT asks all of them.
"""
)
@click.argument("runs", nargs=-1, required=True, type=FilePath())
@click.option("--out", type=FilePath(file_okay=False), help="Folder for an ensemble of several runs.")
@set_option
def ensemble(runs: tuple[Path, ...], out: Path | None, sets: tuple[str, ...]) -> None:
    """Fit anew how the models in RUNS answer together, from their out-of-fold answers.

    Weights or a stack, neighbours and calibration, as the recipe and --set ask for them: each is judged on images that
    it was not fitted on, and kept where it gains. --set may change ensemble and predict.
    """
    if len(runs) == 1:
        if out is not None:
            raise click.UsageError("--out is for several runs; one run's ensemble lies in its own folder")
        _one(runs[0], sets)
    elif out is None:
        raise click.UsageError("several runs need --out, the folder for their ensemble")
    else:
        _several(runs, out, sets)


def _one(run: Path, sets: tuple[str, ...]) -> None:
    from engine.store.occupied import refuse_if_taken
    from engine.store.run_folder import RunFolder
    from engine.training.settle import settle_again

    folder = RunFolder(run)
    refuse_if_taken(folder.occupied, "a run", "Wait until it has ended")
    settled = settle_again(folder, sets)
    if settled.baseline_log_loss is None:
        click.echo(f"{run}: trained on everything; there are no out-of-fold answers to fit anything on")
        return
    table("", *_METRICS.values(), rows=[_row("out of fold", settled.metrics)])
    print_gains(settled.gains)
    click.echo(str(folder.ensemble))


def _several(runs: tuple[Path, ...], out: Path, sets: tuple[str, ...]) -> None:
    from engine.ensemble.runs import fit_runs
    from engine.store.run_folder import RunFolder

    found = fit_runs(runs, out, sets)
    rows = [_row(name, metrics) for name, metrics in found.alone.items()]
    table("out of fold", *_METRICS.values(), rows=[*rows, _row("together", found.metrics)])
    print_gains(found.fitted.gains)
    join = found.fitted.parts.join
    if join is not None and join.weights:
        click.echo(
            "weights: " + ", ".join(f"{name} {weight:.3f}" for name, weight in zip(runs, join.weights, strict=True))
        )
    click.echo(str(RunFolder(out).ensemble))
    click.echo(f"Predict with: engine infer --folds {out}")


def _row(name: str, metrics: dict[str, float]) -> tuple[str, ...]:
    return (name, *(f"{metrics[metric]:.4f}" for metric in _METRICS))
