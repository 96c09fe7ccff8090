"""A depthwise 7 x 7 convolution on channels-last maps, forward and backward, in Triton.

Why this way: cuDNN's convolutions are made for dense products, and its depthwise ones leave channels-last maps in the
slow lane. Here channels lie across the threads, so every read is a run of neighbours in memory, and nothing is summed
across threads on the way forward. A program walks down a strip of an image with the 49 weights and seven rows of the
output in registers: each row of the image is read once for each of the seven columns of the kernel and goes into all
of the rows that it touches, 7 reads an output where tap by tap would be 49. The same kernel with the weights turned
around makes the image's gradient. The weights' gradient walks the same way, with seven rows of the output's gradient
and the 49 sums in registers; programs leave partial sums that torch adds up, in an order that is always the same.

Sums are float32 whatever the maps are. Answers to `network.depthwise_reference`. Works under TRITON_INTERPRET=1 on the
CPU, slowly, for tests.
"""

# mypy: disable-error-code="no-untyped-def"
# Functions under @triton.jit are not Python: their arguments are typed by Triton when compiled.

import torch
import triton
import triton.language as tl
from torch import Tensor

SIZE = 7  # of the kernel, in pixels each way
_TILE_X, _TILE_C = 8, 32  # 49 weights, or sums, for each of a thread's channels leave no room for more
_PROGRAMS = 2048  # that divide the strips among them: several rounds for each multiprocessor, and few partial sums
_LAUNCH = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}


@triton.jit
def _weights(weight, channels, known, J: tl.constexpr):
    """A column of the kernel, by rows from the last: the order in which rows of the output meet them."""
    return (
        tl.load(weight + (42 + J) * channels, mask=known, other=0.0),
        tl.load(weight + (35 + J) * channels, mask=known, other=0.0),
        tl.load(weight + (28 + J) * channels, mask=known, other=0.0),
        tl.load(weight + (21 + J) * channels, mask=known, other=0.0),
        tl.load(weight + (14 + J) * channels, mask=known, other=0.0),
        tl.load(weight + (7 + J) * channels, mask=known, other=0.0),
        tl.load(weight + J * channels, mask=known, other=0.0),
    )


@triton.jit
def _spread(sums, weights, pixel):
    """Seven rows of the output, with what a row of the image adds to them through a column of the kernel."""
    return (
        sums[0] + weights[0] * pixel,
        sums[1] + weights[1] * pixel,
        sums[2] + weights[2] * pixel,
        sums[3] + weights[3] * pixel,
        sums[4] + weights[4] * pixel,
        sums[5] + weights[5] * pixel,
        sums[6] + weights[6] * pixel,
    )


