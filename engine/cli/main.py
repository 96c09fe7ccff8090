"""The door of the command line: lists the commands, opens the one that is asked for, and turns errors into exit codes.

Nothing is imported here but click, see lazy.py. An error the user can mend is shown as its message alone; a traceback
means a fault in the engine.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from engine.cli.common import RECIPE
from engine.cli.lazy import LazyGroup
from engine.cli.terminal import settle
from engine.errors import EngineError, Interrupted, RecipeError
from engine.exhausted import exhausted, first_line
from engine.system import settle_environment

FAILED, USAGE, INTERRUPTED = 1, 2, 3
_SMALLER = "Choose a smaller model.backbone, or smaller batches (stage.*.batch, predict.batch), or use a larger machine"

# Decoding, the pass and the model take turns on the same cores. Threads of torch that spin while they wait for each
# other then keep the others from working, and on few cores a training step takes far longer. Read by the OpenMP runtime
# when torch is imported, so it is set before any command is.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


class Main(LazyGroup):
    """The group `engine`: errors of all its commands end here."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        """Without arguments it is the process that somebody started, and takes those of its command line."""
        if args is None:
            settle()
        return super().main(args, *more, **options)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuses what no table, log or checkpoint could hold: names that are not UTF-8, and a folder that is gone."""
        try:
            here = os.getcwd()  # noqa: PTH109  asked for its error
        except OSError:
            ctx.fail("the folder that this command runs in was removed; go to another one")
        for name in (here, *args):
            if not _is_text(name):
                ctx.fail(
                    f"{os.fsencode(name)!r} is not UTF-8. Rename that file or folder, for example: "
                    "convmv -f cp949 -t utf8 -r --notest FOLDER"
                )
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            settle_environment()
            return super().invoke(ctx)
        except (EngineError, OSError, ModuleNotFoundError, KeyboardInterrupt) as error:
            message = _message(error, ctx.meta.get(RECIPE, ""))
            if message is None or ctx.params["debug"]:
                raise
            click.secho(message, fg="red" if sys.stderr and sys.stderr.isatty() else None, err=True)
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
        case FileExistsError(filename=str(name)):  # where a folder was to be made
            return f"{name}: is a file, and should be a folder; move it, or name another place"
        case OSError(filename2=str(name), strerror=str(reason)):  # the other one is a temporary file
            return f"{name}: {reason}"
        case OSError(filename=name, strerror=str(reason)) if name is not None:
            return f"{name}: {reason}"
        case OSError(strerror=reason):
            return reason or str(error)
    return None


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


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
  3  interrupted, by Ctrl-C or (while training or predicting) SIGTERM; in place
     of a shell's 130 and 143. The same command, given again, goes on.

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
    """Train image classifiers on folders or tables of images."""


main.doors(
    init=("engine.cli.init:init", "Look at images and write a first recipe for them."),
    train=("engine.cli.train:train", "Train the folds of a recipe."),
    distill=("engine.cli.distill:distill", "Have trained models teach a small one."),
    ensemble=("engine.cli.ensemble:ensemble", "Fit anew how trained folds, or several runs, answer together."),
    infer=("engine.cli.infer:infer", "Predict images with trained folds."),
    score=("engine.cli.score:score", "Score predictions, or check a submission."),
    vote=("engine.cli.vote:vote_command", "Join files of predictions, of any tool, into one."),
    preview=("engine.cli.preview:preview", "Show what a recipe does to its images."),
    report=("engine.cli.report:report", "Write a page about a run: scores, mistakes, curves, a model card."),
    runs=("engine.cli.runs:runs", "List past runs, their scores and what differs between them."),
    **{"lr-find": ("engine.cli.lr_find:lr_find", "Find a learning rate by trying them all.")},
    compare=("engine.cli.compare:compare", "Compare backbones by short runs."),
    sweep=("engine.cli.sweep:sweep", "Search for the best values of a recipe's keys."),
    tta=("engine.cli.tta:tta", "Measure which views of images are worth their time."),
    bench=("engine.cli.bench:bench", "Measure decoding, augmentation, training and inference."),
    data=("engine.cli.data:data", "Make, index, check or augment images, and judge their labels."),
    export=("engine.cli.export:export", "Write a run as one file that answers elsewhere."),
    verify=("engine.cli.verify:verify", "Check that an exported file, or a program, answers rightly."),
    serve=("engine.cli.serve:serve", "Answer photos over HTTP, with a page for people."),
    demo=("engine.cli.demo:demo", "Write a page on which an exported file is tried."),
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
