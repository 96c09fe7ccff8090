"""Whatever is said of draws holds of both who draw them: C++ where it is built, and torch."""

from __future__ import annotations

import pytest

from engine.kernels import draws


@pytest.fixture(params=["compiled", "torch"])
def drawn_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who draws in this test, each in turn."""
    if request.param == "torch":
        monkeypatch.setattr(draws, "available", lambda: False)
    elif not draws.available():
        pytest.skip(f"no compiled draws: {draws.why_not()}")
    return str(request.param)
