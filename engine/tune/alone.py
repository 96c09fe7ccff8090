"""Looking for a setting runs in one process: what is looked for is measured, and ranks would each measure their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import EngineError
from engine.ranks import Ranks, join_ranks


@contextmanager
def alone() -> Iterator[Ranks]:
    """This process on its device. Raises EngineError when torchrun started several."""
    with join_ranks() as ranks:
        if ranks.world > 1:
            raise EngineError(f"this command runs in one process, but torchrun started {ranks.world}: call it without")
        yield ranks
