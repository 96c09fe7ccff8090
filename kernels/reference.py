"""The one pass in plain torch: the definition that every faster executor answers to.

Written to be read: one sample at a time, one idea a function, no cleverness beyond vectorising over pixels. The
definitions, in the order they apply:

**Points.** Output pixel (row y, column x) has its centre at (x + .5, y + .5). With (U, V, W) = M (x + .5, y + .5, 1)
it is read at u = U / W, v = V / W. A point has *no source* when W <= 0, or |u| or |v| exceeds `MAX_COORDINATE`, or
anything is NaN: it takes the border colour, whatever the border.

**Footprint.** With plan.antialias and a filter other than NEAREST, fx = clamp(hypot(du/dx, du/dy), 1, MAX_FOOTPRINT)
and fy likewise from v: one pair per sample, from the Jacobian at the output's centre (width / 2, height / 2). If that
centre has no source, or antialias is off, both are 1.

**Reading.** The weight of source column p is k((p + 0.5 - u) / fx) over the open interval |p + 0.5 - u| < s fx, divided
by the sum of these weights; rows likewise with v and fy; a pixel's weight is the product. BILINEAR: s = 1,
k(t) = 1 - |t|. BICUBIC: s = 2, Keys' cubic with a = -0.5 (as PIL). At footprint 1 this is the ordinary interpolation
with align_corners=False. Taps: first p is floor(u - 0.5 - s fx) + 1, and there are at most ceil(2 s fx).
NEAREST reads pixel (floor(v), floor(u)). The result is clamped to [0, 1] (cubic overshoots).

**Borders** act on each integer tap, so a reading near an edge blends with the border. With n pixels in an axis:
CONSTANT: border colour outside [0, n). EDGE: clamp(p, 0, n - 1). REFLECT: m = p mod 2n (in [0, 2n)), then
min(m, 2n - 1 - m): dcba|abcd|dcba, at any distance.

**Colour program**: steps 0..K-1 as in `plan.Color`, each followed by a clamp to [0, 1]; unknown codes do nothing.
CONTRAST's m is the mean luma over LOOK x LOOK points of the output, ((i + 0.5) width / LOOK, (j + 0.5) height / LOOK),
read with footprint 1 by BILINEAR (NEAREST if that is the filter), after the same preceding steps. HUE works on
HSV in the form without branches: with V = max, C = max - min, H = 6 hue (0 when C = 0), H' = H + 6 arg, channel
n in (5, 3, 1) is V - C clamp(min(k, 4 - k), 0, 1) with k = (n + H') mod 6. POSTERIZE: q = floor(255 x + 0.5), its
8 - bits lowest bits set to 0, / 255; bits = round(arg) in 0..8. SHUFFLE: output channel c is input channel
PERMUTATIONS[round(arg)][c]. GAMMA: 0 ** 0 = 1.

**Rectangles** 0..R-1 overwrite pixels x0 <= x < x1, y0 <= y < y1 in turn, NONE nothing. NOISE: `noise` below.

**Normalise**: (value - mean) / std.

**Mix**: with f(i) all of the above for sample i and j = partner(i): f(j) inside the box, else
weight f(i) + (1 - weight) f(j). The partner is not itself mixed. partner_B None: f(i).
"""

from __future__ import annotations

import dataclasses
import math
from itertools import permutations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from .plan import LOOK, LUMA, Border, Color, Fill, Filter, Plan, Ragged

MAX_COORDINATE = float(2**20)  # source pixels; float32 still resolves 1/16 pixel there
MAX_FOOTPRINT = 64.0  # bounds the taps where a perspective's Jacobian explodes
PERMUTATIONS = tuple(permutations(range(3)))
_TAPS_AT_ONCE = 1 << 22  # bounds the reader's memory (12 bytes a tap)


def reference_pass(images: Ragged, plan: Plan, dtype: torch.dtype = torch.float32) -> Tensor:
    """Run `plan` on `images`: (B, 3, height, width) of `dtype`, normalised, channels-last, on the images' device.

    All arithmetic is in `dtype` (float32 or float64).
    """
    plan = plan.to(images.device)
    done_BHWC = torch.stack([_sample(image, plan, b, dtype) for b, image in enumerate(images.tensors)])
    return _mix(done_BHWC, plan).permute(0, 3, 1, 2)


