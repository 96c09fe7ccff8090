"""Extras on CUDA, in Triton: all images that drew something change together, a fixed number of launches a slot.

Why this way: a step's launches must not depend on what was drawn, and nothing may wait for the GPU. So what differs
between images is in a table (`extras.Jobs`), a program reads its own row of it, and a launch is a *stage* that several
operations share. A slot, the n-th operation of every image, has at most `extras.STAGES` of them, less where no image
drew what they serve, which the host knows:

    count, table    how often each level occurs in the tiles of an image, and what becomes of each level (CLAHE,
                    equalise), or the extremes (auto-contrast)
    shifts          white noise, hashed from the pixel's place (elastic)
    across, down    a Gaussian along rows, then along columns (blur, and elastic's noise)
    change          all else that makes a value from others; ends elastic, CLAHE, equalise and auto-contrast
    chroma, blocks  JPEG: the chroma planes at half the size, coded; then luma coded, and all put together

An image is its rows of interleaved values, float32: what treats channels alike sees one long row, and neighbours are
read in whole lines. `engine.loader.neighbourhood` has the same in plain torch, by Kornia, and is the definition; the
tests say how close. Works under TRITON_INTERPRET=1 on the CPU, slowly, for tests.
"""

# mypy: disable-error-code="no-untyped-def"
# Functions under @triton.jit are not Python: their arguments are typed by Triton when compiled.

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .extras import LEVELS, Extra, Jobs, Span, clahe_grid

_TILE_V, _TILE_Y = 128, 8  # values and rows: runs of four lines, edges in few programs; 8 values a thread with 4 warps
_CHUNK = 1024  # pixels that are counted at once
_LAUNCH = {"num_stages": 1, "enable_fp_fusion": True}

_BLUR = tl.constexpr(int(Extra.BLUR))
_MOTION = tl.constexpr(int(Extra.MOTION))
_NOISE = tl.constexpr(int(Extra.NOISE))
_CLAHE = tl.constexpr(int(Extra.CLAHE))
_EQUALIZE = tl.constexpr(int(Extra.EQUALIZE))
_ELASTIC = tl.constexpr(int(Extra.ELASTIC))
_SHARPNESS = tl.constexpr(int(Extra.SHARPNESS))
_AUTO_CONTRAST = tl.constexpr(int(Extra.AUTO_CONTRAST))
_LEVELS = tl.constexpr(LEVELS)
_COLUMNS = tl.constexpr(8)  # of the table of jobs
_NUMBERS = tl.constexpr(4)
_HALF_EVEN = tl.constexpr(1.5 * 2**23)  # added and taken away, it rounds a float32 to the nearest, halves to even
_ROOT_2 = tl.constexpr(math.sqrt(2))
# Chroma at half the size: a Gaussian of deviation 1/2 over three pixels, then the mean of two.
_TAIL = math.exp(-2) / (1 + 2 * math.exp(-2))
_OUTER = tl.constexpr(_TAIL / 2)  # of the four pixels the first and the last
_INNER = tl.constexpr((1 - _TAIL) / 2)


