"""The errors a user can mend. Each says what was found, where, what was expected and what to do; the command line
prints the message alone and maps the class to an exit code, so a traceback always means a fault in the engine."""

from __future__ import annotations


class EngineError(Exception):
    """A failed run with a known remedy (exit code 1)."""


class RecipeError(EngineError):
    """The recipe or a command line value cannot be used (exit code 2)."""


class DataError(EngineError):
    """The user's files or tables cannot be used as they are (exit code 1)."""


class StorageError(EngineError, OSError):
    """A disk that is full, read-only, over its quota or gone while something is written (exit code 1).

    An OSError too, with its `errno`: who can do without the file need not know that it is told in words.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.errno = code


class Exhausted(EngineError):
    """Memory ran out, on the host or on a device (exit code 1)."""


class CheckpointError(EngineError):
    """A checkpoint that is missing, damaged or of a newer format (exit code 1)."""


class Interrupted(EngineError):
    """Stopped by Ctrl-C or SIGTERM; what was finished is saved and the same command goes on (exit code 3)."""
