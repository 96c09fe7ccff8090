"""What can be wrong with a request or a photo, each with its status of HTTP, in words and with a remedy: one list,
which the interface's description shows as well.

A photo's fault has the same kind that training and `engine infer` know it by.
"""

from __future__ import annotations

import dataclasses
from http import HTTPStatus
from typing import Any

from engine.quarantine import Fault, FaultKind

# kind: status, and what to do about it
KINDS: dict[str, tuple[int, str]] = {
    # of a photo
    "empty": (422, "Send the file again; the one that came holds nothing."),
    "not an image": (415, "Send a JPEG, PNG, WebP, TIFF, BMP or GIF."),
    "damaged": (422, "Save the picture again, or send another one."),
    "too many pixels": (422, "Make the picture smaller."),
    "too many bytes": (413, "Make the picture smaller, or save it as a JPEG."),
    "not base64": (422, "Encode the file's bytes by RFC 4648, section 4, without a data: prefix."),
    "url off": (403, "Send the photo itself; addresses are fetched where the server was started with --allow-url."),
    "url": (422, "Give a public http or https address of a photo, or send the photo itself."),
    # of a request
    "malformed": (400, "See /openapi.json for what a request looks like."),
    "no photo": (400, "Send at least one photo: as a part of a form, as base64 in JSON, or as the body itself."),
    "too many photos": (413, "Send the photos in several requests."),
    "media type": (415, "Send multipart/form-data, application/json, image/* or application/octet-stream."),
    "value": (422, "See /openapi.json for the parameters and their ranges."),
    "class": (422, "Name one of the classes that /model lists."),
    "no heatmap": (501, "Serve the run's folder: an exported file has no layers to look into."),
    "no such page": (404, "See /openapi.json for what there is."),
    "method": (405, "See /openapi.json for the methods."),
    "too slow": (408, "Send it again, over a faster connection or in smaller parts."),
    # of the server
    "busy": (503, "Send it again after the seconds that Retry-After says."),
    "stopping": (503, "Send it again after the seconds that Retry-After says, perhaps to another server."),
    "not ready": (503, "Wait until /ready says so."),
    "too late": (504, "Send it again later; the server had more to do than it could in the time."),
    "broken": (500, "Tell whoever runs this server; its log says more."),
}

_OF_FAULT = {
    FaultKind.UNREADABLE: "damaged",
    FaultKind.EMPTY: "empty",
    FaultKind.NOT_AN_IMAGE: "not an image",
    FaultKind.DAMAGED: "damaged",
    FaultKind.TOO_LARGE: "too many pixels",
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """Of what kind it is (a key of KINDS), and what was found, in words."""

    kind: str
    detail: str
    retry_after_s: int | None = None

    @classmethod
    def of(cls, fault: Fault) -> Problem:
        return cls(_OF_FAULT[fault.kind], f"The file {fault.detail}.")

    @property
    def status(self) -> int:
        return KINDS[self.kind][0]

    def to_dict(self) -> dict[str, Any]:
        """As it is sent: error (the status in words), kind, detail, remedy."""
        status, remedy = KINDS[self.kind]
        return {"error": HTTPStatus(status).phrase, "kind": self.kind, "detail": self.detail, "remedy": remedy}


class Refused(Exception):
    """Ends a request with its problem."""

    def __init__(self, kind: str, detail: str, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.problem = Problem(kind, detail, retry_after_s)
