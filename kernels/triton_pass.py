"""The one pass on CUDA, in Triton: one program a tile of one sample's output, everything in registers.

Why this way: what a large GPU spends here is instructions, not memory. A pixel takes an H100 194, 290 and 361
instructions at 2, 3 and 4 taps an axis, with full colour jitter and a rectangle, and 404 at 2 with a partner; to do
them takes so long that 50%, 46% and 46% of the rate at which it copies memory can be reached at most. (Counted from
the machine code by `benchmarks/count_instructions.py`; what a GPU makes of it has not been measured.) Hence:

* What is the same for all of a sample's pixels is worked out once, by a kernel of its own, into one row a sample: the
  footprint and the taps, the inverse of an affine matrix, what contrast needs to know of the whole image, the numbers
  of each colour step and rectangle.
* A tile asks a few questions for all of its pixels: does it read nothing but the source, does it show the sample, its
  partner or both, does a rectangle meet it. The answers are the same for all threads, so a plain `if` skips the rest.
* The taps of a row, 2, 3 or 4 at a time, come straight from the ragged uint8 images (by address: padding or packing
  them would copy the batch once more), by aligned words. At a border each tap is looked after on its own, by bytes.
* A thread has pairs of neighbouring pixels, which in bfloat16 are three words to store.

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

_TILE_X, _TILE_Y, _WARPS = 64, 8, 4  # wide, so that rows are written in long runs; 4 pixels a thread
_MOST_REGISTERS = 128  # four blocks of threads on an SM; with a partner sm_80 and 89 would take more
_LAUNCH = {"num_stages": 1, "enable_fp_fusion": True}  # nothing to pipeline: taps do not feed a matrix product

_NEAREST = tl.constexpr(int(Filter.NEAREST))
_BILINEAR = tl.constexpr(int(Filter.BILINEAR))
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
_MAGIC = tl.constexpr(1.5 * 2**23)  # a float32 this large has no bits behind the point
_MAGIC_BITS = tl.constexpr(0x4B400000)

# A sample's row of constants, by 4-byte words.
_ADDRESS = tl.constexpr(0)  # of the pixels, 64 bits
_HEIGHT = tl.constexpr(2)
_WIDTH = tl.constexpr(3)
_MATRIX = tl.constexpr(4)  # 9, float32; of an affine one the last row is 0, 0, 1
_PERSPECTIVE = tl.constexpr(13)  # 0 or 1
_FOOT = tl.constexpr(14)  # the footprint, x and y, and their inverses
_TAPS = tl.constexpr(18)  # x and y
_EDGE = tl.constexpr(20)
_BORDER = tl.constexpr(21)  # RGB
_NOISE = tl.constexpr(24)  # the seed, mixed
_ZERO = tl.constexpr(25)  # see _taps
_BOUNDS = tl.constexpr(26)  # least u and v, most u and v of a tile's centre, for all of the tile to be inside
_ROW = tl.constexpr(30)  # here the colour program begins, behind it the rectangles
_STEP = tl.constexpr(4)  # code, and two numbers
_RECT = tl.constexpr(8)  # x0, y0, x1, y1, fill, RGB normalised


def triton_pass(images: Ragged, plan: Plan, out: Tensor) -> None:
    """Fill `out` (B, 3, height, width), channels-last, float32, bfloat16 or float16, on the current CUDA stream.

    The images, plan and `out` lie on one CUDA device (or on the host under TRITON_INTERPRET=1, else RuntimeError) and
    fit together as `dispatch.one_pass` checks. Beyond `out` it needs some 300 bytes a sample, which torch's caching
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
    steps = 0 if plan.color_op_BK is None else plan.color_op_BK.shape[1]
    rects = 0 if plan.rect_BR4 is None else plan.rect_BR4.shape[1]
    words = int(_ROW) + int(_STEP) * steps + int(_RECT) * rects
    rows_BW = torch.empty((plan.batch, words), dtype=torch.int32, device=out.device)
    scale = tuple(1 / std for std in plan.std)
    normalise = (*scale, *(-mean / std for mean, std in zip(plan.mean, plan.std, strict=True)))
    with torch.cuda.device_of(out):
        _prepare_kernel[(plan.batch,)](
            rows_BW,
            words,
            table_B3,
            plan.matrix_B33,
            plan.border_B,
            plan.border_color_B3,
            plan.color_op_BK,
            plan.color_arg_BK,
            steps,
            plan.rect_BR4,
            plan.rect_fill_BR,
            plan.rect_color_BR3,
            plan.noise_seed_B,
            rects,
            plan.height,
            plan.width,
            *normalise,
            FILTER=int(plan.filter),
            ANTIALIAS=plan.antialias and plan.filter != Filter.NEAREST,
            TILE_X=_TILE_X,
            TILE_Y=_TILE_Y,
            num_warps=8,
            **_LAUNCH,
        )
        tiles = triton.cdiv(plan.width, _TILE_X), triton.cdiv(plan.height, _TILE_Y)
        _pass_kernel[(*tiles, plan.batch)](
            out,
            rows_BW,
            words,
            steps,
            rects,
            plan.partner_B,
            plan.weight_B,
            plan.box_B4,
            plan.batch,
            plan.height,
            plan.width,
            *normalise,
            FILTER=int(plan.filter),
            COLORS=steps > 0,
            RECTS=rects > 0,
            PAIRS=plan.width % 2 == 0 and out.data_ptr() % 4 == 0,
            TILE_X=_TILE_X,
            TILE_Y=_TILE_Y,
            num_warps=_WARPS,
            maxnreg=_MOST_REGISTERS,
            **_LAUNCH,
        )


