"""The page of a Space: a photo in, the five likeliest classes out.

It needs the exported file beside it, onnxruntime and gradio; preprocessing, models and calibration are in the file.
"""

import json
from pathlib import Path

import gradio
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
SHOWN = 20  # class names above the page

session = onnxruntime.InferenceSession(HERE / "model.onnx", providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["engine"])
background = tuple(round(255 * share) for share in about.get("background", (1, 1, 1)))
examples = [str(path) for path in sorted((HERE / "examples").glob("*.*"))]


def upright(path: str) -> np.ndarray:
    """The photo's pixels, uint8 (height, width, 3): RGB, turned as its EXIF says, what is transparent over the colour
    that training had there."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
        return np.asarray(image.convert("RGB"))


def classify(path: str | None) -> dict[str, float]:
    """Each class with its probability."""
    if path is None:
        raise gradio.Error("Choose a photo first.")
    try:
        pixels = upright(path)
    except (OSError, ValueError) as error:
        raise gradio.Error("This is no photo that can be read here: use a JPEG, PNG or WebP.") from error
    photos = np.repeat(pixels[None], about["batch"] or 1, axis=0)  # as many as the file takes at a time
    (probabilities,) = session.run(["probabilities"], {"images": photos})
    return dict(zip(about["classes"], map(float, probabilities[0]), strict=True))


page = gradio.Interface(
    classify,
    gradio.Image(type="filepath", image_mode=None, label="Photo"),  # None: the file as it is, EXIF and all
    gradio.Label(num_top_classes=5, label="Likeliest"),
    examples=examples or None,
    cache_examples=False,
    flagging_mode="never",
    description=f"Told apart, {len(about['classes'])} in all: {', '.join(about['classes'][:SHOWN])}"
    + (" and others" if len(about["classes"]) > SHOWN else ""),
    api_name="classify",
    analytics_enabled=False,
)

if __name__ == "__main__":
    page.launch()
