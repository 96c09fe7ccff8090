"""The page at `/`: one file, as it is, with a policy that lets nothing else into it.

Its script and style stand in it and are named by their hashes, so no other script runs, whatever a file or a class is
called; nothing is loaded from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.responses import HTMLResponse


@cache
def _page() -> tuple[str, str]:
    """The page, and its Content-Security-Policy."""
    text = files("engine.serve").joinpath("page.html").read_text("utf-8")
    scripts, styles = (
        " ".join(f"'sha256-{_sha256(inside)}'" for inside in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL))
        for tag in ("script", "style")
    )
    return text, (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src 'self' blob: data:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def page_response() -> HTMLResponse:
    """The page for whoever asks."""
    text, policy = _page()
    return HTMLResponse(
        text,
        headers={
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Permissions-Policy": "camera=(self)",
            "Cache-Control": "no-cache",
        },
    )
