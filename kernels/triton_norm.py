"""What stands between a block's matrix products, in Triton: LayerNorm; bias and GELU; bias, LayerScale and residual.

Why this way: each of these reads a map and writes one, and does next to nothing to it, so what counts is how often the
map goes through memory. Taken alone, torch writes a norm in float32 and casts it, adds a bias in a step of its own, and
sums the gradients of biases and scales in a second pass over maps that the first has just read. Here each is read once
and written once, in the type that the matrix product wants, and backward the same pass sums what weights and biases
get; programs leave partial sums that torch adds up, in an order that is always the same.

All is computed in float32. Maps are (..., C), channels last, seen as rows. Answers to the references in `network.py`.
Works under TRITON_INTERPRET=1 on the CPU, slowly, for tests.
"""

# mypy: disable-error-code="no-untyped-def"
# Functions under @triton.jit are not Python: their arguments are typed by Triton when compiled.

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 2048  # numbers that a program holds of a map: 16 a thread with 4 warps
_TILE_C = 64  # of them in a row, where rows need not be whole
_PROGRAMS = 1024  # that divide the rows among them where they sum columns
_LAUNCH = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}


# --- LayerNorm ------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["rows", "eps"])
def _norm_kernel(
    maps, weight, bias, out, means, scales, rows, channels, eps, TILE_R: tl.constexpr, TILE_C: tl.constexpr
):
    """Whole rows: normalised, and their means and reciprocal deviations."""
    r = tl.program_id(0) * TILE_R + tl.arange(0, TILE_R)
    c = tl.arange(0, TILE_C)[None, :]
    known = c < channels
    inside = (r[:, None] < rows) & known
    at = r.to(tl.int64)[:, None] * channels + c
    x = tl.load(maps + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, 1) / channels
    centred = tl.where(inside, x - mean[:, None], 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 1) / channels + eps)
    gain = tl.load(weight + c, mask=known, other=0.0).to(tl.float32)
    shift = tl.load(bias + c, mask=known, other=0.0).to(tl.float32)
    y = centred * scale[:, None] * gain + shift
    tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)
    tl.store(means + r, mean, mask=r < rows)
    tl.store(scales + r, scale, mask=r < rows)


@triton.jit(do_not_specialize=["rows", "programs"])
def _norm_backward_kernel(
    gradient,
    maps,
    weight,
    means,
    scales,
    of_maps,
    partial,
    rows,
    programs,
    channels,
    TILE_R: tl.constexpr,
    TILE_C: tl.constexpr,
):
    """Tiles of whole rows, one of so many apart: the map's gradient, and `partial` (programs, 2, C) sums of the
    weight's and the bias's."""
    c = tl.arange(0, TILE_C)[None, :]
    known = c < channels
    gain = tl.load(weight + c, mask=known, other=0.0).to(tl.float32)
    of_weight = tl.zeros((TILE_R, TILE_C), tl.float32)
    of_bias = tl.zeros((TILE_R, TILE_C), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, TILE_R), programs):
        r = tile * TILE_R + tl.arange(0, TILE_R)
        inside = (r[:, None] < rows) & known
        at = r.to(tl.int64)[:, None] * channels + c
        dy = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(maps + at, mask=inside, other=0.0).to(tl.float32)
        mean = tl.load(means + r, mask=r < rows, other=0.0)
        scale = tl.load(scales + r, mask=r < rows, other=0.0)
        normal = tl.where(inside, (x - mean[:, None]) * scale[:, None], 0.0)
        of_weight += dy * normal
        of_bias += dy
        scaled = dy * gain
        along = tl.sum(scaled * normal, 1) / channels
        level = tl.sum(scaled, 1) / channels
        dx = (scaled - normal * along[:, None] - level[:, None]) * scale[:, None]
        tl.store(of_maps + at, dx.to(of_maps.dtype.element_ty), mask=inside)
    c = tl.arange(0, TILE_C)
    own = partial + tl.program_id(0) * 2 * channels + c
    tl.store(own, tl.sum(of_weight, 0), mask=c < channels)
    tl.store(own + channels, tl.sum(of_bias, 0), mask=c < channels)


def _rows(maps: Tensor) -> tuple[int, int]:
    return maps.numel() // maps.shape[-1], maps.shape[-1]


