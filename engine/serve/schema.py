"""What the interface's description (/openapi.json) says of bodies. The server itself builds plain JSON: a check of each
number that it has just made would cost a tenth of a small answer's time."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from engine.serve.problems import KINDS


class Trouble(BaseModel):
    """What is wrong, in one form for all errors."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "error": "Unsupported Media Type",
                "kind": "not an image",
                "detail": "The file is a web page, perhaps of a download that failed: fetch the picture again.",
                "remedy": KINDS["not an image"][1],
            }
        }
    )
    error: str = Field(description="The status, in words.")
    kind: str = Field(description=f"One of: {', '.join(KINDS)}.")
    detail: str = Field(description="What was found.")
    remedy: str = Field(description="What to do.")


class Ranked(BaseModel):
    """A class and its probability."""

    name: str
    probability: float = Field(ge=0, le=1, description="A float32; read as one, it is the model's to the last bit.")


class Answered(BaseModel):
    """What is answered about a photo."""

    model_config = ConfigDict(populate_by_name=True)
    name: str = Field(description="The file's name, as it was sent.")
    status: int = Field(description="200; another number stands with an error in place of an answer.")
    prediction: str
    confidence: float
    top: list[Ranked] = Field(description="The likeliest classes, the likeliest first.")
    set_: list[str] = Field([], alias="set", description="Holds the true class but for the risk that was asked for.")
    abstain: bool | None = Field(None, description="Whether the model had better not answer.")
    strange: bool | None = Field(None, description="Whether the photo is like nothing that was trained on.")
    strangeness: float | None = None
    near: str | None = Field(None, description="The training image that this is a near-duplicate of.")


class Failed(Trouble):
    """A photo that has no answer, beside others."""

    name: str
    status: int


class Answers(BaseModel):
    """One entry a photo, in the order in which they were sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "photos": [
                    {
                        "name": "a.jpg",
                        "status": 200,
                        "prediction": "hat",
                        "confidence": 0.9312345385551453,
                        "top": [{"name": "hat", "probability": 0.9312345385551453}],
                        "set": ["hat"],
                        "strange": False,
                    },
                    {
                        "name": "b.jpg",
                        "status": 422,
                        "error": "Unprocessable Content",
                        "kind": "damaged",
                        "detail": "The file cannot be decoded: image file is truncated.",
                        "remedy": KINDS["damaged"][1],
                    },
                ]
            }
        }
    )
    photos: list[Answered | Failed]


class Heat(BaseModel):
    """Where the model looked: h rows of w numbers from 0 to 1 over the whole upright photo, at most 256 a side."""

    label: str
    height: int
    width: int
    heat: list[list[float]]


_FILE = {"type": "string", "format": "binary"}
_ENTRY = {
    "type": "object",
    "description": "Either base64 or url.",
    "properties": {
        "name": {"type": "string"},
        "base64": {"type": "string", "contentEncoding": "base64"},
        "url": {"type": "string", "format": "uri", "description": "Only where the server allows it."},
    },
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"photos": {"type": "array", "items": _FILE}}}
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["photos"],
                    "properties": {"photos": {"type": "array", "items": _ENTRY}},
                },
                "example": {"photos": [{"name": "a.jpg", "base64": "/9j/4AAQSkZJRg..."}]},
            },
            "image/*": {"schema": _FILE},
            "application/octet-stream": {"schema": _FILE},
        },
    }
}
"""The ways to send photos."""


def problems(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """The statuses of these kinds of problems, for a route's description."""
    found: dict[int, list[str]] = {}
    for kind in kinds:
        found.setdefault(KINDS[kind][0], []).append(kind)
    return {status: {"model": Trouble, "description": ", ".join(names)} for status, names in sorted(found.items())}
