"""Fits of log-probabilities to the truth, in numpy arrays alone: what a calibration of each kind learns.

All minimise the log loss by L-BFGS with analytic gradients; no randomness is drawn, so the same answers give the same
fit. Each number has a Gaussian prior around where nothing is changed, or around the one scale of all classes, so that a
class of one image, or of none, stays with the others. The obvious other way, no prior, gives a class that was never
seen a bias of minus infinity, and answers that are all right a temperature of 0.

How wide the priors of many numbers are (of groups, scales, biases, what classes add to each other) is learnt as well:
where classes need no numbers of their own they get none, where they do the data decide. It takes the place of a grid of
strengths tried on further folds, which takes ten times as long. Source: MacKay, "Bayesian Interpolation", Neural
Computation 4, 1992 (the evidence framework).

Shapes: z_NC are log-probabilities, y_N the true columns, C classes. Rows are worked through in blocks that fit the
processor's cache, which is several times faster than whole arrays where there are hundreds of classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

_LOG_TEMPERATURE = 1.0  # standard deviation of the prior of one temperature around 1, as a logarithm

# Standard deviations to begin with, of priors whose width is learnt.
_LOG_OF_GROUP = 0.5  # of a group's temperature around the common one
_SCALE = 0.25  # of a class's scale around the common one, as a share of it
_BIAS = 0.5  # of a class's bias, in nats
_CROSS = 0.05  # of what one class's log-probability adds to another's, as a share of the common scale
_LEAST = 1e-3  # of any

_PRIOR_ROUNDS = 8  # in which they are learnt, at most
_SETTLED = 0.05  # change of all of them, as a share, from which on they stay
_STEPS = 200
_BLOCK = 2**17  # numbers in a block of rows: 1 MB


def scale_of_all(z_NC: Array, y_N: Labels) -> float:
    """The scale (1 / temperature) of all log-probabilities. Source: Guo et al., "On Calibration of Modern Neural
    Networks", ICML 2017."""
    return float(_scales(z_NC, y_N, np.zeros(len(y_N), np.int64), 1.0, _LOG_TEMPERATURE, 1)[0])


def scale_of_groups(z_NC: Array, y_N: Labels, group_C: Labels) -> Array:
    """A scale a class, (C,), the same for all classes of a group: that of the rows whose likeliest class is one of the
    group's."""
    common = scale_of_all(z_NC, y_N)
    met, group_N = np.unique(group_C[z_NC.argmax(1)], return_inverse=True)
    scale_C = np.full(z_NC.shape[1], common)
    for group, scale in zip(met, _scales(z_NC, y_N, group_N, common, _LOG_OF_GROUP, _PRIOR_ROUNDS), strict=True):
        scale_C[group_C == group] = scale
    return scale_C


def scale_and_bias(z_NC: Array, y_N: Labels) -> tuple[Array, Array]:
    """A scale (C,) and a bias (C,) a class. Source: vector scaling of Guo et al., 2017, with priors."""
    count = z_NC.shape[1]
    common = scale_of_all(z_NC, y_N)

    def loss(numbers: Array) -> tuple[float, Array]:
        scale_C, bias_C = numbers[:count], numbers[count:]
        total, grad_scale_C, grad_bias_C = 0.0, np.zeros(count), np.zeros(count)
        for _, z_BC, y_B in _blocks(z_NC, y_N):
            value, slope_BC = _log_loss(z_BC * scale_C + bias_C, y_B)
            total += value
            grad_scale_C += np.einsum("bc,bc->c", slope_BC, z_BC)
            grad_bias_C += slope_BC.sum(0)
        return total, np.concatenate([grad_scale_C, grad_bias_C])

    start = np.concatenate([np.full(count, common), np.zeros(count)])
    deviation = np.concatenate([np.full(count, _SCALE * common), np.full(count, _BIAS)])
    spread_C, square_CC = _curvature(z_NC, common)
    found = _minimum(loss, start, deviation, np.concatenate([square_CC.diagonal(), spread_C]), _PRIOR_ROUNDS)
    return found[:count], found[count:]


