"""The door of the command line: lists the commands, opens the one that is asked for, and turns errors into exit codes.

Nothing is imported here but click, see lazy.py. An error the user can mend is shown as its message alone; a traceback
means a fault in the engine.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

import click

from engine.cli.common import RECIPE
from engine.cli.lazy import LazyGroup
from engine.errors import EngineError, Interrupted, RecipeError
from engine.exhausted import exhausted, first_line

FAILED, USAGE, INTERRUPTED = 1, 2, 3
_SMALLER = "Choose a smaller model.backbone, or smaller batches (stage.*.batch, predict.batch), or use a larger machine"

# Decoding, the pass and the model take turns on the same cores. Threads of torch that spin while they wait for each
# other then keep the others from working, and on few cores a training step takes far longer. Read by the OpenMP runtime
# when torch is imported, so it is set before any command is.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


class Main(LazyGroup):
    """The group `engine`: errors of all its commands end here."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (EngineError, OSError, ModuleNotFoundError, KeyboardInterrupt) as error:
            message = _message(error, ctx.meta.get(RECIPE, ""))
            if message is None or ctx.params["debug"]:
                raise
            click.secho(message, fg="red" if sys.stderr.isatty() else None, err=True)
            ctx.exit(_exit_code(error))
        except (MemoryError, RuntimeError) as error:
            where = exhausted(error)
            if where is None or ctx.params["debug"]:
                raise
            click.secho(f"{where} ran out ({first_line(error)}). {_SMALLER}", fg=None, err=True)
            ctx.exit(FAILED)


def _message(error: BaseException, recipe: str) -> str | None:
    """What to tell the user; None when the error is a fault of the engine."""
    match error:
        case RecipeError() if recipe not in str(error) and "--set" not in str(error):
            return f"{recipe}: {error}"
        case EngineError():
            return str(error)
        case KeyboardInterrupt():
            return "Interrupted."
        case ModuleNotFoundError(name=str(name)) if name.partition(".")[0] != "engine":
            return f"The module {name} is missing: install engine again; `engine doctor` lists what is there"
        case OSError(errno=errno.EPIPE):
            return None  # the reader of a pipe has left; click ends quietly
        case OSError(filename=name, strerror=str(reason)) if name is not None:
            return f"{name}: {reason}"
        case OSError():
            return str(error)
    return None


def _exit_code(error: BaseException) -> int:
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return INTERRUPTED
    return USAGE if isinstance(error, RecipeError) else FAILED


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        click.echo(f"engine {version('engine')}")
    except PackageNotFoundError:
        click.echo("engine, run from its source and not installed")
    ctx.exit()


@click.group(
    cls=Main,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  engine doctor
  engine data synth data/vehicles
  engine train recipes/quickstart.toml --dry-run
  engine train recipes/quickstart.toml --set data.train=data/vehicles
  engine infer --tta 5 --folds models/

\b
Exit codes:
  0  success
  1  the run failed
  2  the command line or the recipe cannot be used
  3  interrupted, by Ctrl-C or (while training) SIGTERM; in place of a shell's
     130 and 143. Training goes on when the same command is given again.

\b
Tab completion:
  engine completion --help
""",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Print the version."
)
@click.option("--debug", is_flag=True, envvar="ENGINE_DEBUG", help="Show where an error comes from. Or ENGINE_DEBUG=1.")
def main(debug: bool) -> None:
    """Train image classifiers on folders or tables of JPEGs."""


main.doors(
    train=("engine.cli.train:train", "Train the folds of a recipe."),
    infer=("engine.cli.infer:infer", "Predict images with trained folds."),
    preview=("engine.cli.preview:preview", "Show what a recipe does to its images."),
    runs=("engine.cli.runs:runs", "List past runs, their scores and what differs between them."),
    **{"lr-find": ("engine.cli.lr_find:lr_find", "Find a learning rate by trying them all.")},
    compare=("engine.cli.compare:compare", "Compare backbones by short runs."),
    sweep=("engine.cli.sweep:sweep", "Search for the best values of a recipe's keys."),
    bench=("engine.cli.bench:bench", "Measure decoding, augmentation, training and inference."),
    data=("engine.cli.data:data", "Make, index, check or augment images."),
    doctor=("engine.cli.doctor:doctor", "Check this machine and the installation."),
)


@main.command(
    short_help="Print the script for tab completion.",
    epilog="""\b
Examples:
  engine completion bash >> ~/.bashrc
  engine completion zsh >> ~/.zshrc
  engine completion fish > ~/.config/fish/completions/engine.fish
""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that teaches SHELL to complete commands, options, files and the keys of --set."""
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    assert script is not None  # click has all three
    click.echo(script(main, {}, "engine", "_ENGINE_COMPLETE").source())


if __name__ == "__main__":
    main(prog_name="engine")
