"""The process as whoever started it left it: which streams are open, what its terminal shows, how it reads file names.

Names of files are bytes to the file system, and nearly everywhere these bytes are UTF-8, whatever the locale says.
Python decides once, as it starts, so under another locale it is started again in UTF-8 mode; decoding names anew
wherever one is opened, printed or written would be the other way. The terminal keeps the encoding of its locale, and
what that cannot show becomes a question mark: no run ends for the sake of a letter.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys

ASCII = "plain_ascii"  # see `_encoding`


def settle() -> None:
    """Make this process fit to run a command. Called once, by the process that is one, before anything is opened."""
    _open_streams()
    if sys.getfilesystemencoding().lower() not in ("utf-8", "utf8") and not sys.flags.utf8_mode:
        _start_again_in_utf8()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=_encoding(stream.encoding), errors="replace")


def _open_streams() -> None:
    """Stand-ins for streams that were closed (`>&-`): the next file that is opened would get the number of one, and
    what a library prints would land in it."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _start_again_in_utf8() -> None:
    encoding = getattr(sys.stdout or sys.stderr, "encoding", None) or "utf-8"
    os.environ.setdefault("PYTHONIOENCODING", encoding)
    os.environ["PYTHONUTF8"] = "1"  # for the processes that this one starts
    with contextlib.suppress(OSError):  # then as it is: only names beyond the locale's letters are lost
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _encoding(name: str) -> str:
    """The encoding itself; for ASCII the same under another name: click takes that for a mistake and writes UTF-8."""
    return ASCII if codecs.lookup(name).name == "ascii" else name


def _find(name: str) -> codecs.CodecInfo | None:
    if name != ASCII:
        return None
    ascii_ = codecs.lookup("ascii")
    return codecs.CodecInfo(
        ascii_.encode, ascii_.decode, ascii_.streamreader, ascii_.streamwriter,
        ascii_.incrementalencoder, ascii_.incrementaldecoder, name=ASCII,
    )  # fmt: skip


codecs.register(_find)