def _whole_rows(channels: int) -> dict[str, int]:
    """The tile of a kernel that sees whole rows."""
    across = triton.next_power_of_2(channels)
    return {"TILE_R": max(1, _TILE // across), "TILE_C": across}


@torch.library.custom_op("engine::layer_norm", mutates_args=())
def _layer_norm(
    maps: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised map, and of each row the mean and the reciprocal deviation."""
    rows, channels = _rows(maps)
    out = torch.empty(maps.shape, dtype=dtype, device=maps.device)
    means_N, scales_N = torch.empty(rows, device=maps.device), torch.empty(rows, device=maps.device)
    tile = _whole_rows(channels)
    with torch.cuda.device_of(maps):
        _norm_kernel[triton.cdiv(rows, tile["TILE_R"]),](
            maps.contiguous(), weight_C, bias_C, out, means_N, scales_N, rows, channels, eps, **tile, **_LAUNCH
        )
    return out, means_N, scales_N


@torch.library.custom_op("engine::layer_norm_backward", mutates_args=())
def _layer_norm_backward(
    gradient: Tensor, maps: Tensor, weight_C: Tensor, means_N: Tensor, scales_N: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the map, and (2, C), float32, of weight and bias."""
    rows, channels = _rows(maps)
    of_maps = torch.empty(maps.shape, dtype=maps.dtype, device=maps.device)
    tile = _whole_rows(channels)
    programs = min(triton.cdiv(rows, tile["TILE_R"]), _PROGRAMS)
    partial_P2C = torch.empty((programs, 2, channels), device=maps.device)
    with torch.cuda.device_of(maps):
        _norm_backward_kernel[programs,](
            gradient.contiguous(),
            maps.contiguous(),
            weight_C,
            means_N,
            scales_N,
            of_maps,
            partial_P2C,
            rows,
            programs,
            channels,
            **tile,
            **_LAUNCH,
        )
    return of_maps, partial_P2C.sum(0)


@_layer_norm.register_fake
def _(maps, weight_C, bias_C, eps, dtype):
    rows, _ = _rows(maps)
    return torch.empty(maps.shape, dtype=dtype, device=maps.device), *(
        torch.empty(rows, dtype=torch.float32, device=maps.device) for _ in range(2)
    )


@_layer_norm_backward.register_fake
def _(gradient, maps, weight_C, means_N, scales_N):
    of_maps = torch.empty(maps.shape, dtype=maps.dtype, device=maps.device)
    return of_maps, torch.empty(2, maps.shape[-1], dtype=torch.float32, device=maps.device)


def _remember_norm(ctx, inputs, output):
    maps, weight_C, bias_C, _, _ = inputs
    ctx.save_for_backward(maps, weight_C, *output[1:])
    ctx.bias = bias_C.dtype
    ctx.mark_non_differentiable(*output[1:])


def _norm_backward(ctx, gradient, _means, _scales):
    maps, weight_C, means_N, scales_N = ctx.saved_tensors
    of_maps, sums_2C = _layer_norm_backward(gradient, maps, weight_C, means_N, scales_N)
    return of_maps, sums_2C[0].to(weight_C.dtype), sums_2C[1].to(ctx.bias), None, None


_layer_norm.register_autograd(_norm_backward, setup_context=_remember_norm)


def layer_norm(maps: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """LayerNorm over the last dimension of `maps` (..., C), as `dtype`."""
    normal: Tensor = _layer_norm(maps, weight_C, bias_C, eps, dtype)[0]
    return normal


# --- bias and GELU --------------------------------------------------------------------------------------------------

_ROOT_HALF = tl.constexpr(0.7071067811865476)
_ROOT_TWO_PI = tl.constexpr(0.3989422804014327)  # 1 / sqrt(2 pi)


@triton.jit(do_not_specialize=["rows"])
def _gelu_kernel(maps, bias, out, rows, channels, TILE_R: tl.constexpr, TILE_C: tl.constexpr):
    """A tile of gelu(map + bias)."""
    r = tl.program_id(0) * TILE_R + tl.arange(0, TILE_R)[:, None]
    c = tl.program_id(1) * TILE_C + tl.arange(0, TILE_C)[None, :]
    known = c < channels
    inside = (r < rows) & known
    at = r.to(tl.int64) * channels + c
    shift = tl.load(bias + c, mask=known, other=0.0).to(tl.float32)
    x = tl.load(maps + at, mask=inside, other=0.0).to(tl.float32) + shift
    y = 0.5 * x * (1 + tl.erf(x * _ROOT_HALF))
    tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "programs"])
def _gelu_backward_kernel(
    gradient,
    maps,
    bias,
    of_maps,
    partial,
    rows,
    programs,
    channels,
    TILE_R: tl.constexpr,
    TILE_C: tl.constexpr,
):
    """Tiles of a block of columns, one of so many apart: the map's gradient, and `partial` (programs, C) sums of it,
    which are the bias's."""
    c = tl.program_id(1) * TILE_C + tl.arange(0, TILE_C)[None, :]
    known = c < channels
    shift = tl.load(bias + c, mask=known, other=0.0).to(tl.float32)
    of_bias = tl.zeros((TILE_R, TILE_C), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, TILE_R), programs):
        r = tile * TILE_R + tl.arange(0, TILE_R)[:, None]
        inside = (r < rows) & known
        at = r.to(tl.int64) * channels + c
        dy = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(maps + at, mask=inside, other=0.0).to(tl.float32) + shift
        slope = 0.5 * (1 + tl.erf(x * _ROOT_HALF)) + x * _ROOT_TWO_PI * tl.exp(-0.5 * x * x)
        dx = dy * slope
        of_bias += dx
        tl.store(of_maps + at, dx.to(of_maps.dtype.element_ty), mask=inside)
    c = tl.program_id(1) * TILE_C + tl.arange(0, TILE_C)
    tl.store(partial + tl.program_id(0) * channels + c, tl.sum(of_bias, 0), mask=c < channels)


def _tiles(rows: int, channels: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Tiles down and across a map, and their size, where rows need not be whole."""
    down = _TILE // _TILE_C
    return (triton.cdiv(rows, down), triton.cdiv(channels, _TILE_C)), {"TILE_R": down, "TILE_C": _TILE_C}


def _walkers(tiles: tuple[int, int]) -> tuple[int, int]:
    """Programs that walk down these tiles."""
    return max(1, min(tiles[0], _PROGRAMS // tiles[1])), tiles[1]


@torch.library.custom_op("engine::bias_gelu", mutates_args=())
def bias_gelu(maps: Tensor, bias_C: Tensor) -> Tensor:
    """gelu(map + bias), by the error function, in the map's type."""
    out = torch.empty(maps.shape, dtype=maps.dtype, device=maps.device)
    grid, tile = _tiles(*_rows(maps))
    with torch.cuda.device_of(maps):
        _gelu_kernel[grid](maps.contiguous(), bias_C, out, *_rows(maps), **tile, **_LAUNCH)
    return out


@torch.library.custom_op("engine::bias_gelu_backward", mutates_args=())
def _bias_gelu_backward(gradient: Tensor, maps: Tensor, bias_C: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the map, and (C), float32, of the bias."""
    of_maps = torch.empty(maps.shape, dtype=maps.dtype, device=maps.device)
    rows, channels = _rows(maps)
    tiles, tile = _tiles(rows, channels)
    grid = _walkers(tiles)
    partial_PC = torch.empty((grid[0], channels), device=maps.device)
    with torch.cuda.device_of(maps):
        _gelu_backward_kernel[grid](
            gradient.contiguous(),
            maps.contiguous(),
            bias_C,
            of_maps,
            partial_PC,
            rows,
            grid[0],
            channels,
            **tile,
            **_LAUNCH,
        )
    return of_maps, partial_PC.sum(0)


@bias_gelu.register_fake
def _(maps, bias_C):
    return torch.empty(maps.shape, dtype=maps.dtype, device=maps.device)


@_bias_gelu_backward.register_fake
def _(gradient, maps, bias_C):
    of_maps = torch.empty(maps.shape, dtype=maps.dtype, device=maps.device)
    return of_maps, torch.empty(maps.shape[-1], dtype=torch.float32, device=maps.device)


def _remember_gelu(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _gelu_backward(ctx, gradient):
    maps, bias_C = ctx.saved_tensors
    of_maps, of_bias = _bias_gelu_backward(gradient, maps, bias_C)
    return of_maps, of_bias.to(bias_C.dtype)


bias_gelu.register_autograd(_gelu_backward, setup_context=_remember_gelu)


# --- bias, LayerScale and residual ----------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["rows", "positions"])
def _scale_add_kernel(
    maps, bias, scale, keep, shortcut, out, rows, positions, channels, TILE_R: tl.constexpr, TILE_C: tl.constexpr
):
    """A tile of shortcut + keep * scale * (map + bias); `positions` rows are of one image."""
    r = tl.program_id(0) * TILE_R + tl.arange(0, TILE_R)[:, None]
    c = tl.program_id(1) * TILE_C + tl.arange(0, TILE_C)[None, :]
    known = c < channels
    inside = (r < rows) & known
    at = r.to(tl.int64) * channels + c
    shift = tl.load(bias + c, mask=known, other=0.0).to(tl.float32)
    share = tl.load(scale + c, mask=known, other=0.0).to(tl.float32)
    y = share * (tl.load(maps + at, mask=inside, other=0.0).to(tl.float32) + shift)
    if keep is not None:
        y *= tl.load(keep + r // positions, mask=r < rows, other=0.0).to(tl.float32)
    y += tl.load(shortcut + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "programs", "positions"])
def _scale_add_backward_kernel(
    gradient,
    maps,
    bias,
    scale,
    keep,
    of_maps,
    partial,
    rows,
    programs,
    positions,
    channels,
    TILE_R: tl.constexpr,
    TILE_C: tl.constexpr,
):
    """Tiles of a block of columns, one of so many apart: the map's gradient, and `partial` (programs, 2, C) sums of the
    scale's and the bias's."""
    c = tl.program_id(1) * TILE_C + tl.arange(0, TILE_C)[None, :]
    known = c < channels
    shift = tl.load(bias + c, mask=known, other=0.0).to(tl.float32)
    share = tl.load(scale + c, mask=known, other=0.0).to(tl.float32)
    of_scale = tl.zeros((TILE_R, TILE_C), tl.float32)
    of_bias = tl.zeros((TILE_R, TILE_C), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, TILE_R), programs):
        r = tile * TILE_R + tl.arange(0, TILE_R)[:, None]
        inside = (r < rows) & known
        at = r.to(tl.int64) * channels + c
        dy = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
        if keep is not None:
            dy *= tl.load(keep + r // positions, mask=r < rows, other=0.0).to(tl.float32)
        x = tl.load(maps + at, mask=inside, other=0.0).to(tl.float32)
        of_scale += dy * (x + shift)
        dx = dy * share
        of_bias += dx
        tl.store(of_maps + at, dx.to(of_maps.dtype.element_ty), mask=inside)
    c = tl.program_id(1) * TILE_C + tl.arange(0, TILE_C)
    own = partial + tl.program_id(0) * 2 * channels + c
    tl.store(own, tl.sum(of_scale, 0), mask=c < channels)
    tl.store(own + channels, tl.sum(of_bias, 0), mask=c < channels)


@torch.library.custom_op("engine::scale_add", mutates_args=())
def scale_add(
    maps: Tensor, bias_C: Tensor, scale_C: Tensor, keep_B: Tensor | None, shortcut: Tensor, dtype: torch.dtype
) -> Tensor:
    """shortcut + keep * scale * (map + bias), as `dtype`: `keep_B` for each image of a map (B, ..., C), None: 1."""
    out = torch.empty(maps.shape, dtype=dtype, device=maps.device)
    rows, channels = _rows(maps)
    grid, tile = _tiles(rows, channels)
    with torch.cuda.device_of(maps):
        _scale_add_kernel[grid](
            maps.contiguous(),
            bias_C,
            scale_C,
            keep_B,
            shortcut.contiguous(),
            out,
            rows,
            rows // len(maps),
            channels,
            **tile,
            **_LAUNCH,
        )
    return out


@torch.library.custom_op("engine::scale_add_backward", mutates_args=())
def _scale_add_backward(
    gradient: Tensor, maps: Tensor, bias_C: Tensor, scale_C: Tensor, keep_B: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of the map, and (2, C), float32, of scale and bias."""
    of_maps = torch.empty(maps.shape, dtype=maps.dtype, device=maps.device)
    rows, channels = _rows(maps)
    tiles, tile = _tiles(rows, channels)
    grid = _walkers(tiles)
    partial_P2C = torch.empty((grid[0], 2, channels), device=maps.device)
    with torch.cuda.device_of(maps):
        _scale_add_backward_kernel[grid](
            gradient.contiguous(),
            maps.contiguous(),
            bias_C,
            scale_C,
            keep_B,
            of_maps,
            partial_P2C,
            rows,
            grid[0],
            rows // len(maps),
            channels,
            **tile,
            **_LAUNCH,
        )
    return of_maps, partial_P2C.sum(0)


@scale_add.register_fake
def _(maps, bias_C, scale_C, keep_B, shortcut, dtype):
    return torch.empty(maps.shape, dtype=dtype, device=maps.device)


@_scale_add_backward.register_fake
def _(gradient, maps, bias_C, scale_C, keep_B):
    of_maps = torch.empty(maps.shape, dtype=maps.dtype, device=maps.device)
    return of_maps, torch.empty(2, maps.shape[-1], dtype=torch.float32, device=maps.device)


def _remember_scale(ctx, inputs, output):
    maps, bias_C, scale_C, keep_B, shortcut, _ = inputs
    ctx.save_for_backward(maps, bias_C, scale_C, *([] if keep_B is None else [keep_B]))
    ctx.shortcut = shortcut.dtype


def _scale_backward(ctx, gradient):
    maps, bias_C, scale_C, *keep = ctx.saved_tensors
    keep_B = keep[0] if keep else None
    of_maps, sums_2C = _scale_add_backward(gradient, maps, bias_C, scale_C, keep_B)
    of_scale, of_bias = sums_2C[0].to(scale_C.dtype), sums_2C[1].to(bias_C.dtype)
    return of_maps, of_bias, of_scale, None, gradient.to(ctx.shortcut), None


scale_add.register_autograd(_scale_backward, setup_context=_remember_scale)
