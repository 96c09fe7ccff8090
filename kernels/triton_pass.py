"""The one pass on CUDA, in Triton: one program a tile of one sample's output, everything in registers.

Why this way: the pass is bound by memory and by launches, so a tile reads its taps straight from the ragged uint8
images (by address: padding or packing them would copy the batch once more), runs the sample's colour program and
rectangles on them, does the same for the mixing partner, and writes the result once. What differs between samples
(taps, steps, partner or none) is uniform within a program, so a plain `if` skips it for the whole tile. Only contrast
needs a number about the whole image; a small kernel takes that look first.

Answers to `reference.py`, whose docstring has the definitions. Works under TRITON_INTERPRET=1 on the CPU, slowly,
for tests. Partners out of range are clamped into the batch (checking them would wait for the GPU).
"""

# mypy: disable-error-code="no-untyped-def"
# Functions under @triton.jit are not Python: their arguments are typed by Triton when compiled.

import torch
import triton
import triton.language as tl
from torch import Tensor

from .plan import LOOK, LUMA, Border, Color, Fill, Filter, Plan, Ragged
from .reference import MAX_COORDINATE, MAX_FOOTPRINT
from .upload import upload

_TILE_X, _TILE_Y = 64, 4  # wide, so that rows are written in long runs; 2 pixels a thread with 4 warps
_LAUNCH = {"num_stages": 1, "enable_fp_fusion": True}  # nothing to pipeline: taps do not feed a matrix product

_NEAREST = tl.constexpr(int(Filter.NEAREST))
_BICUBIC = tl.constexpr(int(Filter.BICUBIC))
_CONSTANT = tl.constexpr(int(Border.CONSTANT))
_REFLECT = tl.constexpr(int(Border.REFLECT))
_BRIGHTNESS = tl.constexpr(int(Color.BRIGHTNESS))
_CONTRAST = tl.constexpr(int(Color.CONTRAST))
_SATURATION = tl.constexpr(int(Color.SATURATION))
_HUE = tl.constexpr(int(Color.HUE))
_GRAY = tl.constexpr(int(Color.GRAY))
_SHUFFLE = tl.constexpr(int(Color.SHUFFLE))
_INVERT = tl.constexpr(int(Color.INVERT))
_SOLARIZE = tl.constexpr(int(Color.SOLARIZE))
_POSTERIZE = tl.constexpr(int(Color.POSTERIZE))
_GAMMA = tl.constexpr(int(Color.GAMMA))
_FILL_MEAN = tl.constexpr(int(Fill.MEAN))
_FILL_CONSTANT = tl.constexpr(int(Fill.CONSTANT))
_FILL_NOISE = tl.constexpr(int(Fill.NOISE))
_LUMA_R, _LUMA_G, _LUMA_B = (tl.constexpr(weight) for weight in LUMA)
_MAX_COORDINATE = tl.constexpr(MAX_COORDINATE)
_MAX_FOOTPRINT = tl.constexpr(MAX_FOOTPRINT)
_LOOK = tl.constexpr(LOOK)


def triton_pass(images: Ragged, plan: Plan, out: Tensor) -> None:
    """Fill `out` (B, 3, height, width), channels-last, float32, bfloat16 or float16, on the current CUDA stream.

    The images, plan and `out` lie on one CUDA device (or on the host under TRITON_INTERPRET=1, else RuntimeError) and
    fit together as `dispatch.one_pass` checks. Beyond `out` it needs some 32 bytes a sample, which torch's caching
    allocator hands back each time.
    """
    if images.device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise RuntimeError(f"executor 'triton' needs a CUDA device, the images are on {images.device}; use 'auto'")
    (table_B3,) = upload([table_of(images)], images.device)
    launch(table_B3, plan, out)


def table_of(images: Ragged) -> Tensor:
    """(B, 3) int64, on the host: the address, height and width of each image."""
    return torch.cat([images.pointers_B.unsqueeze(1), images.sizes_B2.to(torch.int64)], dim=1)


