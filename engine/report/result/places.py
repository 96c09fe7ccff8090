"""Where files lie on the machine that the page was written on, for somebody who is sent the page.

Whole paths tell who somebody is and how their disks are called, and nothing that the reader could open. So a place in
the run's folder is told from there, and of others the last two parts below the user's home, which say what it was.
Relative paths stay as the recipe has them. Whole ones are of use on that machine alone, and there run.json has them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from engine.track.tracker import Scalar

_PARTS = 2
_BEYOND = ".../"


class Places:
    """Makes texts fit to be sent: of the run in `folder`, in which whole paths that are among `values` may be named."""

    def __init__(self, folder: Path, values: Iterable[Scalar]) -> None:
        self._folder = folder.absolute()
        paths = {text for text in values if isinstance(text, str) and "\n" not in text and Path(text).is_absolute()}
        paths |= {str(self._folder), str(self._folder.parent), str(Path.cwd()), str(Path.home())}
        named = [path for path in map(Path, paths) if len(path.parts) > 2]  # others are of any machine
        self._short = {str(path): self._near(path) for path in named}

    def __call__(self, value: Scalar) -> Scalar:
        """A value, or a sentence in which places are named; what is no text as it is."""
        if isinstance(value, str):
            for path in sorted(self._short, key=len, reverse=True):  # a folder in another one before that
                value = value.replace(path, self._short[path])
        return value

    def _near(self, path: Path) -> str:
        if path != self._folder and path.is_relative_to(self._folder):
            return str(path.relative_to(self._folder))
        parts, begin = _below_home(path)
        return _BEYOND + "/".join(parts[-_PARTS:]) if len(parts) > _PARTS else begin + "/".join(parts)


def _below_home(path: Path) -> tuple[tuple[str, ...], str]:
    """The parts of a whole path below the user's home, or else below the root; and how this is called."""
    home = Path.home()
    if len(home.parts) > 1 and path.is_relative_to(home):
        return path.relative_to(home).parts, "~/" if path != home else "~"
    return path.parts[1:], path.anchor