def matrix_and_bias(z_NC: Array, y_N: Labels) -> tuple[Array, Array]:
    """A matrix (C, C), from a row's log-probabilities to their new ones, and a bias (C,).

    Source: Kull et al., "Beyond temperature scaling: Obtaining well-calibrated multi-class probabilities with Dirichlet
    calibration", NeurIPS 2019, whose regularisation of the off-diagonal and the intercept (ODIR) is the prior here; the
    diagonal has one around the common scale.
    """
    count = z_NC.shape[1]
    common = scale_of_all(z_NC, y_N)

    def loss(numbers: Array) -> tuple[float, Array]:
        matrix_CC, bias_C = numbers[: count**2].reshape(count, count), numbers[count**2 :]
        total, grad_CC, grad_bias_C = 0.0, np.zeros((count, count)), np.zeros(count)
        for _, z_BC, y_B in _blocks(z_NC, y_N):
            value, slope_BC = _log_loss(z_BC @ matrix_CC.T + bias_C, y_B)
            total += value
            grad_CC += slope_BC.T @ z_BC
            grad_bias_C += slope_BC.sum(0)
        return total, np.concatenate([grad_CC.ravel(), grad_bias_C])

    start = np.concatenate([np.diag(np.full(count, common)).ravel(), np.zeros(count)])
    deviation_CC = np.where(np.eye(count, dtype=bool), _SCALE * common, _CROSS * common)
    deviation = np.concatenate([deviation_CC.ravel(), np.full(count, _BIAS)])
    spread_C, square_CC = _curvature(z_NC, common)
    found = _minimum(loss, start, deviation, np.concatenate([square_CC.ravel(), spread_C]), _PRIOR_ROUNDS)
    return found[: count**2].reshape(count, count), found[count**2 :]


def isotonic_curve(p_N: Array, is_class_N: NDArray[np.bool_]) -> tuple[Array, Array]:
    """From a class's probability to the share of images that are of the class, rising: corners (K,) and values (K,),
    between which it is straight.

    Source: Zadrozny and Elkan, "Transforming classifier scores into accurate multiclass probability estimates", KDD
    2002. Its steps answer 0 and 1, and the same for different probabilities. So one more image's worth of the
    probability itself is mixed in: log loss stays finite and equals keep their order.
    """
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0, y_max=1).fit(p_N, is_class_N.astype(np.float64))
    corners, shares = fitted.X_thresholds_, fitted.y_thresholds_
    inside = (corners > 0) & (corners < 1)
    corners = np.concatenate([[0.0], corners[inside], [1.0]])
    shares = np.interp(corners, fitted.X_thresholds_, shares)
    return corners, (len(p_N) * shares + corners) / (len(p_N) + 1)


def _scales(z_NC: Array, y_N: Labels, group_N: Labels, centre: float, deviation: float, rounds: int) -> Array:
    """A scale for each group of rows, (G,), found as logarithms, so that it stays above 0."""
    groups = int(group_N.max()) + 1

    def loss(numbers: Array) -> tuple[float, Array]:
        scale_N = np.exp(numbers)[group_N]
        total, slopes = 0.0, []
        for rows, z_BC, y_B in _blocks(z_NC, y_N):
            value, slope_BC = _log_loss(z_BC * scale_N[rows, None], y_B)
            total += value
            slopes.append(np.einsum("bc,bc->b", slope_BC, z_BC))
        return total, _sums(np.concatenate(slopes) * scale_N, group_N, groups)

    spread_N = np.concatenate([_spread(centre * z_BC) for _, z_BC, _ in _blocks(z_NC, y_N)])
    curvature = _sums(spread_N, group_N, groups)
    start = np.full(groups, np.log(centre))
    return np.exp(_minimum(loss, start, np.full(groups, deviation), curvature, rounds))


def _sums(values_N: Array, group_N: Labels, groups: int) -> Array:
    """Of each group, (G,)."""
    return np.bincount(group_N, values_N, groups).astype(np.float64)