def launch(table_B3: Tensor, plan: Plan, out: Tensor) -> None:
    """The same for a table that is on the device already. Nothing is checked; the images live until this has run."""
    source = (table_B3, plan.matrix_B33, plan.border_B, plan.border_color_B3)
    with torch.cuda.device_of(out):
        colors = _look(source, plan)
        tiles = triton.cdiv(plan.width, _TILE_X) * triton.cdiv(plan.height, _TILE_Y)
        _pass_kernel[(tiles, plan.batch)](
            out,
            *source,
            *colors,
            plan.rect_BR4,
            plan.rect_fill_BR,
            plan.rect_color_BR3,
            plan.noise_seed_B,
            0 if plan.rect_BR4 is None else plan.rect_BR4.shape[1],
            plan.partner_B,
            plan.weight_B,
            plan.box_B4,
            plan.batch,
            plan.height,
            plan.width,
            *plan.mean,
            *(1 / std for std in plan.std),
            FILTER=int(plan.filter),
            ANTIALIAS=plan.antialias,
            TILE_X=_TILE_X,
            TILE_Y=_TILE_Y,
            num_warps=4,
            **_LAUNCH,
        )


def _look(source: tuple[Tensor | None, ...], plan: Plan) -> tuple[Tensor | None, Tensor | None, Tensor | None, int]:
    """The colour program as the kernels take it: codes, arguments, the means that CONTRAST steps need, steps."""
    if plan.color_op_BK is None or plan.color_op_BK.shape[1] == 0:
        return None, None, None, 0
    means_BK = torch.empty_like(plan.color_op_BK, dtype=torch.float32)
    colors = (plan.color_op_BK, plan.color_arg_BK, means_BK, means_BK.shape[1])
    look = Filter.NEAREST if plan.filter == Filter.NEAREST else Filter.BILINEAR
    _look_kernel[(plan.batch,)](*source, *colors, plan.height, plan.width, FILTER=int(look), num_warps=8, **_LAUNCH)
    return colors


