"""The twin that takes a photo's file: the graph decodes it and turns it upright itself.

ONNX's own ImageDecoder runs in no onnxruntime so far. onnxruntime-extensions has DecodeImage, which decodes JPEG and
PNG and knows nothing of EXIF; so the graph reads the orientation out of the file's first bytes, and turns the pixels by
one gather. DecodeImage gives BGR where nobody says otherwise; here it is told to give RGB.

Another decoder of JPEG rounds in other places, by a level or two, which the answers show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from engine.export.stitch import INPUT

if TYPE_CHECKING:
    import onnx

FILE = "file"
"""The input: the content of one photo's file, uint8 (N,)."""
DOMAIN = "com.microsoft.extensions"
TOLD = (
    "takes the content of one JPEG or PNG; decoded to RGB by onnxruntime-extensions, whose library the session has to "
    "register; JPEGs are turned upright by EXIF; transparency and other formats are not read as engine does"
)

_OWN = f"{FILE}/"  # what the names of what is put before a graph begin with
_HEAD = 1 << 16  # bytes of a file in which EXIF stands
_ENTRIES = 64  # of its first directory that are looked at
_ORIENTATION = 0x0112

# By EXIF's orientation, 1 to 8: pixel (y, x) of the upright photo is pixel number base + y * down + x * right of the
# file's, with base = a (W - 1) + b (H - 1) W, and down and right c W + d each. The last four lie on their side.
_BASE = ((0, 1, 1, 0, 0, 0, 1, 1), (0, 0, 1, 1, 0, 1, 1, 0))
_DOWN = ((1, 1, -1, -1, 0, 0, 0, 0), (0, 0, 0, 0, 1, 1, -1, -1))
_RIGHT = ((0, 0, 0, 0, 1, -1, -1, 1), (1, -1, -1, 1, 0, 0, 0, 0))
_LIES = (0, 0, 0, 0, 1, 1, 1, 1)


def taking_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph, which takes the file of one photo."""
    import onnx
    from onnx import TensorProto, helper

    made = onnx.ModelProto()
    made.CopyFrom(model)
    steps = _Steps()
    orientation = steps.orientation(FILE)
    decoded = steps("DecodeImage", FILE, domain=DOMAIN, color_space="rgb")
    steps.turned(decoded, orientation)
    nodes = [*steps.nodes, *made.graph.node]
    del made.graph.node[:], made.graph.input[:]
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(steps.constants)
    made.graph.input.append(helper.make_tensor_value_info(FILE, TensorProto.UINT8, ["bytes"]))
    made.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return made


def taking_pixels(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph that `taking_bytes` was given; one that takes pixels stays as it is."""
    import onnx
    from onnx import TensorProto, helper

    made = onnx.ModelProto()
    made.CopyFrom(model)
    if all(each.name != FILE for each in model.graph.input):
        return made
    for own in (made.graph.node, made.graph.initializer):
        kept = [each for each in own if not each.name.startswith(_OWN)]
        del own[:]
        own.extend(kept)
    others = [each for each in made.opset_import if each.domain != DOMAIN]
    del made.opset_import[:], made.graph.input[:]
    made.opset_import.extend(others)
    made.graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [1, "height", "width", 3]))
    return made