def _spread(z_BC: Array) -> Array:
    """The variance of each row's log-probabilities under its probabilities, (B,)."""
    p_BC = np.exp(z_BC - z_BC.max(1, keepdims=True))
    p_BC /= p_BC.sum(1, keepdims=True)
    mean_B = np.einsum("bc,bc->b", p_BC, z_BC)
    return np.maximum(np.einsum("bc,bc,bc->b", p_BC, z_BC, z_BC) - mean_B**2, 0)


def _blocks(z_NC: Array, y_N: Labels) -> Iterator[tuple[slice, Array, Labels]]:
    """(rows, their log-probabilities, their labels), block by block."""
    at_once = max(1, _BLOCK // z_NC.shape[1])
    for start in range(0, len(z_NC), at_once):
        rows = slice(start, start + at_once)
        yield rows, z_NC[rows], y_N[rows]


def _log_loss(z_BC: Array, y_B: Labels) -> tuple[float, Array]:
    """Summed over the rows, with its slope by z_BC, which is overwritten."""
    rows_B = np.arange(len(y_B))
    z_BC -= z_BC.max(1, keepdims=True)
    true_B = z_BC[rows_B, y_B]
    np.exp(z_BC, out=z_BC)
    total_B = z_BC.sum(1)
    z_BC /= total_B[:, None]
    z_BC[rows_B, y_B] -= 1
    return float((np.log(total_B) - true_B).sum()), z_BC


def _curvature(z_NC: Array, scale: float) -> tuple[Array, Array]:
    """About how the loss curves by a bias (C,), and by what class j adds to class c (C, C)."""
    count = z_NC.shape[1]
    spread_C, square_CC = np.zeros(count), np.zeros((count, count))
    for _, z_BC, _ in _blocks(z_NC, np.empty(0, np.int64)):
        p_BC = np.exp(scale * z_BC)
        p_BC /= p_BC.sum(1, keepdims=True)
        p_BC *= 1 - p_BC
        spread_C += p_BC.sum(0)
        square_CC += p_BC.T @ np.square(z_BC)
    return spread_C, square_CC


def _minimum(
    loss: Callable[[Array], tuple[float, Array]], start: Array, deviation: Array, curvature: Array, rounds: int = 1
) -> Array:
    """Where the loss plus that of a Gaussian prior around `start` is least.

    `curvature`, of the loss alone, brings all numbers to one length, without which rare classes take hundreds of steps.
    In every further round those that began with one deviation get the one that makes the data likeliest.
    """
    from threadpoolctl import threadpool_limits

    kind = np.unique(deviation, return_inverse=True)[1]
    away = np.zeros_like(start)
    with threadpool_limits(1, "blas"):  # its products are so small that threads wait for each other: ten times as long
        for further in range(rounds):
            if further:
                known = curvature / (curvature + deviation**-2)  # from 0, the prior's word, to 1, the data's
                variance = np.bincount(kind, away**2) / np.maximum(np.bincount(kind, known), _LEAST**2)
                before, deviation = deviation, np.sqrt(np.maximum(variance, _LEAST**2))[kind]
                if np.abs(deviation / before - 1).max() < _SETTLED:
                    break
            away = _descended(loss, start, away, deviation, curvature)
    return start + away


def _descended(
    loss: Callable[[Array], tuple[float, Array]], start: Array, away: Array, deviation: Array, curvature: Array
) -> Array:
    """How far from `start` the minimum is, looked for from `away` on."""
    from scipy.optimize import minimize

    unit = 1 / np.sqrt(curvature + deviation**-2)

    def with_prior(steps: Array) -> tuple[float, Array]:
        moved = steps * unit
        value, slope = loss(start + moved)
        return value + 0.5 * float(np.sum((moved / deviation) ** 2)), unit * (slope + moved / deviation**2)

    options = {"maxiter": _STEPS, "ftol": 1e-11, "gtol": 1e-6}
    return minimize(with_prior, away / unit, jac=True, method="L-BFGS-B", options=options).x * unit