# --- what is the same for all of a sample's pixels --------------------------------------------------------------------


@triton.jit(do_not_specialize=["words", "steps", "rects", "height", "width"])
def _prepare_kernel(
    rows,
    words,
    table,
    matrix,
    border,
    border_color,
    color_op,
    color_arg,
    steps,
    rect,
    rect_fill,
    rect_color,
    noise_seed,
    rects,
    height,
    width,
    scale_r,
    scale_g,
    scale_b,
    shift_r,
    shift_g,
    shift_b,
    FILTER: tl.constexpr,
    ANTIALIAS: tl.constexpr,
    TILE_X: tl.constexpr,
    TILE_Y: tl.constexpr,
):
    """Sample b's row of constants."""
    b = tl.program_id(0)
    row = rows + b.to(tl.int64) * words
    m = matrix + b * 9
    m6, m7, m8 = tl.load(m + 6), tl.load(m + 7), tl.load(m + 8)
    affine = (m6 == 0) & (m7 == 0) & (m8 > 0)
    inverse = tl.where(affine, 1.0 / tl.where(affine, m8, 1.0), 1.0)
    for i in tl.static_range(6):
        _put(row, _MATRIX + i, tl.load(m + i) * inverse)
    _put(row, _MATRIX + 6, m6)
    _put(row, _MATRIX + 7, m7)
    _put(row, _MATRIX + 8, tl.where(affine, 1.0, m8))
    tl.store(row + _PERSPECTIVE, 1 - affine.to(tl.int32))

    address = tl.load(table + b * 3)
    tl.store(row + _ADDRESS, (address & 0xFFFFFFFF).to(tl.uint32).to(tl.int32, bitcast=True))
    tl.store(row + _ADDRESS + 1, (address >> 32).to(tl.int32))
    tl.store(row + _HEIGHT, tl.load(table + b * 3 + 1).to(tl.int32))
    tl.store(row + _WIDTH, tl.load(table + b * 3 + 2).to(tl.int32))
    edge = tl.full((), _CONSTANT, tl.int32)
    if border is not None:
        edge = tl.load(border + b)
    tl.store(row + _EDGE, edge)
    tl.store(row + _ZERO, 0)
    red, green, blue = _rgb(border_color, b)
    _put(row, _BORDER, red)
    _put(row, _BORDER + 1, green)
    _put(row, _BORDER + 2, blue)
    tl.debug_barrier()  # one thread has written what all of them read from here on

    fx = tl.full((), 1.0, tl.float32)
    fy = fx
    if ANTIALIAS:
        fx, fy = _footprint(row, width * 0.5, height * 0.5)
    _put(row, _FOOT, fx)
    _put(row, _FOOT + 1, fy)
    _put(row, _FOOT + 2, 1.0 / fx)
    _put(row, _FOOT + 3, 1.0 / fy)
    reach: tl.constexpr = 2 if FILTER == _BICUBIC else 1
    tl.store(row + _TAPS, tl.ceil(2 * reach * fx).to(tl.int32))
    tl.store(row + _TAPS + 1, tl.ceil(2 * reach * fy).to(tl.int32))
    # A pixel to spare, since words begin before what is read of them, and columns are read by 4.
    spread_u = (tl.abs(_get(row, _MATRIX)) * TILE_X + tl.abs(_get(row, _MATRIX + 1)) * TILE_Y) * 0.5
    spread_v = (tl.abs(_get(row, _MATRIX + 3)) * TILE_X + tl.abs(_get(row, _MATRIX + 4)) * TILE_Y) * 0.5
    _put(row, _BOUNDS, reach * fx + spread_u + 1.0)
    _put(row, _BOUNDS + 1, reach * fy + spread_v + 1.0)
    _put(row, _BOUNDS + 2, tl.load(row + _WIDTH) - (reach * fx + 4.0) - spread_u)
    _put(row, _BOUNDS + 3, tl.load(row + _HEIGHT) - (reach * fy + 2.0) - spread_v)

    if color_op is not None:
        wanted = 0
        for k in range(steps):
            wanted += (tl.load(color_op + b * steps + k) == _CONTRAST).to(tl.int32)
        lane = tl.arange(0, _LOOK * _LOOK)
        r = tl.zeros(lane.shape, tl.float32)
        g = r
        bl = r
        if wanted > 0:
            x = (lane % _LOOK + 0.5) * (width / _LOOK)
            y = (lane // _LOOK + 0.5) * (height / _LOOK)
            if FILTER == _NEAREST:
                r, g, bl = _read_nearest(row, x, y, lane >= 0)
            else:
                r, g, bl = _read_bordered(row, x, y, lane >= 0, 1.0, 1.0, 2, 2, _BILINEAR, 2)
        for k in range(steps):
            op, arg = tl.load(color_op + b * steps + k), tl.load(color_arg + b * steps + k)
            mean = tl.full((), 0.0, tl.float32)
            if op == _CONTRAST:
                mean = tl.sum(_luma(r, g, bl), 0) / (_LOOK * _LOOK)
            first, second = _constants(op, arg, mean)
            if wanted > 0:
                r, g, bl = _color(r, g, bl, op, first, second)
            step = row + _ROW + k * _STEP
            tl.store(step, op)
            _put(step, 1, first)
            _put(step, 2, second)

    if rect is not None:
        for i in range(rects):
            which = b * rects + i
            at = row + _ROW + steps * _STEP + i * _RECT
            for corner in tl.static_range(4):
                tl.store(at + corner, tl.load(rect + which * 4 + corner))
            fill = tl.load(rect_fill + which)
            tl.store(at + 4, fill)
            red, green, blue = _rgb(rect_color, which)
            constant = fill == _FILL_CONSTANT  # else MEAN, which is 0 after normalising
            _put(at, 5, tl.where(constant, red * scale_r + shift_r, 0.0))
            _put(at, 6, tl.where(constant, green * scale_g + shift_g, 0.0))
            _put(at, 7, tl.where(constant, blue * scale_b + shift_b, 0.0))
        start = tl.full((), 0, tl.uint32)
        if noise_seed is not None:
            start = tl.load(noise_seed + b).to(tl.uint32)
        tl.store(row + _NOISE, _mix_bits(start).to(tl.int32, bitcast=True))


@triton.jit
def _put(row, place, value):
    tl.store(row + place, value.to(tl.int32, bitcast=True))


@triton.jit
def _get(row, place):
    return tl.load(row + place).to(tl.float32, bitcast=True)


@triton.jit
def _base(row):
    """Where the sample's pixels begin: an address."""
    low = tl.load(row + _ADDRESS).to(tl.uint32, bitcast=True).to(tl.int64)
    return (tl.load(row + _ADDRESS + 1).to(tl.int64) << 32) | low


@triton.jit
def _footprint(row, x, y):
    """How many source pixels the output pixel at (x, y) spans along each source axis, at least 1."""
    u, v, has_source = _locate(row, x, y)
    m6, m7 = _get(row, _MATRIX + 6), _get(row, _MATRIX + 7)
    w = m6 * x + m7 * y + _get(row, _MATRIX + 8)
    inverse = 1.0 / tl.where(has_source, w, 1.0)
    ux, uy = (_get(row, _MATRIX) - u * m6) * inverse, (_get(row, _MATRIX + 1) - u * m7) * inverse
    vx, vy = (_get(row, _MATRIX + 3) - v * m6) * inverse, (_get(row, _MATRIX + 4) - v * m7) * inverse
    fx = tl.minimum(tl.maximum(tl.sqrt(ux * ux + uy * uy), 1.0), _MAX_FOOTPRINT)
    fy = tl.minimum(tl.maximum(tl.sqrt(vx * vx + vy * vy), 1.0), _MAX_FOOTPRINT)
    return tl.where(has_source, fx, 1.0), tl.where(has_source, fy, 1.0)


# --- the pass ---------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["words", "steps", "rects", "batch", "height", "width"])
def _pass_kernel(
    out,
    rows,
    words,
    steps,
    rects,
    partner,
    weight,
    box,
    batch,
    height,
    width,
    scale_r,
    scale_g,
    scale_b,
    shift_r,
    shift_g,
    shift_b,
    FILTER: tl.constexpr,
    COLORS: tl.constexpr,
    RECTS: tl.constexpr,
    PAIRS: tl.constexpr,
    TILE_X: tl.constexpr,
    TILE_Y: tl.constexpr,
):
    """One tile of one sample: what it and its partner show there, mixed, stored. A lane has two neighbouring pixels."""
    b = tl.program_id(2)
    left, top = tl.program_id(0) * TILE_X, tl.program_id(1) * TILE_Y
    right, bottom = tl.minimum(left + TILE_X, width), tl.minimum(top + TILE_Y, height)
    lane = tl.arange(0, TILE_X * TILE_Y // 2)
    x = left + lane % (TILE_X // 2) * 2
    y = top + lane // (TILE_X // 2)

    own = tl.full((), 1.0, tl.float32)  # the sample's own weight, outside the box
    other = b
    shows_own = own > 0  # whether the tile shows anything of it
    shows_other = own < 0
    x0 = 0
    y0 = 0
    x1 = 0
    y1 = 0
    if partner is not None:
        other = tl.minimum(tl.maximum(tl.load(partner + b), 0), batch - 1).to(tl.int32)
        if weight is not None:
            own = tl.load(weight + b)
        shows_own, shows_other = own > 0, own < 1
        if box is not None:
            x0, y0 = tl.load(box + b * 4), tl.load(box + b * 4 + 1)
            x1, y1 = tl.load(box + b * 4 + 2), tl.load(box + b * 4 + 3)
            covers = (x0 <= left) & (y0 <= top) & (x1 >= right) & (y1 >= bottom)
            meets = (tl.maximum(x0, left) < tl.minimum(x1, right)) & (tl.maximum(y0, top) < tl.minimum(y1, bottom))
            shows_own, shows_other = shows_own & (covers == 0), shows_other | meets

    # The pixels, first and second of each lane.
    r = tl.zeros(lane.shape, tl.float32)
    g = r
    bl = r
    r2 = r
    g2 = r
    bl2 = r
    for part in range(1 if partner is None else 2):
        s = tl.where(part == 0, b, other)
        if tl.where(part == 0, shows_own, shows_other):
            row = rows + s.to(tl.int64) * words
            pr, pg, pb, pr2, pg2, pb2 = _read_tile(
                row, x, y, left, top, right, bottom, width, height, FILTER, TILE_X, TILE_Y
            )
            if COLORS:
                for k in range(steps):
                    step = row + _ROW + k * _STEP
                    op, first, second = tl.load(step), _get(step, 1), _get(step, 2)
                    pr, pg, pb, pr2, pg2, pb2 = _color_pair(pr, pg, pb, pr2, pg2, pb2, op, first, second)
            pr, pr2 = pr * scale_r + shift_r, pr2 * scale_r + shift_r
            pg, pg2 = pg * scale_g + shift_g, pg2 * scale_g + shift_g
            pb, pb2 = pb * scale_b + shift_b, pb2 * scale_b + shift_b
            if RECTS:  # after normalising, where MEAN is 0
                for i in range(rects):
                    at = row + _ROW + steps * _STEP + i * _RECT
                    a0, b0, a1, b1 = tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)
                    fill = tl.load(at + 4)
                    if (fill != 0) & (a0 < right) & (b0 < bottom) & (a1 > left) & (b1 > top):
                        rows_in = (y >= b0) & (y < b1)
                        in1, in2 = rows_in & (x >= a0) & (x < a1), rows_in & (x + 1 >= a0) & (x + 1 < a1)
                        if fill == _FILL_NOISE:
                            start = tl.load(row + _NOISE).to(tl.uint32, bitcast=True)
                            place = (y * width + x).to(tl.uint32) * 3
                            pr = tl.where(in1, _noise(start, place) * scale_r + shift_r, pr)
                            pg = tl.where(in1, _noise(start, place + 1) * scale_g + shift_g, pg)
                            pb = tl.where(in1, _noise(start, place + 2) * scale_b + shift_b, pb)
                            pr2 = tl.where(in2, _noise(start, place + 3) * scale_r + shift_r, pr2)
                            pg2 = tl.where(in2, _noise(start, place + 4) * scale_g + shift_g, pg2)
                            pb2 = tl.where(in2, _noise(start, place + 5) * scale_b + shift_b, pb2)
                        elif (fill == _FILL_CONSTANT) | (fill == _FILL_MEAN):
                            cr, cg, cb = _get(at, 5), _get(at, 6), _get(at, 7)
                            pr, pr2 = tl.where(in1, cr, pr), tl.where(in2, cr, pr2)
                            pg, pg2 = tl.where(in1, cg, pg), tl.where(in2, cg, pg2)
                            pb, pb2 = tl.where(in1, cb, pb), tl.where(in2, cb, pb2)
            if partner is None:
                r, g, bl, r2, g2, bl2 = pr, pg, pb, pr2, pg2, pb2
            else:
                share = tl.where(part == 0, own, 1.0 - own)
                share1 = share
                share2 = share
                if box is not None:
                    within = (y >= y0) & (y < y1)
                    inside = tl.where(part == 0, 0.0, 1.0)
                    share1 = tl.where(within & (x >= x0) & (x < x1), inside, share)
                    share2 = tl.where(within & (x + 1 >= x0) & (x + 1 < x1), inside, share)
                r, g, bl = r + share1 * pr, g + share1 * pg, bl + share1 * pb
                r2, g2, bl2 = r2 + share2 * pr2, g2 + share2 * pg2, bl2 + share2 * pb2

    at = out + b.to(tl.int64) * height * width * 3 + (y * width + x) * 3
    mask = (x < width) & (y < height)
    if PAIRS:
        at = tl.multiple_of(at, 4)  # bytes
        _store_pair(at, 0, r, g, mask)
        _store_pair(at, 1, bl, r2, mask)
        _store_pair(at, 2, g2, bl2, mask)
    else:
        kind: tl.constexpr = out.dtype.element_ty
        tl.store(at, r.to(kind), mask=mask)
        tl.store(at + 1, g.to(kind), mask=mask)
        tl.store(at + 2, bl.to(kind), mask=mask)
        mask = (x + 1 < width) & (y < height)
        tl.store(at + 3, r2.to(kind), mask=mask)
        tl.store(at + 4, g2.to(kind), mask=mask)
        tl.store(at + 5, bl2.to(kind), mask=mask)


@triton.jit
def _store_pair(at, place, first, second, mask):
    """Two neighbouring values: of 16 bits they are one word."""
    kind: tl.constexpr = at.dtype.element_ty
    if kind == tl.float32:
        tl.store(at + 2 * place, first, mask=mask)
        tl.store(at + 2 * place + 1, second, mask=mask)
    else:
        pair = at[:, None] + (tl.arange(0, 2) + 2 * place)[None, :]
        tl.store(pair, tl.join(first, second).to(kind), mask=mask[:, None])


@triton.jit
def _color_pair(r, g, bl, r2, g2, bl2, op, first, second):
    """A step on both pixels of each lane."""
    both_r, both_g, both_b = tl.join(r, r2), tl.join(g, g2), tl.join(bl, bl2)
    both_r, both_g, both_b = _color(both_r, both_g, both_b, op, first, second)
    r, r2 = tl.split(both_r)
    g, g2 = tl.split(both_g)
    bl, bl2 = tl.split(both_b)
    return r, g, bl, r2, g2, bl2


# --- reading ----------------------------------------------------------------------------------------------------------


@triton.jit
def _read_tile(
    row, x, y, left, top, right, bottom, width, height, FILTER: tl.constexpr, TILE_X: tl.constexpr, TILE_Y: tl.constexpr
):
    """The pixels (x, y) and (x + 1, y) of the tile, RGB in [0, 1]."""
    fx, fy = _get(row, _FOOT), _get(row, _FOOT + 1)
    taps_x, taps_y = tl.load(row + _TAPS), tl.load(row + _TAPS + 1)
    # Lanes behind the right or lower edge read what the last one reads.
    xf, yf = tl.minimum(x, width - 1) + 0.5, tl.minimum(y, height - 1) + 0.5
    xf2 = tl.minimum(x + 1, width - 1) + 0.5
    if _fits(row, left, top, right, bottom, TILE_X, TILE_Y):
        u, v = _inside(row, xf, yf)
        u2, v2 = _inside(row, xf2, yf)
        if FILTER == _NEAREST:
            r, g, bl = _nearest_inside(row, u, v)
            r2, g2, bl2 = _nearest_inside(row, u2, v2)
        elif (FILTER == _BILINEAR) & (taps_x == 2) & (taps_y == 2):
            r, g, bl = _two_by_two(row, u, v)
            r2, g2, bl2 = _two_by_two(row, u2, v2)
        elif (FILTER == _BILINEAR) & (taps_x <= 3):
            r, g, bl = _sum_inside(row, u, v, fx, fy, taps_x, taps_y, FILTER, 3)
            r2, g2, bl2 = _sum_inside(row, u2, v2, fx, fy, taps_x, taps_y, FILTER, 3)
        else:
            r, g, bl = _sum_inside(row, u, v, fx, fy, taps_x, taps_y, FILTER, 4)
            r2, g2, bl2 = _sum_inside(row, u2, v2, fx, fy, taps_x, taps_y, FILTER, 4)
    else:
        if FILTER == _NEAREST:
            r, g, bl = _read_nearest(row, xf, yf, xf >= 0)
            r2, g2, bl2 = _read_nearest(row, xf2, yf, xf >= 0)
        else:
            r, g, bl = _read_bordered(row, xf, yf, xf >= 0, fx, fy, taps_x, taps_y, FILTER, 4)
            r2, g2, bl2 = _read_bordered(row, xf2, yf, xf >= 0, fx, fy, taps_x, taps_y, FILTER, 4)
    return r, g, bl, r2, g2, bl2


@triton.jit
def _fits(row, left, top, right, bottom, TILE_X: tl.constexpr, TILE_Y: tl.constexpr):
    """Whether all that a tile's points read lies in the source, a pixel to spare."""
    u, v = _map(row, left + TILE_X * 0.5, top + TILE_Y * 0.5)
    low_u, low_v, high_u, high_v = u, v, u, v
    good = u == u
    for _ in range(tl.load(row + _PERSPECTIVE)):
        # Where w > 0 on its corners, a rectangle is mapped into their hull.
        for corner in tl.static_range(4):
            u, v, has_source = _locate(row, right if corner % 2 == 1 else left, bottom if corner >= 2 else top)
            low_u, high_u = tl.minimum(low_u, u) if corner else u, tl.maximum(high_u, u) if corner else u
            low_v, high_v = tl.minimum(low_v, v) if corner else v, tl.maximum(high_v, v) if corner else v
            good = good & has_source
    good = good & (low_u >= _get(row, _BOUNDS)) & (low_v >= _get(row, _BOUNDS + 1))
    return good & (high_u <= _get(row, _BOUNDS + 2)) & (high_v <= _get(row, _BOUNDS + 3))


@triton.jit
def _map(row, x, y):
    """An affine matrix's output points to source points."""
    u = _get(row, _MATRIX) * x + (_get(row, _MATRIX + 1) * y + _get(row, _MATRIX + 2))
    return u, _get(row, _MATRIX + 3) * x + (_get(row, _MATRIX + 4) * y + _get(row, _MATRIX + 5))


@triton.jit
def _inside(row, x, y):
    """Output points that have a source to their source points."""
    u, v = _map(row, x, y)
    for _ in range(tl.load(row + _PERSPECTIVE)):  # no `if`: it would be done for all, and one of both results taken
        inverse = 1.0 / (_get(row, _MATRIX + 6) * x + _get(row, _MATRIX + 7) * y + _get(row, _MATRIX + 8))
        u, v = u * inverse, v * inverse
    return u, v


@triton.jit
def _locate(row, x, y):
    """Output points to source points: u, v, and whether there is a source at all (u and v are 0 where not)."""
    u, v = _map(row, x, y)
    w = _get(row, _MATRIX + 6) * x + _get(row, _MATRIX + 7) * y + _get(row, _MATRIX + 8)
    inverse = 1.0 / w
    u, v = u * inverse, v * inverse
    has_source = (w > 0) & (tl.abs(u) <= _MAX_COORDINATE) & (tl.abs(v) <= _MAX_COORDINATE)  # false for NaN
    return tl.where(has_source, u, 0.0), tl.where(has_source, v, 0.0), has_source


@triton.jit
def _round(x):
    """The nearest whole number as float32 and int32, of numbers below 2**21: an addition does it."""
    shifted = x + _MAGIC
    return shifted - _MAGIC, shifted.to(tl.int32, bitcast=True) - _MAGIC_BITS


@triton.jit
def _word(address, place):
    return tl.load(address.to(tl.pointer_type(tl.uint32)) + place)


@triton.jit
def _joined(low, high, shift):
    """Four bytes from `shift` bits into eight; ptxas makes one instruction of it."""
    return (low >> shift) | ((high << 1) << (31 - shift))


@triton.jit
def _byte(word, place: tl.constexpr):
    return ((word >> (8 * place)) & 0xFF).to(tl.float32)


@triton.jit
def _taps(address, zero, T: tl.constexpr):
    """The bytes from an address on, 3 T of them, T at most 4, as three words: read by aligned words. `zero` is 0, which
    the compiler must not know: it would see that a shift by whole bytes spares the first, and take that out twice."""
    aligned = address & -4
    shift = (address.to(tl.uint32) * 8 + zero) & 31
    first, second, third = _word(aligned, 0), _word(aligned, 1), _word(aligned, 2)
    a, b = _joined(first, second, shift), _joined(second, third, shift)
    c = third >> shift
    if T == 4:
        c = _joined(third, _word(aligned, 3), shift)
    return a, b, c


@triton.jit
def _row_sums(address, zero, w0, w1, w2, w3, T: tl.constexpr):
    """Weighted sums of T neighbouring pixels: RGB in 0..255."""
    a, b, c = _taps(address, zero, T)
    r = w0 * _byte(a, 0) + w1 * _byte(a, 3)
    g = w0 * _byte(a, 1) + w1 * _byte(b, 0)
    bl = w0 * _byte(a, 2) + w1 * _byte(b, 1)
    if T >= 3:
        r, g, bl = r + w2 * _byte(b, 2), g + w2 * _byte(b, 3), bl + w2 * _byte(c, 0)
    if T >= 4:
        r, g, bl = r + w3 * _byte(c, 1), g + w3 * _byte(c, 2), bl + w3 * _byte(c, 3)
    return r, g, bl


@triton.jit
def _two_by_two(row, u, v):
    """Bilinear at footprint 1, all four taps in the source: RGB in [0, 1]."""
    base, row_bytes, zero = _base(row), tl.load(row + _WIDTH) * 3, tl.load(row + _ZERO).to(tl.uint32)
    left, column = _round(u - 1.0)
    top, line = _round(v - 1.0)
    x1, y1 = u - 0.5 - left, v - 0.5 - top
    address = base + (line * row_bytes + column * 3)
    y1 *= 1.0 / 255
    y0 = 1.0 / 255 - y1
    r, g, bl = _row_sums(address, zero, 1.0 - x1, x1, x1, x1, 2)
    r2, g2, b2 = _row_sums(address + row_bytes, zero, 1.0 - x1, x1, x1, x1, 2)
    return y0 * r + y1 * r2, y0 * g + y1 * g2, y0 * bl + y1 * b2


@triton.jit
def _sum_inside(row, u, v, fx, fy, taps_x, taps_y, FILTER: tl.constexpr, T: tl.constexpr):
    """Weighted mean of the taps around (u, v), all of them in the source: RGB in [0, 1]. T columns at a time."""
    reach: tl.constexpr = 2 if FILTER == _BICUBIC else 1
    step_x, step_y = _get(row, _FOOT + 2), _get(row, _FOOT + 3)
    row_bytes, zero = tl.load(row + _WIDTH) * 3, tl.load(row + _ZERO).to(tl.uint32)
    left, column = _round(u - reach * fx)
    top, line = _round(v - reach * fy)
    t_x, t_top = (left + 0.5 - u) * step_x, (top + 0.5 - v) * step_y
    address = _base(row) + (line * row_bytes + column * 3)
    r = tl.zeros(u.shape, tl.float32)
    g = r
    bl = r
    total_x = r
    total_y = r
    for _ in range(0, taps_x, T):
        w0, w1 = _weight(t_x, FILTER), _weight(t_x + step_x, FILTER)
        w2, w3 = _weight(t_x + 2.0 * step_x, FILTER), _weight(t_x + 3.0 * step_x, FILTER)
        total_x += (w0 + w1) + (w2 + w3 if T == 4 else w2)
        at = address
        t_y = t_top
        total_y = tl.zeros(u.shape, tl.float32)
        for _ in range(taps_y):
            sum_r, sum_g, sum_b = _row_sums(at, zero, w0, w1, w2, w3, T)
            weight = _weight(t_y, FILTER)
            r, g, bl = r + weight * sum_r, g + weight * sum_g, bl + weight * sum_b
            total_y += weight
            t_y += step_y
            at += row_bytes
        t_x += T * step_x
        address += T * 3
    scale = _inverse(total_x * total_y * 255.0)
    return _clamp(r * scale), _clamp(g * scale), _clamp(bl * scale)


@triton.jit
def _read_bordered(row, x, y, mask, fx, fy, taps_x, taps_y, FILTER: tl.constexpr, T: tl.constexpr):
    """Read at output points (x, y), borders applied to each tap: RGB in [0, 1]. T columns at a time."""
    u, v, has_source = _locate(row, x, y)
    mask = mask & has_source
    base, edge = _base(row), tl.load(row + _EDGE)
    height, width = tl.load(row + _HEIGHT), tl.load(row + _WIDTH)
    reach: tl.constexpr = 2 if FILTER == _BICUBIC else 1
    step_x, step_y = 1.0 / fx, 1.0 / fy
    left, column = _round(u - reach * fx)
    top, line = _round(v - reach * fy)
    t_x, t_top = (left + 0.5 - u) * step_x, (top + 0.5 - v) * step_y
    r = tl.zeros(u.shape, tl.float32)
    g = r
    bl = r
    inside = r
    total_x = r
    total_y = r
    for start in range(0, taps_x, T):
        at0, w0, all0 = _column(base, column + start, t_x, width, edge, FILTER)
        at1, w1, all1 = _column(base, column + start + 1, t_x + step_x, width, edge, FILTER)
        total_x += all0 + all1
        at2 = at1
        w2 = w1
        at3 = at1
        w3 = w1
        if T == 4:
            at2, w2, all2 = _column(base, column + start + 2, t_x + 2.0 * step_x, width, edge, FILTER)
            at3, w3, all3 = _column(base, column + start + 3, t_x + 3.0 * step_x, width, edge, FILTER)
            total_x += all2 + all3
        t_y = t_top
        total_y = tl.zeros(u.shape, tl.float32)
        for j in range(taps_y):
            placed, in_y = _place(line + j, height, edge)
            weight = _weight(t_y, FILTER)
            total_y += weight
            weight = tl.where(in_y, weight, 0.0)
            offset = placed * width * 3
            r0, g0, b0 = _load_rgb(at0 + offset, mask)
            r1, g1, b1 = _load_rgb(at1 + offset, mask)
            sum_r, sum_g, sum_b = w0 * r0 + w1 * r1, w0 * g0 + w1 * g1, w0 * b0 + w1 * b1
            kept = w0 + w1
            if T == 4:
                r0, g0, b0 = _load_rgb(at2 + offset, mask)
                r1, g1, b1 = _load_rgb(at3 + offset, mask)
                sum_r, sum_g, sum_b = sum_r + w2 * r0, sum_g + w2 * g0, sum_b + w2 * b0
                sum_r, sum_g, sum_b = sum_r + w3 * r1, sum_g + w3 * g1, sum_b + w3 * b1
                kept += w2 + w3
            r, g, bl = r + weight * sum_r, g + weight * sum_g, bl + weight * sum_b
            inside += weight * kept
            t_y += step_y
        t_x += T * step_x
    scale = _inverse(total_x * total_y)
    outside = tl.where(has_source, 1.0 - inside * scale, 1.0)
    scale = tl.where(has_source, scale * (1.0 / 255), 0.0)
    r = r * scale + outside * _get(row, _BORDER)
    g = g * scale + outside * _get(row, _BORDER + 1)
    bl = bl * scale + outside * _get(row, _BORDER + 2)
    return _clamp(r), _clamp(g), _clamp(bl)


@triton.jit
def _column(base, position, t, width, edge, FILTER: tl.constexpr):
    """A column's address, its weight (0 where a border colour takes its place), and its weight all the same."""
    weight = _weight(t, FILTER)
    placed, inside = _place(position, width, edge)
    return base + placed * 3, tl.where(inside, weight, 0.0), weight


@triton.jit
def _nearest_inside(row, u, v):
    at = _base(row) + (tl.floor(v).to(tl.int32) * tl.load(row + _WIDTH) + tl.floor(u).to(tl.int32)) * 3
    r, g, bl = _load_rgb(at, u == u)
    return r * (1.0 / 255), g * (1.0 / 255), bl * (1.0 / 255)


@triton.jit
def _read_nearest(row, x, y, mask):
    u, v, has_source = _locate(row, x, y)
    edge, width = tl.load(row + _EDGE), tl.load(row + _WIDTH)
    column, in_x = _place(tl.floor(u).to(tl.int32), width, edge)
    line, in_y = _place(tl.floor(v).to(tl.int32), tl.load(row + _HEIGHT), edge)
    inside = has_source & in_x & in_y
    r, g, bl = _load_rgb(_base(row) + (line * width + column) * 3, mask & inside)
    r = tl.where(inside, r * (1.0 / 255), _get(row, _BORDER))
    g = tl.where(inside, g * (1.0 / 255), _get(row, _BORDER + 1))
    bl = tl.where(inside, bl * (1.0 / 255), _get(row, _BORDER + 2))
    return _clamp(r), _clamp(g), _clamp(bl)


@triton.jit
def _load_rgb(address, mask):
    at = address.to(tl.pointer_type(tl.uint8))
    r = tl.load(at, mask=mask, other=0).to(tl.float32)
    g = tl.load(at + 1, mask=mask, other=0).to(tl.float32)
    return r, g, tl.load(at + 2, mask=mask, other=0).to(tl.float32)


@triton.jit
def _inverse(x):
    """1 / x, of a positive number; a division looks after denormal ones, too."""
    root = tl.rsqrt(x)
    return root * root


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
    inside = tl.where(edge == _CONSTANT, (position >= 0) & (position < size), position == position)
    if edge == _REFLECT:
        # The quotient may be off by one where the remainder is 0: -1 and 2 size, which the clamp sets right.
        turns = tl.floor(position.to(tl.float32) * (0.5 / size.to(tl.float32))).to(tl.int32)
        position -= turns * (2 * size)
        position = tl.minimum(position, 2 * size - 1 - position)
    return tl.minimum(tl.maximum(position, 0), size - 1), inside


@triton.jit
def _constants(op, arg, mean):
    """The two numbers of a step that `_color` takes, of its argument and of the mean luma that CONTRAST keeps."""
    more = tl.where(op == _CONTRAST, mean * (1.0 - arg), 1.0 - arg)
    turns = 6.0 * (arg - tl.floor(arg))
    return tl.where(op == _HUE, turns, arg), more


@triton.jit
def _color(r, g, bl, op, arg, more):
    """One step of the colour program; its numbers are those of `_constants`. A branch clamps what can leave [0, 1]."""
    if op == _BRIGHTNESS:
        r, g, bl = _clamp(r * arg), _clamp(g * arg), _clamp(bl * arg)
    elif op == _CONTRAST:
        r, g, bl = _clamp(r * arg + more), _clamp(g * arg + more), _clamp(bl * arg + more)
    elif op == _SATURATION:
        luma = _luma(r, g, bl) * more
        r, g, bl = _clamp(r * arg + luma), _clamp(g * arg + luma), _clamp(bl * arg + luma)
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
        r, g, bl = _clamp(_power(r, arg)), _clamp(_power(g, arg)), _clamp(_power(bl, arg))
    return r, g, bl


@triton.jit
def _turn_hue(r, g, bl, turns):
    """Hue further by `turns` sixths of a circle, 0 to 6."""
    value = tl.maximum(tl.maximum(r, g), bl)
    least = tl.minimum(tl.minimum(r, g), bl)
    chroma = value - least
    inverse = _inverse(tl.maximum(chroma, 1e-20))  # of a gray pixel times 0
    hue = tl.where(g == value, (bl - r) * inverse + 2.0, (r - g) * inverse + 4.0)
    hue = tl.where(r == value, (g - bl) * inverse, hue) + turns
    hue -= 6.0 * (hue * (1.0 / 6.0) - 0.5 + _MAGIC - _MAGIC)  # from 0 to 6
    red, green, blue = tl.abs(hue - 3.0) - 1.0, 2.0 - tl.abs(hue - 2.0), 2.0 - tl.abs(hue - 4.0)
    return least + chroma * _clamp(red), least + chroma * _clamp(green), least + chroma * _clamp(blue)


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
def _noise(start, place):
    return (_mix_bits(start ^ place) >> 8).to(tl.float32) * (1.0 / (1 << 24))


@triton.jit
def _mix_bits(h):
    h = (h ^ (h >> 16)) * 0x7FEB352D
    h = (h ^ (h >> 15)) * 0x846CA68B
    return h ^ (h >> 16)