class _Steps:
    """Nodes in the order in which they are called for; a call gives the name of what they put out. All numbers are
    int64."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, operator: str, *inputs: str | int | tuple[Any, ...], out: str = "", **attributes: Any) -> str:
        from onnx import helper

        names = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        out = out or f"{_OWN}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [out], name=f"{_OWN}node_{len(self.nodes)}", **attributes))
        return out

    def _constant(self, value: int | tuple[Any, ...]) -> str:
        from onnx import numpy_helper

        name = f"{_OWN}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, dtype=np.int64), name))
        return name

    def orientation(self, file: str) -> str:
        """A JPEG's orientation by EXIF, less 1: 0 where there is none, or it is no JPEG."""
        from onnx import TensorProto

        head = self("Cast", self("Slice", file, (0,), (_HEAD,)), to=TensorProto.INT64)
        head = self("Pad", head, (0, 2 * 12 * _ENTRIES))
        marks = [self._is_at(head, place, ord(mark)) for place, mark in enumerate("Exif\0\0")]
        here = marks[0]
        for mark in marks[1:]:
            here = self("Mul", here, mark)
        tiff = self("Add", self("ArgMax", here, axis=0, keepdims=1), (6,))
        big = self("Equal", self._bytes(head, tiff, (0,)), (ord("M"),))
        directory = self("Add", tiff, self._number(head, self("Add", tiff, (4,)), big, 4))
        entries = self("Add", self("Add", directory, (2,)), tuple(12 * k for k in range(_ENTRIES)))
        tags = self._numbers(head, entries, big)
        values = self._numbers(head, self("Add", entries, (8,)), big)
        within = self("Less", tuple(range(_ENTRIES)), self._number(head, directory, big, 2))
        is_it = self("And", self("Equal", tags, (_ORIENTATION,)), within)
        found = self("ReduceMax", self("Where", is_it, values, (0,)), (0,), keepdims=1)
        known = self("And", self("GreaterOrEqual", found, (1,)), self("LessOrEqual", found, (8,)))
        jpeg = self(
            "And",
            self("Equal", self._bytes(head, (0,), (0,)), (0xFF,)),
            self("Equal", self._bytes(head, (0,), (1,)), (0xD8,)),
        )
        there = self("Equal", self("ReduceMax", here, (0,), keepdims=1), (1,))
        known = self("And", self("And", known, jpeg), there)
        return self("Where", known, self("Sub", found, (1,)), (0,))

    def _is_at(self, head: str, place: int, mark: int) -> str:
        """Of each place in the first bytes, whether so many later there is this byte: 1 or 0."""
        from onnx import TensorProto

        shifted = self("Slice", head, (place,), (_HEAD + place,))
        length = self("Sub", self("Shape", head), (6,))
        shifted = self("Slice", shifted, (0,), length)
        return self("Cast", self("Equal", shifted, (mark,)), to=TensorProto.INT64)

    def _bytes(self, head: str, place: str | tuple[int, ...], further: tuple[int, ...]) -> str:
        end = self("Sub", self("Shape", head), (1,))
        places = self("Max", self("Min", self("Add", place, further), end), (0,))
        return self("Gather", head, places)

    def _number(self, head: str, place: str, big: str, count: int) -> str:
        """The whole number of `count` bytes at a place."""
        ups = tuple(256**k for k in range(count))
        weights = self("Where", big, ups[::-1], ups)
        each = self("Mul", self._bytes(head, place, tuple(range(count))), weights)
        return self("ReduceSum", each, (0,), keepdims=1)

    def _numbers(self, head: str, places: str, big: str) -> str:
        """The whole numbers of two bytes at each place."""
        first, second = (self._bytes(head, places, (k,)) for k in range(2))
        high, low = self("Where", big, first, second), self("Where", big, second, first)
        return self("Add", self("Mul", high, (256,)), low)

    def turned(self, pixels: str, orientation: str) -> None:
        """`images`, (1, H, W, 3), of pixels (H, W, 3 or 1) as the file has them."""
        height, width = (self("Shape", pixels, start=axis, end=axis + 1) for axis in range(2))
        coloured = self("Expand", pixels, self("Concat", height, width, (3,), axis=0))
        flat = self("Reshape", coloured, (-1, 3))

        def of(table: tuple[int, ...]) -> str:
            return self("Gather", table, orientation)

        def steps(table: tuple[tuple[int, ...], tuple[int, ...]]) -> str:
            return self("Add", self("Mul", of(table[0]), width), of(table[1]))

        last_row = self("Mul", self("Sub", height, (1,)), width)
        base = self("Add", self("Mul", of(_BASE[0]), self("Sub", width, (1,))), self("Mul", of(_BASE[1]), last_row))
        lies = self("Equal", of(_LIES), (1,))
        rows, columns = (self("Squeeze", self("Where", lies, *both)) for both in ((width, height), (height, width)))
        y_N1 = self("Unsqueeze", self("Range", 0, rows, 1), (1,))
        x_1N = self("Unsqueeze", self("Range", 0, columns, 1), (0,))
        index = self("Add", self("Add", self("Mul", y_N1, steps(_DOWN)), self("Mul", x_1N, steps(_RIGHT))), base)
        self("Unsqueeze", self("Gather", flat, index), (0,), out=INPUT)