def triton_extras(jobs: Jobs, tables: Sequence[Tensor], places: Tensor, pixels_NHW3: Tensor) -> Tensor:
    """Run `jobs`, whose `tensors` are `tables` on the device, on the current CUDA stream.

    `places` (float32, `jobs.places` images of height x width x 3) holds the incoming images in the first of them, and
    is written over. The results, 8 bits, go to `pixels_NHW3`, which is returned. Beyond these it needs 200 KiB for each
    of `jobs.tables`.
    """
    job_J8, number_J4, seed_J, tap_T4, quant_Q128 = tables
    rows, columns = clahe_grid(jobs.height, jobs.width)
    counts = torch.empty(jobs.tables * 3 * rows * columns * LEVELS, dtype=torch.int32, device=places.device)
    levels = counts.view(torch.float32)
    size = (jobs.height, jobs.width)
    values = triton.cdiv(3 * jobs.width, _TILE_V) * triton.cdiv(jobs.height, _TILE_Y)
    blocks = triton.cdiv(jobs.width, 16) * triton.cdiv(jobs.height, 16)
    chroma = triton.cdiv(triton.cdiv(jobs.width, 16), 2) * triton.cdiv(triton.cdiv(jobs.height, 16), 2)
    tile = {"TILE_V": _TILE_V, "TILE_Y": _TILE_Y, "num_warps": 4, **_LAUNCH}
    one_warp = {"num_warps": 1, **_LAUNCH}
    ends = (places, pixels_NHW3, job_J8)

    with torch.cuda.device_of(places):
        for slot in jobs.slots:
            for span in _some(slot.looked_at):
                looked = (counts, levels, job_J8, number_J4, span.first, *size, rows, columns)
                _count_kernel[(rows * columns, 3, span.count)](places, *looked, CHUNK=_CHUNK, num_warps=4, **_LAUNCH)
                _table_kernel[(rows * columns, 3, span.count)](*looked, **one_warp)
            for span in _some(slot.elastic):
                _shift_kernel[(values, span.count)](places, job_J8, number_J4, seed_J, span.first, *size, **tile)
            for span in _some(slot.smoothed):
                _smooth_kernel[(values, span.count)](*ends, number_J4, span.first, *size, DOWN=False, **tile)
                _smooth_kernel[(values, span.count)](*ends, number_J4, span.first, *size, DOWN=True, **tile)
            for span in _some(slot.changed):
                others = (number_J4, seed_J, tap_T4, levels, span.first, *size, rows, columns)
                _change_kernel[(values, span.count)](*ends, *others, **tile)
            for span in _some(slot.jpeg):
                _chroma_kernel[(chroma, span.count)](places, job_J8, quant_Q128, span.first, *size, **one_warp)
                _block_kernel[(blocks, span.count)](*ends, quant_Q128, span.first, *size, **one_warp)
    return pixels_NHW3


def _some(span: Span) -> tuple[Span, ...]:
    return (span,) if span.count else ()


# --- what stages share ------------------------------------------------------------------------------------------------