def noise(seed: int | Tensor, pixel: Tensor, channel: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), float32, for NOISE rectangles; pixel = y * width + x of the output, channel 0..2.
    Several seeds are an int64 tensor on the device of `pixel` that broadcasts with it.

    h = mix(mix(seed) ^ (3 pixel + channel)), all unsigned 32-bit; the answer is (h >> 8) / 2**24. `mix` is lowbias32
    of Chris Wellons' hash prospector: x ^= x >> 16; x *= 0x7feb352d; x ^= x >> 15; x *= 0x846ca68b; x ^= x >> 16.
    """
    low = seed & 0xFFFFFFFF
    start = _mix_bits(low if isinstance(low, Tensor) else torch.tensor(low, device=pixel.device))
    return (_mix_bits(start ^ (3 * pixel.long() + channel)) >> 8).to(torch.float32) * 2.0**-24


def _mix_bits(x: Tensor) -> Tensor:
    x = (x ^ (x >> 16)) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ (x >> 15)) * 0x846CA68B & 0xFFFFFFFF
    return x ^ (x >> 16)


@dataclasses.dataclass(frozen=True)
class _Source:
    """One image and all that reading it needs, in the dtype of the computation."""

    pixels_S3: Tensor  # height * width rows, 0..255
    height: int
    width: int
    matrix_33: Tensor
    border: Border
    color_3: Tensor  # of the border, [0, 1]

    @classmethod
    def of(cls, image_HW3: Tensor, plan: Plan, b: int, dtype: torch.dtype) -> _Source:
        height, width, _ = image_HW3.shape
        border = Border.CONSTANT if plan.border_B is None else Border(int(plan.border_B[b]))
        matrix_33 = plan.matrix_B33[b].to(dtype)
        color_3 = matrix_33.new_zeros(3) if plan.border_color_B3 is None else plan.border_color_B3[b].to(dtype)
        return cls(image_HW3.reshape(-1, 3).to(dtype), height, width, matrix_33, border, color_3)

    def at(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Output points to source points: u, v, and whether there is a source at all (u and v are 0 where not)."""
        top, middle, bottom = self.matrix_33.tolist()
        w = bottom[0] * x + bottom[1] * y + bottom[2]
        u = (top[0] * x + top[1] * y + top[2]) / w
        v = (middle[0] * x + middle[1] * y + middle[2]) / w
        has_source = (w > 0) & (u.abs() <= MAX_COORDINATE) & (v.abs() <= MAX_COORDINATE)  # false for NaN
        return u.where(has_source, 0), v.where(has_source, 0), has_source


def _sample(image_HW3: Tensor, plan: Plan, b: int, dtype: torch.dtype) -> Tensor:
    """f(b): (H, W, 3), normalised, before mixing."""
    source = _Source.of(image_HW3, plan, b, dtype)
    x_N, y_N = _grid(plan, plan.width, plan.height, source.matrix_33)
    pixels_N3 = _read(source, x_N, y_N, plan.filter, _footprint(source, plan))
    pixels_N3 = _colors(pixels_N3, source, plan, b)
    pixels_HW3 = _rectangles(pixels_N3.view(plan.height, plan.width, 3), plan, b)
    return (pixels_HW3 - pixels_HW3.new_tensor(plan.mean)) / pixels_HW3.new_tensor(plan.std)


# --- geometry ---------------------------------------------------------------------------------------------------------


