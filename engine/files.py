"""Files that are either the old one or the new one, never half of each.

Written to a hidden temporary name in the same folder (a rename across file systems would be a copy), synced, renamed,
and then the folder is synced too, because the rename lives there. Writing in place would be simpler and would lose the
previous checkpoint when the power goes.

Whatever writes here, a disk that is full, read-only or gone is one kind of error, which says where, how much was needed
and that nothing is lost: each library has words of its own for it, and most of them name neither.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import EngineError, StorageError

_PREFIX = ".writing-"

_VARIABLE = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})")


def expanded(path: str) -> str:
    """A path as the user wrote it, as the system takes it: `~`, `~name`, `$NAME` and `${NAME}` are what they are to a
    shell, `$$` is a dollar sign. Where no such user is known, `~name` is a name like others, and so is a `$` before
    what is no name.

    Raises ValueError for a variable that is not set, and for `~` without a home folder.
    """

    def value(found: re.Match[str]) -> str:
        name = found[2] or found[3]
        if found[1] or name[0].isdecimal():
            return found[1] or found[0]
        if name not in os.environ:
            raise ValueError(f"the environment has no variable {name}: set it, or write $$ for a dollar sign")
        return os.environ[name]

    plain = _VARIABLE.sub(value, path)
    whole = _with_home(plain)
    if whole == plain and (plain == "~" or plain.startswith("~/")):
        raise ValueError("this user has no home folder that ~ could stand for: set HOME, or write the path in full")
    return whole


def as_written(path: str) -> str:
    """What `expanded` makes `path` of, for a path that is to be read again."""
    escaped = path.replace("$", "$$")
    means_home = path.partition("/")[0] == "~" or _with_home(path) != path
    return f"./{escaped}" if means_home else escaped


def _with_home(path: str) -> str:
    try:
        return os.path.expanduser(path)  # noqa: PTH111  Path.expanduser refuses the users it does not know
    except ValueError:  # no user's name holds a null byte
        return path


@contextmanager
def atomic_write(path: Path, size: int = 0) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on leaving without an error it becomes `path`, synced to the disk.

    The folder is made when missing. On an error the temporary file is removed and `path` stays as it was. The
    temporary name ends like `path` does, for writers that look at the extension. Whoever writes it, the umask decides
    who may read the file. `size`: how many bytes it will have, where that is known.

    Raises StorageError when the disk does not take it, whatever the writer made of that.
    """
    temporary = path.with_name(f"{_PREFIX}{uuid.uuid4().hex}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        if temporary.stat().st_mode != mode:  # safetensors puts a file of its own there, for its owner alone
            temporary.chmod(mode)
        _sync(temporary)
        os.replace(temporary, path)  # noqa: PTH105  the one place, by the name tests can break
    except BaseException as error:
        size = max(size, _bytes_in(temporary))
        with contextlib.suppress(OSError):  # what went wrong first is what counts
            temporary.unlink(missing_ok=True)
        if trouble := _storage_error(error, path, size):
            raise trouble from error
        raise
    _sync(path.parent)


@contextmanager
def storage_errors(path: Path, size: int = 0) -> Iterator[None]:
    """Raise StorageError when the disk does not take what the block writes to `path`, for what is no whole file: a
    line of a log, a library's own files."""
    try:
        yield
    except Exception as error:
        if trouble := _storage_error(error, path, size):
            raise trouble from error
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with atomic_write(path, len(content)) as temporary:
        temporary.write_bytes(content)


def check_place(path: Path) -> None:
    """Raise EngineError when no file could be written there: better known before the work whose result it is to be.
    Makes nothing."""
    above = next(one for one in path.absolute().parents if one.exists())
    if path.is_dir():
        raise EngineError(f"{path}: is a folder, where a file is to be written")
    if not above.is_dir():
        raise EngineError(f"{above}: is a file, so there can be no {path}")
    if not os.access(above, os.W_OK | os.X_OK):
        raise EngineError(f"{path}: nothing can be written into {above}")


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` atomically, as UTF-8 with \\n line ends."""
    write_bytes(path, content.encode("utf-8"))


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of `path` that a killed process left behind. Only for the one process that writes it."""
    for leftover in path.parent.glob(f"{_PREFIX}*-{path.name}"):
        leftover.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bytes_in(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


# What the system says of a disk: in words, with {folder}, {disk}, {needed}, {free}, {path}; and what to do.
_ROOM = "make room there"
_SET = "give another folder"
_GONE = "{disk} does not answer ({reason}), which {path} was to be written to", "mend or mount it again"
_TROUBLE = {
    errno.ENOSPC: ("no space left on {disk}: {path} needs {needed}, {free} are free", _ROOM),
    errno.EDQUOT: ("your quota on {disk} is used up: {path} needs {needed}", _ROOM),
    errno.EFBIG: (
        "{path} needs {needed}, more than a file may have (`ulimit -f`, or the limit of {disk})",
        "raise the limit",
    ),
    errno.EROFS: ("{disk} is read-only: {path} cannot be written", _SET),
    errno.EACCES: ("{folder} may not be written to: {path} is refused ({reason})", _SET),
    errno.EPERM: ("{folder} may not be written to: {path} is refused ({reason})", _SET),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT), _GONE),
}
_IN_WORDS = re.compile(r"os error (\d+)|errno[ :]+(\d+)|(database or disk is full)|(readonly database)", re.IGNORECASE)


def _storage_error(error: BaseException, path: Path, size: int) -> StorageError | None:
    """What to tell of an error of a writer of `path`; None when it is no fault of the disk."""
    if isinstance(error, EngineError) or (code := _errno(error)) not in _TROUBLE:
        return None
    what, remedy = _TROUBLE[code]
    folder = next((folder for folder in path.absolute().parents if folder.is_dir()), Path("/"))
    told = what.format(
        path=path, folder=folder, disk=_disk(folder), needed=_mib(size), free=_free(folder), reason=os.strerror(code)
    )
    whole = "What was written before is whole"
    again = "the same command goes on" if remedy != _SET else "start again"
    return StorageError(f"{told}. {whole}: {remedy}, and {again}", code)


def _errno(error: BaseException) -> int:
    """The system's number for what an error is about, which libraries hide in their words, or behind errors of their
    own; 0 for none."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno:
            return seen.errno
        if found := _IN_WORDS.search(str(seen)):
            code = found[1] or found[2]
            return int(code) if code else errno.ENOSPC if found[3] else errno.EROFS
        seen = seen.__cause__ or seen.__context__
    return 0


def _disk(folder: Path) -> str:
    """The disk that a folder is on, as its user knows it: where it is mounted, and what."""
    at = next(place for place in (folder, *folder.parents) if place.is_mount() or place == place.parent)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text("utf-8", errors="replace").splitlines()[::-1]:
            device, place, *_ = line.split()
            if place == str(at).replace(" ", "\\040"):
                return f"{at} ({device})"
    return str(at)


def _free(folder: Path) -> str:
    try:
        return _mib(shutil.disk_usage(folder).free)
    except OSError:
        return "an unknown number of bytes"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