@triton.jit
def _values(height, width, TILE_V: tl.constexpr, TILE_Y: tl.constexpr):
    """This program's values: their pixels' column and row, channel, place in the image, and which of them exist. The
    others are the last ones once more, so that nothing needs a mask but what is stored."""
    tiles = tl.cdiv(3 * width, TILE_V)
    lane = tl.arange(0, TILE_V * TILE_Y)
    value = (tl.program_id(0) % tiles) * TILE_V + lane % TILE_V
    y = (tl.program_id(0) // tiles) * TILE_Y + lane // TILE_V
    mask = (value < 3 * width) & (y < height)
    value, y = tl.minimum(value, 3 * width - 1), tl.minimum(y, height - 1)
    x = value // 3
    return x, y, value - 3 * x, y * (3 * width) + value, mask


@triton.jit
def _inner(reach_x, reach_y, height, width, TILE_V: tl.constexpr, TILE_Y: tl.constexpr):
    """Whether the image goes on for so many pixels on all sides of this program's."""
    tiles = tl.cdiv(3 * width, TILE_V)
    value, row = (tl.program_id(0) % tiles) * TILE_V, (tl.program_id(0) // tiles) * TILE_Y
    last_x, last_y = tl.minimum((value + TILE_V - 1) // 3, width - 1), tl.minimum(row + TILE_Y - 1, height - 1)
    wide = (value // 3 >= reach_x) & (last_x + reach_x < width)
    return wide & (row >= reach_y) & (last_y + reach_y < height)


@triton.jit
def _place(places, number, height, width):
    """Where an image begins."""
    return places + number.to(tl.int64) * (height * width * 3)


@triton.jit
def _put(places, pixels, job, at, value, mask, height, width):
    """A job's result: 8 bits where it is the image's last."""
    value = tl.minimum(tl.maximum(value, 0.0), 1.0)
    if tl.load(job + 5) != 0:
        rounded = (value * 255.0 + 0.5).to(tl.int32).to(tl.uint8)
        tl.store(_place(pixels, tl.load(job), height, width) + at, rounded, mask=mask)
    else:
        tl.store(_place(places, tl.load(job + 3), height, width) + at, value, mask=mask)


@triton.jit
def _mirrored(position, size):
    """About the edge pixel's centre (dcb|abcd|cba), once."""
    position = tl.abs(position)
    return tl.maximum(tl.where(position >= size, 2 * (size - 1) - position, position), 0)


@triton.jit
def _half_even(x):
    return (x + _HALF_EVEN) - _HALF_EVEN


@triton.jit
def _normal(seed, place):
    """Standard normal numbers, hashed from a seed and a value's place in the image."""
    bits = _mix_bits(_mix_bits(seed.to(tl.uint32, bitcast=True)) ^ place.to(tl.uint32))
    uniform = (bits >> 8).to(tl.float32) * (1.0 / (1 << 24))
    bound = 1.0 - 1.0 / (1 << 23)
    return _ROOT_2 * _erfinv(tl.minimum(tl.maximum(2.0 * uniform - 1.0, -bound), bound))


@triton.jit
def _mix_bits(h):
    h = (h ^ (h >> 16)) * 0x7FEB352D
    h = (h ^ (h >> 15)) * 0x846CA68B
    return h ^ (h >> 16)


@triton.jit
def _erfinv(x):
    """Giles 2010, "Approximating the erfinv function", single precision."""
    w = -tl.log((1.0 - x) * (1.0 + x))
    near = w - 2.5
    p = 2.81022636e-08 * near + 3.43273939e-07
    p = p * near - 3.5233877e-06
    p = p * near - 4.39150654e-06
    p = p * near + 0.00021858087
    p = p * near - 0.00125372503
    p = p * near - 0.00417768164
    p = p * near + 0.246640727
    p = p * near + 1.50140941
    far = tl.sqrt(tl.maximum(w, 5.0)) - 3.0
    q = -0.000200214257 * far + 0.000100950558
    q = q * far + 0.00134934322
    q = q * far - 0.00367342844
    q = q * far + 0.00573950773
    q = q * far - 0.0076224613
    q = q * far + 0.00943887047
    q = q * far + 1.00167406
    q = q * far + 2.83297682
    return x * tl.where(w < 5.0, p, q)


# --- levels -----------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["first", "height", "width", "rows", "columns"])
def _count_kernel(places, counts, levels, jobs, numbers, first, height, width, rows, columns, CHUNK: tl.constexpr):
    """One channel of one tile of one image: how often each level occurs, or, for auto-contrast, the extremes."""
    job = jobs + (first + tl.program_id(2)) * _COLUMNS
    op = tl.load(job + 1)
    part, channel = tl.program_id(0), tl.program_id(1)
    tile_h, tile_w = tl.cdiv(height, rows), tl.cdiv(width, columns)
    top, left = (part // columns) * tile_h, (part % columns) * tile_w
    here = _place(places, tl.load(job + 2), height, width) + channel
    count = tl.zeros((_LEVELS,), tl.int32)
    level = tl.arange(0, _LEVELS)
    low = tl.full((), float("inf"), tl.float32)
    high = -low
    for start in range(0, tile_h * tile_w, CHUNK):
        pixel = start + tl.arange(0, CHUNK)
        y, x = top + pixel // tile_w, left + pixel % tile_w
        mask = pixel < tile_h * tile_w
        if op != _CLAHE:  # its tiles are filled up by mirroring; a whole image is counted as it is
            mask = mask & (y < height) & (x < width)
        at = (_mirrored(y, height) * width + _mirrored(x, width)) * 3
        value = tl.load(here + at, mask=mask, other=0.0)
        if op == _AUTO_CONTRAST:
            low = tl.minimum(low, tl.min(tl.where(mask, value, float("inf")), 0))
            high = tl.maximum(high, tl.max(tl.where(mask, value, -float("inf")), 0))
        else:
            missing = tl.sum((1 - mask.to(tl.int32)), 0)  # counted as black
            found = tl.histogram((value * 255.0).to(tl.int32), _LEVELS)
            count += found - tl.where(level == 0, missing, 0)
    row = ((tl.load(job + 7) * 3 + channel) * (rows * columns) + part) * _LEVELS
    if op == _AUTO_CONTRAST:
        tl.store(levels + row, low)
        tl.store(levels + row + 1, high)
    else:
        tl.store(counts + row + level, count)


@triton.jit(do_not_specialize=["first", "height", "width", "rows", "columns"])
def _table_kernel(counts, levels, jobs, numbers, first, height, width, rows, columns):
    """What becomes of each level of one channel, 0..255, in place of the counts: in one tile for CLAHE, else, in place
    of the first tile's, in the whole image; for auto-contrast the extremes of all."""
    job = jobs + (first + tl.program_id(2)) * _COLUMNS
    op = tl.load(job + 1)
    part, channel = tl.program_id(0), tl.program_id(1)
    level = tl.arange(0, _LEVELS)
    begin = (tl.load(job + 7) * 3 + channel) * (rows * columns) * _LEVELS
    if op == _CLAHE:
        row = begin + part * _LEVELS + level
        pixels = tl.cdiv(height, rows) * tl.cdiv(width, columns)
        limit = tl.load(numbers + (first + tl.program_id(2)) * _NUMBERS).to(tl.int32)
        count = tl.load(counts + row)
        if limit > 0:
            count = tl.minimum(count, limit)
            spare = pixels - tl.sum(count, 0)
            left = spare % _LEVELS  # what cannot be shared out to all is spread over some of them
            step = tl.maximum(_LEVELS // tl.maximum(left, 1), 1)
            extra = ((level % step) == 0) & (level // step < left)
            count += (spare - left) // _LEVELS + extra.to(tl.int32)
        mapped = tl.cumsum(count, 0).to(tl.float32) * (255.0 / pixels.to(tl.float32))
        tl.store(levels + row, _half_even(tl.minimum(tl.maximum(mapped, 0.0), 255.0)))
    elif part == 0:
        if op == _EQUALIZE:
            count = tl.zeros((_LEVELS,), tl.int32)
            for other in range(rows * columns):
                count += tl.load(counts + begin + other * _LEVELS + level)
            last = tl.max(tl.where(count > 0, level, 0), 0)
            step = (height * width - tl.sum(tl.where(level == last, count, 0), 0)) // 255
            below = tl.cumsum(count, 0) - count
            mapped = tl.minimum((below + step // 2) // tl.maximum(step, 1), 255).to(tl.float32)
            tl.store(levels + begin + level, tl.where(step > 0, mapped, -1.0))  # -1: stays as it is
        else:
            low = tl.full((), float("inf"), tl.float32)
            high = -low
            for other in range(rows * columns):
                low = tl.minimum(low, tl.load(levels + begin + other * _LEVELS))
                high = tl.maximum(high, tl.load(levels + begin + other * _LEVELS + 1))
            tl.store(levels + begin, low)
            tl.store(levels + begin + 1, high)


# --- neighbours -------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["first", "height", "width"])
def _shift_kernel(places, jobs, numbers, seeds, first, height, width, TILE_V: tl.constexpr, TILE_Y: tl.constexpr):
    """Elastic: white noise for the shifts along x and y, in the first two channels of the scratch image."""
    j = first + tl.program_id(1)
    _, _, channel, at, mask = _values(height, width, TILE_V, TILE_Y)
    shift = _normal(tl.load(seeds + j), at) * tl.load(numbers + j * _NUMBERS)
    there = _place(places, tl.load(jobs + j * _COLUMNS + 4), height, width)
    tl.store(there + at, shift, mask=mask & (channel < 2))


@triton.jit(do_not_specialize=["first", "height", "width"])
def _smooth_kernel(
    places,
    pixels,
    jobs,
    numbers,
    first,
    height,
    width,
    DOWN: tl.constexpr,
    TILE_V: tl.constexpr,
    TILE_Y: tl.constexpr,
):
    """A Gaussian along one axis, mirrored at the edges for a blur, with nothing beyond them for elastic shifts.

    Blurs go from the source by the scratch image to the result, shifts from the scratch image by the spare one back."""
    j = first + tl.program_id(1)
    job = jobs + j * _COLUMNS
    x, y, channel, at, mask = _values(height, width, TILE_V, TILE_Y)
    blurs = tl.load(job + 1) == _BLUR
    scratch, spare = tl.load(job + 4), tl.load(job + 3)
    if DOWN:
        begin = tl.where(blurs, scratch, spare)
        position, size, stride = y, height, 3 * width
    else:
        begin = tl.where(blurs, tl.load(job + 2), scratch)
        position, size, stride = x, width, 3
    here = _place(places, begin, height, width)
    radius = tl.load(job + 6)
    inverse = tl.load(numbers + j * _NUMBERS + 1)
    sum = tl.zeros(x.shape, tl.float32)
    total = tl.full((), 0.0, tl.float32)
    if _inner(0 if DOWN else radius, radius if DOWN else 0, height, width, TILE_V, TILE_Y):
        shifted = here - radius * stride
        for step in range(2 * radius + 1):
            weight = _gauss(step - radius, inverse)
            sum += weight * tl.load(shifted + at)
            total += weight
            shifted += stride
    else:
        lowest, end = tl.where(blurs, -size, 0), tl.where(blurs, 2 * size, size)  # which neighbours are read
        for step in range(2 * radius + 1):
            weight = _gauss(step - radius, inverse)
            neighbour = position + step - radius
            exists = (neighbour >= lowest) & (neighbour < end)
            neighbour = tl.where(blurs, _mirrored(neighbour, size), neighbour)
            sum += weight * tl.load(here + at + (neighbour - position) * stride, mask=exists, other=0.0)
            total += weight
    smooth = sum / total
    wanted = mask & (channel < tl.where(blurs, 3, 2))  # shifts have two
    if DOWN:
        if blurs:
            _put(places, pixels, job, at, smooth, mask, height, width)
        else:
            tl.store(_place(places, scratch, height, width) + at, smooth, mask=wanted)
    else:
        there = _place(places, tl.where(blurs, scratch, spare), height, width)
        tl.store(there + at, smooth, mask=wanted)


@triton.jit
def _gauss(distance, inverse):
    distance = distance.to(tl.float32)
    return tl.exp(-(distance * distance) * inverse)


@triton.jit(do_not_specialize=["first", "height", "width", "rows", "columns"])
def _change_kernel(
    places,
    pixels,
    jobs,
    numbers,
    seeds,
    taps,
    levels,
    first,
    height,
    width,
    rows,
    columns,
    TILE_V: tl.constexpr,
    TILE_Y: tl.constexpr,
):
    """Some values of one image after one operation."""
    j = first + tl.program_id(1)
    job = jobs + j * _COLUMNS
    x, y, channel, at, mask = _values(height, width, TILE_V, TILE_Y)
    op = tl.load(job + 1)
    arg = tl.load(numbers + j * _NUMBERS)
    here = _place(places, tl.load(job + 2), height, width)
    value = tl.load(here + at)
    table = levels + (tl.load(job + 7) * 3 + channel) * (rows * columns * _LEVELS)
    if op == _MOTION:
        far = tl.load(numbers + j * _NUMBERS + 1).to(tl.int32)
        line = taps + tl.load(job + 7) * 4
        inner = _inner(far, far, height, width, TILE_V, TILE_Y)
        value = _moved(here, x, y, channel, at, line, tl.load(job + 6), inner, height, width)
    elif op == _NOISE:
        value += arg * _normal(tl.load(seeds + j), at)
    elif op == _SHARPNESS:
        value = _sharpened(here, x, y, at, value, arg, height, width)
    elif op == _EQUALIZE:
        mapped = tl.load(table + (value * 255.0).to(tl.int32))
        value = tl.where(mapped < 0, value, mapped / 255.0)
    elif op == _AUTO_CONTRAST:
        low, high = tl.load(table), tl.load(table + 1)
        value = tl.where(high == low, value, (value - low) / (high - low + 1e-6))
    elif op == _CLAHE:
        value = _equalized(table, x, y, value, height, width, rows, columns)
    elif op == _ELASTIC:
        scratch = _place(places, tl.load(job + 4), height, width) + (y * width + x) * 3
        u = x + tl.load(scratch) * (width * 0.5)
        v = y + tl.load(scratch + 1) * (height * 0.5)
        value = _read(here + channel, u, v, height, width)
    _put(places, pixels, job, at, value, mask, height, width)


@triton.jit
def _moved(here, x, y, channel, at, line, count, inner, height, width):
    """The weighted mean of the pixels along a line: `count` times how far right and down, and the weight."""
    sum = tl.zeros(x.shape, tl.float32)
    if inner:
        for _ in range(count):
            step = tl.load(line + 1).to(tl.int32) * width + tl.load(line).to(tl.int32)
            sum += tl.load(line + 2) * tl.load(here + at + step * 3)
            line += 4
    else:
        for _ in range(count):
            column = tl.minimum(tl.maximum(x + tl.load(line).to(tl.int32), 0), width - 1)
            row = tl.minimum(tl.maximum(y + tl.load(line + 1).to(tl.int32), 0), height - 1)
            neighbour = here + (row * width + column) * 3 + channel
            sum += tl.load(line + 2) * tl.load(neighbour)
            line += 4
    return sum


@triton.jit
def _sharpened(here, x, y, at, value, factor, height, width):
    """PIL's: away from, or towards, a mean over 3 x 3 pixels in which the middle counts five times; not at edges."""
    inner = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)
    sum = 4.0 * value
    for row in tl.static_range(3):
        for column in tl.static_range(3):
            sum += tl.load(here + at + ((row - 1) * width + column - 1) * 3, mask=inner, other=0.0)
    soft = tl.where(inner, tl.minimum(tl.maximum(sum / 13.0, 0.0), 1.0), value)
    return soft + (value - soft) * factor


@triton.jit
def _equalized(table, x, y, value, height, width, rows, columns):
    """CLAHE: what the four nearest tiles make of a level, by their distance."""
    row, next_row, share_y = _tiles_about(y, tl.cdiv(height, rows), rows)
    column, next_column, share_x = _tiles_about(x, tl.cdiv(width, columns), columns)
    level = table + (value * 255.0).to(tl.int32)
    top = _between(level, row * columns + column, row * columns + next_column, share_x)
    bottom = _between(level, next_row * columns + column, next_row * columns + next_column, share_x)
    return (top + (bottom - top) * share_y) / 255.0


@triton.jit
def _tiles_about(position, side, tiles):
    """Of tiles with `side` pixels the two whose centres a position lies between, and how far it is to the second."""
    where = (position - (side - 1) * 0.5) / side.to(tl.float32)
    before = tl.floor(where)
    share = tl.where((where < 0) | (where > tiles - 1), 0.0, where - before)
    one = before.to(tl.int32)
    other = tl.minimum(tl.maximum(one + 1, 0), tiles - 1)
    return tl.minimum(tl.maximum(one, 0), tiles - 1), other, share


@triton.jit
def _between(level, one, other, share):
    left = tl.load(level + one * _LEVELS)
    right = tl.load(level + other * _LEVELS)
    return right + (left - right) * (1.0 - share)


@triton.jit
def _read(here, u, v, height, width):
    """Between pixels, whose centres have whole numbers here; mirrored about the image's outer edge."""
    u, v = _folded(u, width), _folded(v, height)
    left, top = tl.floor(u).to(tl.int32), tl.floor(v).to(tl.int32)
    share_x, share_y = u - left, v - top
    right, bottom = tl.minimum(left + 1, width - 1), tl.minimum(top + 1, height - 1)
    upper = tl.load(here + (top * width + left) * 3) * (1.0 - share_x)
    upper += tl.load(here + (top * width + right) * 3) * share_x
    lower = tl.load(here + (bottom * width + left) * 3) * (1.0 - share_x)
    lower += tl.load(here + (bottom * width + right) * 3) * share_x
    return upper * (1.0 - share_y) + lower * share_y


@triton.jit
def _folded(position, size):
    """Mirrored about -1/2 and size - 1/2 as often as it takes, then at most at the edge pixels' centres."""
    distance = tl.abs(position + 0.5)
    turns = tl.floor(distance / size.to(tl.float32))
    rest = distance - turns * size
    odd = turns - 2.0 * tl.floor(turns * 0.5) > 0.5
    position = tl.where(odd, size - rest, rest) - 0.5
    return tl.minimum(tl.maximum(position, 0.0), size - 1.0)


# --- JPEG -------------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["first", "height", "width"])
def _chroma_kernel(places, jobs, quant, first, height, width):
    """16 x 16 values of both chroma planes at half the size, coded and decoded, into the scratch image."""
    job = jobs + (first + tl.program_id(1)) * _COLUMNS
    here = _place(places, tl.load(job + 2), height, width)
    padded_h, padded_w = tl.cdiv(height, 16) * 16, tl.cdiv(width, 16) * 16
    tiles = tl.cdiv(padded_w, 32)
    i = (tl.program_id(0) // tiles) * 16 + tl.arange(0, 16)[:, None]
    j = (tl.program_id(0) % tiles) * 16 + tl.arange(0, 16)[None, :]
    red = tl.zeros((16, 16), tl.float32)
    green = tl.zeros((16, 16), tl.float32)
    blue = tl.zeros((16, 16), tl.float32)
    for below in tl.static_range(4):
        row = tl.minimum(_mirrored(2 * i - 1 + below, padded_h), height - 1)
        for beside in tl.static_range(4):
            column = tl.minimum(_mirrored(2 * j - 1 + beside, padded_w), width - 1)
            weight = (_OUTER if below % 3 == 0 else _INNER) * (_OUTER if beside % 3 == 0 else _INNER)
            at = here + (row * width + column) * 3
            red += weight * tl.load(at)
            green += weight * tl.load(at + 1)
            blue += weight * tl.load(at + 2)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    half_h, half_w = padded_h // 2, padded_w // 2
    there = _place(places, tl.load(job + 4), height, width) + i * half_w + j
    mask = (i < half_h) & (j < half_w)
    divisors = quant + tl.load(job + 7) * 128 + 64
    blue = _coded(((blue - luma) * 0.564 + 0.5) * 255.0, quant, divisors)
    tl.store(there, blue, mask=mask)
    red = _coded(((red - luma) * 0.713 + 0.5) * 255.0, quant, divisors)
    tl.store(there + half_h * half_w, red, mask=mask)


@triton.jit(do_not_specialize=["first", "height", "width"])
def _block_kernel(places, pixels, jobs, quant, first, height, width):
    """16 x 16 pixels: their luma coded and decoded, the chroma brought to them, and RGB again."""
    job = jobs + (first + tl.program_id(1)) * _COLUMNS
    here = _place(places, tl.load(job + 2), height, width)
    tiles = tl.cdiv(width, 16)
    y = (tl.program_id(0) // tiles) * 16 + tl.arange(0, 16)[:, None]
    x = (tl.program_id(0) % tiles) * 16 + tl.arange(0, 16)[None, :]
    source = here + (tl.minimum(y, height - 1) * width + tl.minimum(x, width - 1)) * 3
    luma = 0.299 * tl.load(source) + 0.587 * tl.load(source + 1) + 0.114 * tl.load(source + 2)
    luma = _coded(luma * 255.0, quant, quant + tl.load(job + 7) * 128) * (1.0 / 255)
    half_h, half_w = tl.cdiv(height, 16) * 8, tl.cdiv(width, 16) * 8
    chroma = _place(places, tl.load(job + 4), height, width)
    cb = _doubled(chroma, y, x, half_h, half_w) * (1.0 / 255) - 0.5
    cr = _doubled(chroma + half_h * half_w, y, x, half_h, half_w) * (1.0 / 255) - 0.5
    at = (y * width + x) * 3
    mask = (y < height) & (x < width)
    _put(places, pixels, job, at, luma + 1.4025245442 * cr, mask, height, width)
    _put(places, pixels, job, at + 1, luma - 0.7144034731 * cr - 0.3443401356 * cb, mask, height, width)
    _put(places, pixels, job, at + 2, luma + 1.7730496454 * cb, mask, height, width)


@triton.jit
def _coded(x, basis, divisors):
    """Four blocks of 8 x 8 values 0..255 transformed, divided, rounded (softly, as Kornia does), and back."""
    i = tl.arange(0, 16)[:, None]
    j = tl.arange(0, 16)[None, :]
    same = i // 8 == j // 8
    forward = tl.load(basis + (i % 8) * 8 + j % 8, mask=same, other=0.0)
    back = tl.load(basis + (j % 8) * 8 + i % 8, mask=same, other=0.0)
    divisor = tl.load(divisors + (i % 8) * 8 + j % 8)
    x = tl.dot(tl.dot(forward, x - 128.0, input_precision="ieee"), back, input_precision="ieee")
    x = x / divisor
    whole = _half_even(x)
    rest = x - whole
    x = (whole + rest * rest * rest) * divisor
    return tl.dot(tl.dot(back, x, input_precision="ieee"), forward, input_precision="ieee") + 128.0


@triton.jit
def _doubled(plane, y, x, height, width):
    """A plane read at twice its size, between its values."""
    v, u = tl.maximum(y * 0.5 - 0.25, 0.0), tl.maximum(x * 0.5 - 0.25, 0.0)
    top, left = tl.floor(v).to(tl.int32), tl.floor(u).to(tl.int32)
    share_y, share_x = v - top, u - left
    top, left = tl.minimum(top, height - 1), tl.minimum(left, width - 1)
    bottom, right = tl.minimum(top + 1, height - 1), tl.minimum(left + 1, width - 1)
    upper = tl.load(plane + top * width + left) * (1.0 - share_x) + tl.load(plane + top * width + right) * share_x
    lower = tl.load(plane + bottom * width + left) * (1.0 - share_x)
    lower += tl.load(plane + bottom * width + right) * share_x
    return upper * (1.0 - share_y) + lower * share_y