@triton.jit
def _store(out, values, x, y, height, width, row, known):
    """Row y of a strip, where there is one."""
    inside = (x < tl.where((y >= 0) & (y < height), width, 0)) & known
    tl.store(out + y * row, values.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _image_row(pixels, x, width, known, channels, J: tl.constexpr):
    """A row of the image as column J of the kernel sees it."""
    from_x = x + J - 3
    inside = (from_x >= 0) & (from_x < width) & known
    return tl.load(pixels + (J - 3) * channels, mask=inside, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["height", "width", "tiles_x", "strips", "programs"])
def _depthwise_kernel(
    images,
    weight,
    bias,
    out,
    height,
    width,
    tiles_x,
    strips,
    programs,
    channels,
    TILE_X: tl.constexpr,
    TILE_C: tl.constexpr,
):
    """Strips of the images, one of so many apart: `weight` (49, C), `bias` (C) or None."""
    c = tl.program_id(0) * TILE_C + tl.arange(0, TILE_C)[None, :]
    known = c < channels
    row = width * channels
    fresh = tl.zeros((TILE_X, TILE_C), tl.float32)
    if bias is not None:
        fresh += tl.load(bias + c, mask=known, other=0.0).to(tl.float32)
    weights0 = _weights(weight + c, channels, known, 0)
    weights1 = _weights(weight + c, channels, known, 1)
    weights2 = _weights(weight + c, channels, known, 2)
    weights3 = _weights(weight + c, channels, known, 3)
    weights4 = _weights(weight + c, channels, known, 4)
    weights5 = _weights(weight + c, channels, known, 5)
    weights6 = _weights(weight + c, channels, known, 6)
    for strip in range(tl.program_id(1), strips, programs):
        x = (strip % tiles_x) * TILE_X + tl.arange(0, TILE_X)[:, None]
        at = (strip // tiles_x).to(tl.int64) * height * row + (x * channels + c)
        sums = (fresh, fresh, fresh, fresh, fresh, fresh, fresh)  # rows y - 3 to y + 3
        for y in range(height):
            pixels = images + at + y * row
            sums = _spread(sums, weights0, _image_row(pixels, x, width, known, channels, 0))
            sums = _spread(sums, weights1, _image_row(pixels, x, width, known, channels, 1))
            sums = _spread(sums, weights2, _image_row(pixels, x, width, known, channels, 2))
            sums = _spread(sums, weights3, _image_row(pixels, x, width, known, channels, 3))
            sums = _spread(sums, weights4, _image_row(pixels, x, width, known, channels, 4))
            sums = _spread(sums, weights5, _image_row(pixels, x, width, known, channels, 5))
            sums = _spread(sums, weights6, _image_row(pixels, x, width, known, channels, 6))
            _store(out + at, sums[0], x, y - 3, height, width, row, known)
            sums = (sums[1], sums[2], sums[3], sums[4], sums[5], sums[6], fresh)
        _store(out + at, sums[0], x, height - 3, height, width, row, known)
        _store(out + at, sums[1], x, height - 2, height, width, row, known)
        _store(out + at, sums[2], x, height - 1, height, width, row, known)


@triton.jit
def _gradient_row(gradient, x, y, height, width, row, known):
    """A row of the output's gradient, zeros below the last."""
    inside = (x < tl.where(y < height, width, 0)) & known
    return tl.load(gradient + y * row, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _column(sums, rows, pixel):
    """One column of the kernel: the sums of its seven taps, with what a row of the image adds."""
    return (
        sums[0] + rows[6] * pixel,
        sums[1] + rows[5] * pixel,
        sums[2] + rows[4] * pixel,
        sums[3] + rows[3] * pixel,
        sums[4] + rows[2] * pixel,
        sums[5] + rows[1] * pixel,
        sums[6] + rows[0] * pixel,
    )


@triton.jit
def _leave(partial, sums, channels, known, J: tl.constexpr):
    """A column's sums over the tile, to where tap (i, J) of this program lies."""
    for i in tl.static_range(7):
        tl.store(partial + (i * 7 + J) * channels, tl.sum(sums[i], 0), mask=known)


@triton.jit(do_not_specialize=["height", "width", "tiles_x", "strips", "programs"])
def _weight_gradient_kernel(
    images,
    gradient,
    partial,
    height,
    width,
    tiles_x,
    strips,
    programs,
    channels,
    TILE_X: tl.constexpr,
    TILE_C: tl.constexpr,
):
    """What strips of the images, one of so many apart, add to the gradient: `partial` (programs, 50, C), float32; the
    fiftieth is the bias's."""
    c = tl.program_id(0) * TILE_C + tl.arange(0, TILE_C)[None, :]
    known = c < channels
    row = width * channels
    zero = tl.zeros((TILE_X, TILE_C), tl.float32)
    of_bias = zero
    sums0 = (zero, zero, zero, zero, zero, zero, zero)
    sums1, sums2, sums3, sums4, sums5, sums6 = sums0, sums0, sums0, sums0, sums0, sums0
    for strip in range(tl.program_id(1), strips, programs):
        x = (strip % tiles_x) * TILE_X + tl.arange(0, TILE_X)[:, None]
        at = (strip // tiles_x).to(tl.int64) * height * row + (x * channels + c)
        # Rows y - 3 to y + 3 of the output's gradient, all of which row y of the image was used for.
        next0 = _gradient_row(gradient + at, x, 0, height, width, row, known)
        next1 = _gradient_row(gradient + at, x, 1, height, width, row, known)
        next2 = _gradient_row(gradient + at, x, 2, height, width, row, known)
        of_bias += next0 + next1 + next2
        rows = (zero, zero, zero, zero, next0, next1, next2)
        for y in range(height):
            new = _gradient_row(gradient + at, x, y + 3, height, width, row, known)
            of_bias += new
            rows = (rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], new)
            pixels = images + at + y * row
            sums0 = _column(sums0, rows, _image_row(pixels, x, width, known, channels, 0))
            sums1 = _column(sums1, rows, _image_row(pixels, x, width, known, channels, 1))
            sums2 = _column(sums2, rows, _image_row(pixels, x, width, known, channels, 2))
            sums3 = _column(sums3, rows, _image_row(pixels, x, width, known, channels, 3))
            sums4 = _column(sums4, rows, _image_row(pixels, x, width, known, channels, 4))
            sums5 = _column(sums5, rows, _image_row(pixels, x, width, known, channels, 5))
            sums6 = _column(sums6, rows, _image_row(pixels, x, width, known, channels, 6))
    c = tl.program_id(0) * TILE_C + tl.arange(0, TILE_C)
    known = c < channels
    own = partial + tl.program_id(1) * 50 * channels + c
    _leave(own, sums0, channels, known, 0)
    _leave(own, sums1, channels, known, 1)
    _leave(own, sums2, channels, known, 2)
    _leave(own, sums3, channels, known, 3)
    _leave(own, sums4, channels, known, 4)
    _leave(own, sums5, channels, known, 5)
    _leave(own, sums6, channels, known, 6)
    tl.store(own + 49 * channels, tl.sum(of_bias, 0), mask=known)


def _empty(like_BCHW: Tensor, dtype: torch.dtype) -> Tensor:
    """Channels-last to the letter: what torch calls so has other strides where a map is of one pixel or channel."""
    batch, channels, height, width = like_BCHW.shape
    return torch.empty((batch, height, width, channels), device=like_BCHW.device, dtype=dtype).permute(0, 3, 1, 2)


def _strips(images_BCHW: Tensor) -> tuple[int, int, tuple[int, int]]:
    """Tiles across an image, strips in all, and the programs that walk them: for blocks of channels, and at a time."""
    batch, channels, _, width = images_BCHW.shape
    tiles_x, blocks = triton.cdiv(width, _TILE_X), triton.cdiv(channels, _TILE_C)
    return tiles_x, batch * tiles_x, (blocks, max(1, min(batch * tiles_x, _PROGRAMS // blocks)))


def _convolve(images_BCHW: Tensor, weight_C49: Tensor, bias_C: Tensor | None, dtype: torch.dtype) -> Tensor:
    _, channels, height, width = images_BCHW.shape
    out_BCHW = _empty(images_BCHW, dtype)
    tiles_x, strips, grid = _strips(images_BCHW)
    with torch.cuda.device_of(images_BCHW):
        _depthwise_kernel[grid](
            images_BCHW.permute(0, 2, 3, 1).contiguous(),
            weight_C49.float().t().contiguous(),
            bias_C,
            out_BCHW,
            height,
            width,
            tiles_x,
            strips,
            grid[1],
            channels,
            TILE_X=_TILE_X,
            TILE_C=_TILE_C,
            **_LAUNCH,
        )
    return out_BCHW


@torch.library.custom_op("engine::depthwise", mutates_args=())
def depthwise(images_BCHW: Tensor, weight_C177: Tensor, bias_C: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The convolution of `images_BCHW` padded by three zeros all around, as a channels-last map of `dtype`."""
    return _convolve(images_BCHW, weight_C177.flatten(1), bias_C, dtype)


@torch.library.custom_op("engine::depthwise_image_gradient", mutates_args=())
def _image_gradient(gradient_BCHW: Tensor, weight_C177: Tensor, dtype: torch.dtype) -> Tensor:
    return _convolve(gradient_BCHW, weight_C177.flatten(1).flip(1), None, dtype)


@torch.library.custom_op("engine::depthwise_weight_gradient", mutates_args=())
def _weight_gradient(images_BCHW: Tensor, gradient_BCHW: Tensor) -> Tensor:
    """(50, C), float32: of the 49 taps, and of the bias."""
    _, channels, height, width = images_BCHW.shape
    tiles_x, strips, grid = _strips(images_BCHW)
    partial_P50C = torch.empty((grid[1], SIZE * SIZE + 1, channels), device=images_BCHW.device)
    with torch.cuda.device_of(images_BCHW):
        _weight_gradient_kernel[grid](
            images_BCHW.permute(0, 2, 3, 1).contiguous(),
            gradient_BCHW.permute(0, 2, 3, 1).contiguous(),
            partial_P50C,
            height,
            width,
            tiles_x,
            strips,
            grid[1],
            channels,
            TILE_X=_TILE_X,
            TILE_C=_TILE_C,
            **_LAUNCH,
        )
    return partial_P50C.sum(0)


@depthwise.register_fake
def _(images_BCHW, weight_C177, bias_C, dtype):
    return _empty(images_BCHW, dtype)


@_image_gradient.register_fake
def _(gradient_BCHW, weight_C177, dtype):
    return _empty(gradient_BCHW, dtype)


@_weight_gradient.register_fake
def _(images_BCHW, gradient_BCHW):
    return images_BCHW.new_empty((SIZE * SIZE + 1, images_BCHW.shape[1]), dtype=torch.float32)


def _remember(ctx, inputs, output):
    images_BCHW, weight_C177, bias_C, _ = inputs
    ctx.save_for_backward(images_BCHW, weight_C177)
    ctx.bias = None if bias_C is None else bias_C.dtype


def _backward(ctx, gradient_BCHW):
    images_BCHW, weight_C177 = ctx.saved_tensors
    of_images = of_weight = of_bias = None
    if ctx.needs_input_grad[0]:
        of_images = _image_gradient(gradient_BCHW, weight_C177, images_BCHW.dtype)
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
        sums_50C = _weight_gradient(images_BCHW, gradient_BCHW)
        of_weight = sums_50C[:-1].t().reshape(weight_C177.shape).to(weight_C177.dtype)
        of_bias = None if ctx.bias is None else sums_50C[-1].to(ctx.bias)
    return of_images, of_weight, of_bias, None


depthwise.register_autograd(_backward, setup_context=_remember)
