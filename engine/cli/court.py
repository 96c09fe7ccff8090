"""`engine data court`: labels that are likely wrong, judged by a person."""

from __future__ import annotations

import getpass
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli.common import FilePath, progress, table

if TYPE_CHECKING:
    from engine.court.court import Court

MOST = 500  # suspects on the page
_SHOWN = 10  # in the terminal


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under a number that has no name
        return str(os.getuid())


@click.command(
    epilog="""\b
Examples:
  engine data court models/
  engine data court models/ --who minji --port 8900 --no-open
  engine data court models/ --list suspects.csv
  engine data court models/ --table relabel.csv
  engine data court models/ --page court.html --most 200
  engine data court models/ --merge decisions.csv --table relabel.csv
""",
)
@click.argument("run", type=FilePath(file_okay=False))
@click.option("--table", "table_file", type=FilePath(dir_okay=False), help="Write what was decided, for data.relabel.")
@click.option("--list", "list_file", type=FilePath(dir_okay=False), help="Write the ranking as a .csv, with reasons.")
@click.option("--page", type=FilePath(dir_okay=False), help="Write a page to judge on elsewhere, in one .html file.")
@click.option(
    "--merge", type=FilePath(dir_okay=False), help="Take in decisions that such a page has downloaded.", multiple=True
)
@click.option("--most", type=click.IntRange(1), default=MOST, show_default=True, help="Suspects on the page.")
@click.option("--who", help="Who decides.  [default: the login name]")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0: any that is free.")
@click.option("--no-open", is_flag=True, help="Do not open the browser.")
def court(
    run: Path,
    table_file: Path | None,
    list_file: Path | None,
    page: Path | None,
    merge: tuple[Path, ...],
    most: int,
    who: str | None,
    port: int,
    no_open: bool,
) -> None:
    """Judge the labels of RUN that are likely wrong.

    RUN is a folder that `engine train` wrote, of two folds or more. Its labels are ranked by how likely each is wrong:
    by what models answered that never saw the photo, in every epoch, and by its neighbours. Then a page opens where a
    person goes through them by keyboard. Every decision is saved at once in RUN/court.csv, with who made it; several
    people can decide at once. Ctrl-C, or Q on the page, ends it.

    No label is changed by this: --table writes a table for data.relabel (and a list for data.exclude_file), and says
    how to train with it.
    """
    from engine.court.court import Court, places
    from engine.store.run_folder import RunFolder

    with progress(unit="images", title="Reading what is known") as meter:
        session = Court.open(RunFolder(run), meter)
    for path in merge:
        click.echo(f"{path}: {session.merge(path):,} new decisions")
    if list_file is not None:
        session.write_list(list_file)
        click.echo(f"{list_file}: {len(session):,} labels")
    if page is not None:
        from engine.serve.court_page import write_court

        with progress(unit="photos", title="Drawing") as meter:
            write_court(session, places(session, most), page, meter)
        click.echo(f"{page}: open it in a browser; what it downloads goes to --merge")
    if table_file is not None:
        _write_table(session, table_file)
    if not (merge or list_file or page or table_file):
        from engine.serve.court_page import serve

        _show(session)
        serve(session, places(session, most), who or _login(), port, open_browser=not no_open, tell=click.echo)
        _told(session, run)


def _write_table(session: Court, path: Path) -> None:
    sets = session.corrections().write(path)
    if not sets:
        click.echo(
            f"Nothing is to be changed by what was decided ({len(session.decided()):,} labels); no table written"
        )
        if path.exists():
            click.echo(f"{path} is of earlier decisions: do not train with it")
        return
    click.echo(f"Train with {' '.join(f'--set {shlex.quote(one)}' for one in sets)}, and without it on the old labels")


def _show(session: Court) -> None:
    cases = [session.case(place) for place in range(min(_SHOWN, len(session)))]
    rows = [(one.id, one.label, f"{one.wrong:.0%}", one.instead[0][0] if one.instead else "") for one in cases]
    expected = float(session.ranking.wrong_N.sum())
    title = f"{len(session):,} labels, about {expected:,.0f} or more of which are wrong; the likeliest"
    table("photo", "label", "wrong", "rather", rows=rows, title=title)


def _told(session: Court, run: Path) -> None:
    click.echo(f"{len(session.decided()):,} labels are decided on, in {session.file}")
    click.echo(f"For training: engine data court {shlex.quote(str(run))} --table relabel.csv")