@triton.jit(do_not_specialize=["steps", "rects", "batch", "height", "width"])
def _pass_kernel(
    out,
    table,
    matrix,
    border,
    border_color,
    color_op,
    color_arg,
    means,
    steps,
    rect,
    rect_fill,
    rect_color,
    noise_seed,
    rects,
    partner,
    weight,
    box,
    batch,
    height,
    width,
    mean_r,
    mean_g,
    mean_b,
    scale_r,
    scale_g,
    scale_b,
    FILTER: tl.constexpr,
    ANTIALIAS: tl.constexpr,
    TILE_X: tl.constexpr,
    TILE_Y: tl.constexpr,
):
    """One tile of one sample: what it and its partner show there, mixed, stored."""
    b = tl.program_id(1)
    tiles_x = tl.cdiv(width, TILE_X)
    lane = tl.arange(0, TILE_X * TILE_Y)
    x = (tl.program_id(0) % tiles_x) * TILE_X + lane % TILE_X
    y = (tl.program_id(0) // tiles_x) * TILE_Y + lane // TILE_X
    mask = (x < width) & (y < height)

    own = tl.full(lane.shape, 1.0, tl.float32)  # the sample's own weight in each pixel
    other = b
    if partner is not None:
        other = tl.minimum(tl.maximum(tl.load(partner + b), 0), batch - 1).to(tl.int32)
        if weight is not None:
            own *= tl.load(weight + b)
        if box is not None:
            own = tl.where(_inside(box + b * 4, x, y), 0.0, own)

    red = tl.zeros(lane.shape, tl.float32)
    green = tl.zeros(lane.shape, tl.float32)
    blue = tl.zeros(lane.shape, tl.float32)
    for part in range(1 if partner is None else 2):
        s = tl.where(part == 0, b, other)
        share = tl.where(mask, tl.where(part == 0, own, 1.0 - own), 0.0)
        if tl.max(share, 0) > 0:
            u, v, has_source = _locate(matrix, s, x + 0.5, y + 0.5)
            fx = tl.full((), 1.0, tl.float32)
            fy = fx
            if ANTIALIAS and FILTER != _NEAREST:
                fx, fy = _footprint(matrix, s, width * 0.5, height * 0.5)
            r, g, bl = _read(table, border, border_color, s, u, v, has_source, share > 0, fx, fy, FILTER)
            if color_op is not None:
                for k in range(steps):
                    step = s * steps + k
                    op = tl.load(color_op + step)
                    mean = tl.load(means + step, mask=op == _CONTRAST, other=0.0)
                    r, g, bl = _color(r, g, bl, op, tl.load(color_arg + step), mean)
            r = (r - mean_r) * scale_r
            g = (g - mean_g) * scale_g
            bl = (bl - mean_b) * scale_b
            if rect is not None:  # after normalising, where MEAN is 0
                for i in range(rects):
                    which = s * rects + i
                    fill = tl.load(rect_fill + which)
                    inside = _inside(rect + which * 4, x, y)
                    if fill == _FILL_MEAN:
                        r, g, bl = tl.where(inside, 0.0, r), tl.where(inside, 0.0, g), tl.where(inside, 0.0, bl)
                    elif fill == _FILL_CONSTANT:
                        pr, pg, pb = _rgb(rect_color, which)
                        r = tl.where(inside, (pr - mean_r) * scale_r, r)
                        g = tl.where(inside, (pg - mean_g) * scale_g, g)
                        bl = tl.where(inside, (pb - mean_b) * scale_b, bl)
                    elif fill == _FILL_NOISE:
                        start = _noise_start(noise_seed, s)
                        first = (y * width + x).to(tl.uint32) * 3
                        r = tl.where(inside, (_noise(start, first) - mean_r) * scale_r, r)
                        g = tl.where(inside, (_noise(start, first + 1) - mean_g) * scale_g, g)
                        bl = tl.where(inside, (_noise(start, first + 2) - mean_b) * scale_b, bl)
            red += share * r
            green += share * g
            blue += share * bl

    at = out + (b.to(tl.int64) * height * width + y * width + x) * 3
    tl.store(at, red.to(out.dtype.element_ty), mask=mask)
    tl.store(at + 1, green.to(out.dtype.element_ty), mask=mask)
    tl.store(at + 2, blue.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["steps", "height", "width"])
def _look_kernel(
    table,
    matrix,
    border,
    border_color,
    color_op,
    color_arg,
    means,
    steps,
    height,
    width,
    FILTER: tl.constexpr,
):
    """Fill means[b, k] for each CONTRAST step k of sample b: the mean luma of a coarse look, just before that step."""
    b = tl.program_id(0)
    wanted = 0
    for k in range(steps):
        wanted += (tl.load(color_op + b * steps + k) == _CONTRAST).to(tl.int32)
    if wanted > 0:
        lane = tl.arange(0, _LOOK * _LOOK)
        x = (lane % _LOOK + 0.5) * (width / _LOOK)
        y = (lane // _LOOK + 0.5) * (height / _LOOK)
        u, v, has_source = _locate(matrix, b, x, y)
        one = tl.full((), 1.0, tl.float32)
        r, g, bl = _read(table, border, border_color, b, u, v, has_source, lane >= 0, one, one, FILTER)
        for k in range(steps):
            step = b * steps + k
            op = tl.load(color_op + step)
            mean = tl.sum(_luma(r, g, bl), 0) / (_LOOK * _LOOK)
            tl.store(means + step, mean, mask=op == _CONTRAST)
            r, g, bl = _color(r, g, bl, op, tl.load(color_arg + step), mean)


@triton.jit
def _locate(matrix, s, x, y):
    """Output points to source points: u, v, and whether there is a source at all (u and v are 0 where not)."""
    m = matrix + s * 9
    w = tl.load(m + 6) * x + tl.load(m + 7) * y + tl.load(m + 8)
    inverse = 1.0 / w
    u = (tl.load(m) * x + tl.load(m + 1) * y + tl.load(m + 2)) * inverse
    v = (tl.load(m + 3) * x + tl.load(m + 4) * y + tl.load(m + 5)) * inverse
    has_source = (w > 0) & (tl.abs(u) <= _MAX_COORDINATE) & (tl.abs(v) <= _MAX_COORDINATE)  # false for NaN
    return tl.where(has_source, u, 0.0), tl.where(has_source, v, 0.0), has_source


@triton.jit
def _footprint(matrix, s, x, y):
    """How many source pixels the output pixel at (x, y) spans along each source axis, at least 1."""
    u, v, has_source = _locate(matrix, s, x, y)
    m = matrix + s * 9
    m6, m7 = tl.load(m + 6), tl.load(m + 7)
    w = m6 * x + m7 * y + tl.load(m + 8)
    inverse = 1.0 / tl.where(has_source, w, 1.0)
    ux, uy = (tl.load(m) - u * m6) * inverse, (tl.load(m + 1) - u * m7) * inverse
    vx, vy = (tl.load(m + 3) - v * m6) * inverse, (tl.load(m + 4) - v * m7) * inverse
    fx = tl.minimum(tl.maximum(tl.sqrt(ux * ux + uy * uy), 1.0), _MAX_FOOTPRINT)
    fy = tl.minimum(tl.maximum(tl.sqrt(vx * vx + vy * vy), 1.0), _MAX_FOOTPRINT)
    return tl.where(has_source, fx, 1.0), tl.where(has_source, fy, 1.0)


@triton.jit
def _read(table, border, border_color, s, u, v, has_source, mask, fx, fy, FILTER: tl.constexpr):
    """Read sample s at (u, v) where `mask`: RGB in [0, 1]."""
    base = tl.load(table + s * 3).to(tl.pointer_type(tl.uint8))
    height = tl.load(table + s * 3 + 1).to(tl.int32)
    width = tl.load(table + s * 3 + 2).to(tl.int32)
    edge = tl.full((), _CONSTANT, tl.int32)
    if border is not None:
        edge = tl.load(border + s)
    mask = mask & has_source
    if FILTER == _NEAREST:
        column, in_x = _place(tl.floor(u).to(tl.int32), width, edge)
        row, in_y = _place(tl.floor(v).to(tl.int32), height, edge)
        inside = (in_x & in_y).to(tl.float32)
        r, g, bl = _load_rgb(base + (row * width + column) * 3, mask & (inside > 0))
    else:
        reach: tl.constexpr = 2 if FILTER == _BICUBIC else 1
        taps_x, taps_y = tl.ceil(2 * reach * fx).to(tl.int32), tl.ceil(2 * reach * fy).to(tl.int32)
        left, top = tl.floor(u - 0.5 - reach * fx) + 1, tl.floor(v - 0.5 - reach * fy) + 1
        step_x, step_y = 1.0 / fx, 1.0 / fy
        t_x, t_y = (left + 0.5 - u) * step_x, (top + 0.5 - v) * step_y
        left, top = tl.where(mask, left, 0.0).to(tl.int32), tl.where(mask, top, 0.0).to(tl.int32)
        # Most tiles read nothing but the source: no borders and no masks, which are much of the work.
        fits = (left >= 0) & (top >= 0) & (left + taps_x <= width) & (top + taps_y <= height)
        if tl.min(fits.to(tl.int32), 0) == 1:
            at = base + (top * width + left) * 3
            r, g, bl, inside = _sum_inside(at, width * 3, t_x, t_y, step_x, step_y, taps_x, taps_y, FILTER)
        else:
            r, g, bl, inside = _sum_bordered(
                base, height, width, edge, mask, left, top, t_x, t_y, step_x, step_y, taps_x, taps_y, FILTER
            )
    border_r, border_g, border_b = _rgb(border_color, s)
    outside = 1.0 - inside
    r = tl.where(has_source, r * (1.0 / 255) + outside * border_r, border_r)
    g = tl.where(has_source, g * (1.0 / 255) + outside * border_g, border_g)
    bl = tl.where(has_source, bl * (1.0 / 255) + outside * border_b, border_b)
    return _clamp(r), _clamp(g), _clamp(bl)


@triton.jit
def _sum_inside(at, row_bytes, t_x, t_y, step_x, step_y, taps_x, taps_y, FILTER: tl.constexpr):
    """Weighted mean of the taps from address `at`, all of them in the source: RGB in 0..255, and their weight, 1."""
    r = tl.zeros(t_x.shape, tl.float32)
    g = tl.zeros(t_x.shape, tl.float32)
    bl = tl.zeros(t_x.shape, tl.float32)
    total = tl.zeros(t_x.shape, tl.float32)
    for _ in range(taps_y):
        row_r = tl.zeros(t_x.shape, tl.float32)
        row_g = tl.zeros(t_x.shape, tl.float32)
        row_b = tl.zeros(t_x.shape, tl.float32)
        row_total = tl.zeros(t_x.shape, tl.float32)
        t = t_x
        for i in range(taps_x):
            weight = _weight(t, FILTER)
            row_r += weight * tl.load(at + i * 3).to(tl.float32)
            row_g += weight * tl.load(at + i * 3 + 1).to(tl.float32)
            row_b += weight * tl.load(at + i * 3 + 2).to(tl.float32)
            row_total += weight
            t += step_x
        weight = _weight(t_y, FILTER)
        r, g, bl = r + weight * row_r, g + weight * row_g, bl + weight * row_b
        total += weight * row_total
        t_y += step_y
        at += row_bytes
    scale = 1.0 / total
    return r * scale, g * scale, bl * scale, tl.full(t_x.shape, 1.0, tl.float32)


@triton.jit
def _sum_bordered(
    base, height, width, edge, mask, left, top, t_x, t_y, step_x, step_y, taps_x, taps_y, FILTER: tl.constexpr
):
    """Weighted sum of the taps from (top, left), borders applied: RGB in 0..255, and the share of the weight in it."""
    r = tl.zeros(t_x.shape, tl.float32)
    g = tl.zeros(t_x.shape, tl.float32)
    bl = tl.zeros(t_x.shape, tl.float32)
    inside = tl.zeros(t_x.shape, tl.float32)
    total = tl.zeros(t_x.shape, tl.float32)
    for j in range(taps_y):
        row, in_y = _place(top + j, height, edge)
        weight_y = _weight(t_y + j * step_y, FILTER)
        for i in range(taps_x):
            column, in_x = _place(left + i, width, edge)
            weight = weight_y * _weight(t_x + i * step_x, FILTER)
            total += weight
            weight = tl.where(in_x & in_y, weight, 0.0)
            inside += weight
            tap_r, tap_g, tap_b = _load_rgb(base + (row * width + column) * 3, mask & (weight != 0))
            r, g, bl = r + weight * tap_r, g + weight * tap_g, bl + weight * tap_b
    scale = 1.0 / total
    return r * scale, g * scale, bl * scale, inside * scale


@triton.jit
def _load_rgb(at, mask):
    r = tl.load(at, mask=mask, other=0).to(tl.float32)
    g = tl.load(at + 1, mask=mask, other=0).to(tl.float32)
    return r, g, tl.load(at + 2, mask=mask, other=0).to(tl.float32)


@triton.jit
def _weight(t, FILTER: tl.constexpr):
    t = tl.abs(t)
    if FILTER == _BICUBIC:
        near = (1.5 * t - 2.5) * t * t + 1.0
        far = ((-0.5 * t + 2.5) * t - 4.0) * t + 2.0
        weight = tl.where(t < 1, near, tl.where(t < 2, far, 0.0))
    else:
        weight = tl.maximum(1.0 - t, 0.0)
    return weight


@triton.jit
def _place(position, size, edge):
    """A tap's position brought into [0, size), and whether it has a source rather than the border colour."""
    inside = ((position >= 0) & (position < size)) | (edge != _CONSTANT)
    if edge == _REFLECT:
        position = position % (2 * size)
        position = tl.where(position < 0, position + 2 * size, position)  # the remainder has the dividend's sign
        position = tl.minimum(position, 2 * size - 1 - position)
    return tl.minimum(tl.maximum(position, 0), size - 1), inside


@triton.jit
def _color(r, g, bl, op, arg, mean):
    """One step of the colour program; `mean` is CONTRAST's."""
    if op == _BRIGHTNESS:
        r, g, bl = r * arg, g * arg, bl * arg
    elif op == _CONTRAST:
        r, g, bl = mean + (r - mean) * arg, mean + (g - mean) * arg, mean + (bl - mean) * arg
    elif op == _SATURATION:
        luma = _luma(r, g, bl)
        r, g, bl = luma + (r - luma) * arg, luma + (g - luma) * arg, luma + (bl - luma) * arg
    elif op == _HUE:
        r, g, bl = _turn_hue(r, g, bl, arg)
    elif op == _GRAY:
        luma = _luma(r, g, bl)
        r, g, bl = tl.where(arg > 0, luma, r), tl.where(arg > 0, luma, g), tl.where(arg > 0, luma, bl)
    elif op == _SHUFFLE:
        order = tl.minimum(tl.maximum(tl.floor(arg + 0.5), 0.0), 5.0).to(tl.int32)
        first = order // 2
        low = tl.where(first == 0, 1, 0)  # the two channels that are left, in rising order
        high = tl.where(first == 2, 1, 2)
        second = tl.where(order % 2 == 0, low, high)
        third = tl.where(order % 2 == 0, high, low)
        r, g, bl = _pick(r, g, bl, first), _pick(r, g, bl, second), _pick(r, g, bl, third)
    elif op == _INVERT:
        r, g, bl = 1.0 - r, 1.0 - g, 1.0 - bl
    elif op == _SOLARIZE:
        r, g, bl = tl.where(r >= arg, 1.0 - r, r), tl.where(g >= arg, 1.0 - g, g), tl.where(bl >= arg, 1.0 - bl, bl)
    elif op == _POSTERIZE:
        drop = 8 - tl.minimum(tl.maximum(tl.floor(arg + 0.5), 0.0), 8.0).to(tl.int32)
        r, g, bl = _posterize(r, drop), _posterize(g, drop), _posterize(bl, drop)
    elif op == _GAMMA:
        r, g, bl = _power(r, arg), _power(g, arg), _power(bl, arg)
    return _clamp(r), _clamp(g), _clamp(bl)


@triton.jit
def _turn_hue(r, g, bl, turns):
    value = tl.maximum(tl.maximum(r, g), bl)
    chroma = value - tl.minimum(tl.minimum(r, g), bl)
    inverse = 1.0 / tl.where(chroma > 0, chroma, 1.0)
    hue = tl.where(g == value, (bl - r) * inverse + 2.0, (r - g) * inverse + 4.0)
    hue = tl.where(r == value, (g - bl) * inverse, hue) + 6.0 * turns
    return (
        _hue_channel(value, chroma, hue + 5.0),
        _hue_channel(value, chroma, hue + 3.0),
        _hue_channel(value, chroma, hue + 1.0),
    )


@triton.jit
def _hue_channel(value, chroma, k):
    k = k - 6.0 * tl.floor(k * (1.0 / 6.0))
    return value - chroma * _clamp(tl.minimum(k, 4.0 - k))


@triton.jit
def _posterize(c, drop):
    return ((((c * 255.0 + 0.5).to(tl.int32)) >> drop) << drop).to(tl.float32) * (1.0 / 255)


@triton.jit
def _power(c, exponent):
    return tl.where(c > 0, tl.exp2(exponent * tl.log2(tl.maximum(c, 1e-30))), tl.where(exponent == 0, 1.0, 0.0))


@triton.jit
def _pick(r, g, bl, which):
    return tl.where(which == 0, r, tl.where(which == 1, g, bl))


@triton.jit
def _luma(r, g, bl):
    return r * _LUMA_R + g * _LUMA_G + bl * _LUMA_B


@triton.jit
def _clamp(c):
    return tl.minimum(tl.maximum(c, 0.0), 1.0)


@triton.jit
def _rgb(colors, i):
    """Row i of an (N, 3) tensor; black if there is none."""
    r = tl.full((), 0.0, tl.float32)
    g = r
    bl = r
    if colors is not None:
        r, g, bl = tl.load(colors + i * 3), tl.load(colors + i * 3 + 1), tl.load(colors + i * 3 + 2)
    return r, g, bl


@triton.jit
def _inside(corners, x, y):
    """Which points lie in the half-open rectangle x0, y0, x1, y1 stored at `corners`."""
    wide = (x >= tl.load(corners)) & (x < tl.load(corners + 2))
    return wide & (y >= tl.load(corners + 1)) & (y < tl.load(corners + 3))


@triton.jit
def _noise_start(seeds, s):
    start = tl.full((), 0, tl.uint32)
    if seeds is not None:
        start = tl.load(seeds + s).to(tl.uint32)
    return _mix_bits(start)


@triton.jit
def _noise(start, place):
    return (_mix_bits(start ^ place) >> 8).to(tl.float32) * (1.0 / (1 << 24))


@triton.jit
def _mix_bits(h):
    h = (h ^ (h >> 16)) * 0x7FEB352D
    h = (h ^ (h >> 15)) * 0x846CA68B
    return h ^ (h >> 16)