def _grid(plan: Plan, columns: int, rows: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of columns x rows equal cells of the output, in output pixels: x and y, each (rows * columns,)."""
    x = (torch.arange(columns, dtype=like.dtype, device=like.device) + 0.5) * (plan.width / columns)
    y = (torch.arange(rows, dtype=like.dtype, device=like.device) + 0.5) * (plan.height / rows)
    return x.repeat(rows), y.repeat_interleave(columns)


def _footprint(source: _Source, plan: Plan) -> tuple[float, float]:
    """(fx, fy): how many source pixels one output pixel spans, at least 1."""
    if not plan.antialias or plan.filter == Filter.NEAREST:
        return 1.0, 1.0
    centre = source.matrix_33.new_tensor([plan.width / 2, plan.height / 2])
    u, v, has_source = source.at(centre[0], centre[1])
    if not has_source:
        return 1.0, 1.0
    top, middle, bottom = source.matrix_33
    w = bottom[0] * centre[0] + bottom[1] * centre[1] + bottom[2]
    fx = torch.linalg.vector_norm((top - u * bottom)[:2] / w)
    fy = torch.linalg.vector_norm((middle - v * bottom)[:2] / w)
    return float(fx.clamp(1, MAX_FOOTPRINT)), float(fy.clamp(1, MAX_FOOTPRINT))


def _read(
    source: _Source, x_N: Tensor, y_N: Tensor, filter: Filter, footprint: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """Read `source` at output points (x, y): (N, 3) in [0, 1]."""
    u_N, v_N, has_source_N = source.at(x_N, y_N)
    columns_NT, wx_NT = _taps(u_N, filter, footprint[0])
    rows_NT, wy_NT = _taps(v_N, filter, footprint[1])
    columns_NT, wx_NT = _apply_border(columns_NT, wx_NT, source.width, source.border)
    rows_NT, wy_NT = _apply_border(rows_NT, wy_NT, source.height, source.border)

    # What the taps inside the source leave of the weight, the border colour gets: all of it where there is no source.
    inside_N = wx_NT.sum(1) * wy_NT.sum(1) * has_source_N
    wy_NT = wy_NT * (has_source_N / 255).unsqueeze(1)
    out_N3 = (1 - inside_N).unsqueeze(1) * source.color_3
    rows_at_once = max(1, _TAPS_AT_ONCE // wx_NT.numel())
    for start in range(0, rows_NT.shape[1], rows_at_once):
        rows, wy = rows_NT[:, start : start + rows_at_once, None], wy_NT[:, start : start + rows_at_once, None]
        index_NT = (rows * source.width + columns_NT[:, None, :]).flatten(1)
        weight_NT = (wy * wx_NT[:, None, :]).flatten(1)
        out_N3 = out_N3 + embedding_bag(index_NT, source.pixels_S3, per_sample_weights=weight_NT, mode="sum")
    return out_N3.clamp(0, 1)


def _taps(u_N: Tensor, filter: Filter, footprint: float) -> tuple[Tensor, Tensor]:
    """Integer source positions around u and their weights, which sum to 1: both (N, taps)."""
    if filter == Filter.NEAREST:
        return u_N.floor().long().unsqueeze(1), torch.ones_like(u_N).unsqueeze(1)
    reach = footprint * (1 if filter == Filter.BILINEAR else 2)
    first_N = (u_N - 0.5 - reach).floor() + 1
    positions_NT = first_N.unsqueeze(1) + torch.arange(math.ceil(2 * reach), device=u_N.device, dtype=u_N.dtype)
    t = ((positions_NT + 0.5 - u_N.unsqueeze(1)) / footprint).abs()
    if filter == Filter.BILINEAR:
        weights_NT = (1 - t).clamp(min=0)
    else:
        near = (1.5 * t - 2.5) * t * t + 1
        far = ((-0.5 * t + 2.5) * t - 4) * t + 2
        weights_NT = near.where(t < 1, far.where(t < 2, 0))
    return positions_NT.long(), weights_NT / weights_NT.sum(1, keepdim=True)


def _apply_border(position_NT: Tensor, weight_NT: Tensor, size: int, border: Border) -> tuple[Tensor, Tensor]:
    """Positions brought into [0, size), and the weights: 0 where a CONSTANT border takes the tap's place."""
    if border == Border.CONSTANT:
        weight_NT = weight_NT * ((position_NT >= 0) & (position_NT < size))
    if border == Border.REFLECT:
        position_NT = position_NT.remainder(2 * size)
        position_NT = torch.minimum(position_NT, 2 * size - 1 - position_NT)
    return position_NT.clamp(0, size - 1), weight_NT


# --- colour -----------------------------------------------------------------------------------------------------------


def _colors(pixels_N3: Tensor, source: _Source, plan: Plan, b: int) -> Tensor:
    """Run sample b's colour program on pixels in [0, 1]."""
    if plan.color_op_BK is None or plan.color_arg_BK is None:
        return pixels_N3
    steps = list(zip(plan.color_op_BK[b].tolist(), plan.color_arg_BK[b].tolist(), strict=True))
    look_L3 = None
    if any(op == Color.CONTRAST for op, _ in steps):
        look_filter = Filter.NEAREST if plan.filter == Filter.NEAREST else Filter.BILINEAR
        look_L3 = _read(source, *_grid(plan, LOOK, LOOK, source.matrix_33), look_filter)
    for op, arg in steps:
        mean = 0.0
        if look_L3 is not None:
            mean = float(_luma(look_L3).mean())
            look_L3 = color_step(look_L3, op, arg, mean)
        pixels_N3 = color_step(pixels_N3, op, arg, mean)
    return pixels_N3


def _luma(pixels_N3: Tensor) -> Tensor:
    return pixels_N3 @ pixels_N3.new_tensor(LUMA)


def color_step(pixels_N3: Tensor, op: int, arg: float, mean: float = 0.0) -> Tensor:
    """One step of the colour program on RGB pixels (N, 3) in [0, 1]; `mean` is CONTRAST's m."""
    x = pixels_N3
    match op:
        case Color.BRIGHTNESS:
            x = x * arg
        case Color.CONTRAST:
            x = mean + (x - mean) * arg
        case Color.SATURATION:
            luma = _luma(x).unsqueeze(1)
            x = luma + (x - luma) * arg
        case Color.HUE:
            x = _turn_hue(x, arg)
        case Color.GRAY:
            x = _luma(x).unsqueeze(1).expand_as(x) if arg > 0 else x
        case Color.SHUFFLE:
            x = x[:, PERMUTATIONS[_round(arg, 5)]]
        case Color.INVERT:
            x = 1 - x
        case Color.SOLARIZE:
            x = (1 - x).where(x >= arg, x)
        case Color.POSTERIZE:
            step = 2 ** (8 - _round(arg, 8))
            x = ((x * 255 + 0.5).floor() / step).floor() * (step / 255)
        case Color.GAMMA:
            x = x.pow(arg)
    return x.clamp(0, 1)


def _round(arg: float, largest: int) -> int:
    return min(max(math.floor(arg + 0.5), 0), largest)


def _turn_hue(x: Tensor, turns: float) -> Tensor:
    red, green, blue = x.unbind(1)
    value, chroma = x.amax(1), x.amax(1) - x.amin(1)
    safe = chroma.where(chroma > 0, 1)  # a gray pixel has hue 0
    hue6 = (red - green) / safe + 4
    hue6 = ((blue - red) / safe + 2).where(green == value, hue6)
    hue6 = ((green - blue) / safe).where(red == value, hue6)
    k = (x.new_tensor([5.0, 3.0, 1.0]) + (hue6 + 6 * turns).unsqueeze(1)).remainder(6)
    return value.unsqueeze(1) - chroma.unsqueeze(1) * torch.minimum(k, 4 - k).clamp(0, 1)


# --- rectangles and mixing --------------------------------------------------------------------------------------------


def _rectangles(pixels_HW3: Tensor, plan: Plan, b: int) -> Tensor:
    if plan.rect_BR4 is None or plan.rect_fill_BR is None:
        return pixels_HW3
    pixels_HW3 = pixels_HW3.clone()
    for r, (corners, fill) in enumerate(zip(plan.rect_BR4[b].tolist(), plan.rect_fill_BR[b].tolist(), strict=True)):
        x0, y0, x1, y1 = (max(0, corner) for corner in corners)
        inside_HW3 = pixels_HW3[y0:y1, x0:x1]
        if fill == Fill.CONSTANT:
            inside_HW3[:] = 0 if plan.rect_color_BR3 is None else plan.rect_color_BR3[b, r].to(pixels_HW3.dtype)
        elif fill == Fill.MEAN:
            inside_HW3[:] = pixels_HW3.new_tensor(plan.mean)
        elif fill == Fill.NOISE:
            seed = 0 if plan.noise_seed_B is None else int(plan.noise_seed_B[b])
            pixel_HW1 = torch.arange(plan.height * plan.width, device=plan.device).view(plan.height, plan.width, 1)
            channel_3 = torch.arange(3, device=plan.device)
            inside_HW3[:] = noise(seed, pixel_HW1[y0:y1, x0:x1], channel_3).to(pixels_HW3.dtype)
    return pixels_HW3


def _mix(done_BHWC: Tensor, plan: Plan) -> Tensor:
    if plan.partner_B is None:
        return done_BHWC
    other_BHWC = done_BHWC[plan.partner_B]
    mixed_BHWC = done_BHWC
    if plan.weight_B is not None:
        weight_B111 = plan.weight_B.to(done_BHWC.dtype).view(-1, 1, 1, 1)
        mixed_BHWC = weight_B111 * done_BHWC + (1 - weight_B111) * other_BHWC
    if plan.box_B4 is not None:
        x0, y0, x1, y1 = plan.box_B4.view(-1, 4, 1, 1, 1).unbind(1)
        x = torch.arange(plan.width, device=plan.device).view(1, 1, -1, 1)
        y = torch.arange(plan.height, device=plan.device).view(1, -1, 1, 1)
        mixed_BHWC = other_BHWC.where((x >= x0) & (x < x1) & (y >= y0) & (y < y1), mixed_BHWC)
    return mixed_BHWC
