"""What follows the networks, as tensors: the vote of views, epochs and folds, joins, specialists, neighbours,
calibration and other class shares. Each does what the part of `engine.ensemble` that it names does, for a graph.

Probabilities are float64 (B, C), their columns in the order of the models' classes; what the ensemble rounds to
float32 is rounded here, too. What no graph can say is refused with what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from engine.ensemble.calibrate import Calibration
from engine.ensemble.join import Join
from engine.ensemble.neighbours import Neighbours
from engine.ensemble.parts import Parts
from engine.ensemble.specialist import Specialist
from engine.ensemble.stack import Linear, Stack
from engine.ensemble.vote import Rule
from engine.errors import RecipeError
from engine.store.bank import Bank
from engine.text import nfc

_SMALLEST = float(np.finfo(np.float32).tiny)  # of `calibrate` and `prior`
_LOG_OF_NOTHING = float(np.log(np.finfo(np.float64).tiny))  # of `vote`
_UNVOTED, _EQUAL = 0.005, 1e-9  # of `vote`
_LEAST = 1e-7  # of `stack`
_NOTHING = 1e-300  # of `specialist`
_EPSILON = float(np.finfo(np.float64).eps)


def places(have: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where the wanted names stand among those there are, in any Unicode form."""
    place = {nfc(name): column for column, name in enumerate(have)}
    return [place[nfc(name)] for name in wanted]


def voted(voters: Sequence[Tensor], rule: Rule, weights: Sequence[float] | None = None) -> Tensor:
    """`ensemble.vote.blend` of voters (B, C)."""
    shares = np.ones(len(voters)) if weights is None else np.asarray(weights, np.float64)
    weights_K = torch.from_numpy(shares / shares.sum())
    p_KBC = torch.stack([each.double() for each in voters])
    if rule == "median":
        return _medians(p_KBC, weights_K)
    if rule == "logit":
        return _weighted(_logs(p_KBC), weights_K).softmax(1)
    return _weighted(_ballots(p_KBC, rule), weights_K)


def folded(voters: Sequence[Tensor], rule: Rule) -> Tensor:
    return voters[0] if len(voters) == 1 else voted(voters, rule).float()


def together(voters: Sequence[Tensor], rule: Rule, weights: Sequence[float]) -> Tensor:
    """Of folds, or of runs; one alone has its way."""
    return voted(voters, rule, weights) if len(voters) > 1 else voters[0].double()


def _weighted(p_KBC: Tensor, weights_K: Tensor) -> Tensor:
    return (p_KBC * weights_K.to(p_KBC.device)[:, None, None]).sum(0)


def _logs(p: Tensor) -> Tensor:
    return torch.where(p > 0, p, torch.ones_like(p)).log().where(p > 0, torch.full_like(p, _LOG_OF_NOTHING))


def _ballots(p_KBC: Tensor, rule: Rule) -> Tensor:
    if rule == "soft":
        return p_KBC
    if rule == "hard":
        first_KBC = (p_KBC == p_KBC.amax(2, keepdim=True)).double()
        votes_KBC = first_KBC / first_KBC.sum(2, keepdim=True)
        return (1 - 2 * _UNVOTED) * votes_KBC + _UNVOTED * p_KBC + _UNVOTED / p_KBC.shape[2]
    # Of equals the mean place, as sorting gives it: one more than are likelier, and half of the others that are alike.
    likelier_KBC = (p_KBC[:, :, None, :] > p_KBC[:, :, :, None]).double().sum(3)
    alike_KBC = (p_KBC[:, :, None, :] == p_KBC[:, :, :, None]).double().sum(3)
    points_KBC = 1 / (1 + likelier_KBC + (alike_KBC - 1) / 2)
    return points_KBC / points_KBC.sum(2, keepdim=True)


def _medians(p_KBC: Tensor, weights_K: Tensor) -> Tensor:
    sorted_KBC, order_KBC = p_KBC.sort(dim=0)
    below_KBC = weights_K.to(p_KBC.device)[order_KBC].cumsum(0)

    def first_above(share: float) -> Tensor:
        """Of those whose weights, with all before them, are more than a share, the first."""
        after_KBC = (below_KBC <= share).long().sum(0, keepdim=True)
        return sorted_KBC.gather(0, after_KBC.clamp(max=len(p_KBC) - 1))[0]

    medians_BC = (first_above(0.5 - _EQUAL) + first_above(0.5 + _EQUAL)) / 2
    something_B1 = medians_BC.sum(1, keepdim=True) > 0
    medians_BC = torch.where(something_B1, medians_BC, _weighted(p_KBC, weights_K))
    return medians_BC / medians_BC.sum(1, keepdim=True)


class Joined(nn.Module):
    """`Parts.joined` of a fold's kept epochs, and `Join.apply` of runs. Raises RecipeError for trees."""

    def __init__(self, join: Join | None, rule: Rule, classes: Sequence[str]) -> None:
        super().__init__()
        self._rule = rule if join is None else join.rule
        self._weights = None if join is None else join.weights
        self._stack = None if join is None or join.stack is None else Stacked(join.stack, classes)

    def forward(self, candidates: Sequence[Tensor]) -> Tensor:
        if self._stack is not None:
            return self._stack(candidates)
        if self._weights is None:
            return folded(candidates, self._rule)
        return voted(candidates, self._rule, self._weights)


class Stacked(nn.Module):
    """`Stack.apply` of a logistic stack."""

    own: Tensor
    back: Tensor
    weights_K: Tensor
    weights_FS: Tensor
    bias_S: Tensor
    order: Tensor

    def __init__(self, stack: Stack, classes: Sequence[str]) -> None:
        super().__init__()
        if not isinstance(stack.model, Linear):
            raise RecipeError(
                "ensemble.stack = boosting: its trees cannot be said in a graph. Have a logistic one fitted, which "
                "takes seconds: engine ensemble RUN --set ensemble.stack=logistic (or off, for weights)"
            )
        self._seen = places(stack.classes, stack.seen)
        self._unseen = [column for column in range(len(stack.classes)) if column not in set(self._seen)]
        self.register_buffer("own", torch.tensor(places(classes, stack.classes)))
        self.register_buffer("back", torch.tensor(places(stack.classes, classes)))
        self.register_buffer("weights_K", torch.tensor(stack.weights, dtype=torch.float64))
        self.register_buffer("weights_FS", torch.from_numpy(stack.model.weights_SF.T.copy()))
        self.register_buffer("bias_S", torch.from_numpy(stack.model.bias_S.copy()))
        # From the columns of the classes that were seen, then of the others, to their places.
        self.register_buffer("order", torch.tensor(np.argsort([*self._seen, *self._unseen])))

    def forward(self, candidates: Sequence[Tensor]) -> Tensor:
        p_KBC = torch.stack([each.double() for each in candidates]).index_select(2, self.own)
        logs_KBC = p_KBC.clamp(min=_LEAST).log()
        features_BF = logs_KBC.transpose(0, 1).flatten(1)
        logits_BS = self._start(logs_KBC) + features_BF @ self.weights_FS + self.bias_S
        mean_BC = p_KBC.mean(0)
        mean_BC = mean_BC / mean_BC.sum(1, keepdim=True)
        unseen_BU = mean_BC[:, self._unseen]
        seen_BS = (1 - unseen_BU.sum(1, keepdim=True)) * logits_BS.softmax(1)
        return torch.cat([seen_BS, unseen_BU], dim=1).index_select(1, self.order).index_select(1, self.back)

    def _start(self, logs_KBC: Tensor) -> Tensor:
        """`Start.logits`."""
        p_BS = _weighted(logs_KBC.float().double(), self.weights_K)[:, self._seen].softmax(1)
        p_BS = p_BS.clamp(_EPSILON, 1.0 - _EPSILON)
        if len(self._seen) == 2:
            odds_B1 = (p_BS[:, 1:] / (1 - p_BS[:, 1:])).log()
            return torch.cat([torch.zeros_like(odds_B1), odds_B1], dim=1)
        logs_BS = p_BS.log()
        return logs_BS - logs_BS.mean(1, keepdim=True)


class Heard(nn.Module):
    """`Specialist.heard`: who is not asked keeps the main model's answer."""

    order: Tensor
    its_own_C: Tensor

    def __init__(self, specialist: Specialist, classes: Sequence[str]) -> None:
        super().__init__()
        columns = places(classes, specialist.classes)
        others = [column for column in range(len(classes)) if column not in set(columns)]
        self._blend, self._columns, self._others = specialist.blend, columns, others
        self.register_buffer("order", torch.tensor(np.argsort([*columns, *others])))
        self.register_buffer("its_own_C", torch.tensor([column in set(columns) for column in range(len(classes))]))

    def forward(self, main_BC: Tensor, own_BS: Tensor) -> Tensor:
        asked_B1 = self.its_own_C[main_BC.argmax(1)][:, None]
        main, own = main_BC.double(), own_BS.double()
        rule = self._override if len(self._columns) > 1 else self._yes_or_no
        joined_BC = torch.cat(rule(main[:, self._columns], main[:, self._others], own), dim=1)
        return torch.where(asked_B1, joined_BC.index_select(1, self.order).to(main_BC.dtype), main_BC)

    def _override(self, mine_BS: Tensor, rest_BR: Tensor, own_BS: Tensor) -> tuple[Tensor, Tensor]:
        return (1 - self._blend) * mine_BS + self._blend * mine_BS.sum(1, keepdim=True) * own_BS, rest_BR

    def _yes_or_no(self, mine_B1: Tensor, rest_BR: Tensor, own_B2: Tensor) -> tuple[Tensor, Tensor]:
        left_B1 = rest_BR.sum(1, keepdim=True)
        gain_B1 = (self._blend * (own_B2[:, :1] - mine_B1)).maximum(-mine_B1).minimum(left_B1)
        scaled_BR = rest_BR * (1 - gain_B1 / left_B1.clamp(min=_NOTHING))
        shared_BR = rest_BR - gain_B1 / rest_BR.shape[1]
        return mine_B1 + gain_B1, torch.where(left_B1 > _NOTHING, scaled_BR, shared_BR)


class WithNeighbours(nn.Module):
    """`Neighbours.apply` of what `search` finds in a fold's bank, which the graph holds as it is, in float16."""

    bank_BE: Tensor
    column_B: Tensor
    columns_C: Tensor

    def __init__(self, neighbours: Neighbours, bank: Bank, classes: Sequence[str]) -> None:
        super().__init__()
        self._weight, self._sharpness = neighbours.weight, neighbours.sharpness
        self._ks = [min(k, len(bank)) for k in neighbours.ks]
        column_of = np.array(places(classes, bank.classes), dtype=np.int64)
        self.register_buffer("bank_BE", torch.from_numpy(bank.features_BE.copy()))
        self.register_buffer("column_B", torch.from_numpy(column_of[bank.labels_B]))
        self.register_buffer("columns_C", torch.arange(len(classes)))

    def forward(self, answer_BC: Tensor, features: Sequence[Tensor]) -> Tensor:
        """`features` (B, E) of each of the fold's models."""
        asked_BE = torch.cat([_of_length_one(each.double()) for each in features], dim=1) / np.sqrt(len(features))
        cosine_BN = asked_BE.half().float() @ self.bank_BE.float().T
        cosine_BK, place_BK = cosine_BN.topk(max(self._ks), dim=1)
        is_BKC = self.column_B[place_BK][:, :, None].eq(self.columns_C).double()
        weight_BK = (self._sharpness * (cosine_BK - cosine_BK[:, :1]).double()).exp()
        votes = [
            (weight_BK[:, :k, None] * is_BKC[:, :k]).sum(1) / weight_BK[:, :k].sum(1, keepdim=True) for k in self._ks
        ]
        votes_BC = torch.stack(votes).mean(0)
        return (1 - self._weight) * answer_BC.double() + self._weight * votes_BC


def _of_length_one(features_BE: Tensor) -> Tensor:
    length_B1 = features_BE.square().sum(1, keepdim=True).sqrt()
    return features_BE / torch.where(length_B1 > 0, length_B1, torch.ones_like(length_B1))


class Calibrated(nn.Module):
    """`Calibration.apply`."""

    own: Tensor
    there: Tensor
    scale: Tensor
    bias_C: Tensor
    start_CK: Tensor
    length_CK: Tensor
    rise_CK: Tensor
    first_C: Tensor

    def __init__(self, calibration: Calibration, classes: Sequence[str]) -> None:
        super().__init__()
        self._kind = calibration.kind
        self.register_buffer("own", torch.tensor(places(calibration.classes, classes)))
        self.register_buffer("there", torch.tensor(places(classes, calibration.classes)))
        if calibration.kind == "isotonic":
            self._keep_curves(calibration)
        else:
            assert calibration.scale is not None
            scale = torch.from_numpy(calibration.scale.copy())
            self.register_buffer("scale", scale.T.contiguous() if calibration.kind == "dirichlet" else scale)
            bias_C = np.zeros(len(classes)) if calibration.bias_C is None else calibration.bias_C
            self.register_buffer("bias_C", torch.from_numpy(bias_C.copy()))

    def _keep_curves(self, calibration: Calibration) -> None:
        """A curve as its first value and steps: of each its start, its length and its rise; short ones filled up."""
        most = max(len(corners_K) for corners_K, _ in calibration.curves)
        shape = (len(calibration.curves), most - 1)
        start, length, rise = np.zeros(shape), np.ones(shape), np.zeros(shape)
        for row, (corners_K, values_K) in enumerate(calibration.curves):
            steps = len(corners_K) - 1
            start[row, :steps], length[row, :steps] = corners_K[:-1], np.diff(corners_K)
            rise[row, :steps] = np.diff(values_K)
        length[length <= 0] = np.finfo(np.float64).tiny
        first = np.array([values_K[0] for _, values_K in calibration.curves])
        for name, values in (("start_CK", start), ("length_CK", length), ("rise_CK", rise), ("first_C", first)):
            self.register_buffer(name, torch.from_numpy(values))

    def forward(self, p_BC: Tensor) -> Tensor:
        p_BC = p_BC.double().index_select(1, self.there).clamp(min=_SMALLEST)
        return self._calibrated(p_BC).index_select(1, self.own)

    def _calibrated(self, p_BC: Tensor) -> Tensor:
        if self._kind == "isotonic":
            within_BCK = ((p_BC[:, :, None] - self.start_CK) / self.length_CK).clamp(0.0, 1.0)
            risen_BC = self.first_C + (within_BCK * self.rise_CK).sum(2)
            return risen_BC / risen_BC.sum(1, keepdim=True)
        z_BC = p_BC.log()
        if self._kind == "groups":
            return (z_BC * self.scale[z_BC.argmax(1)][:, None]).softmax(1)
        if self._kind == "dirichlet":
            return (z_BC @ self.scale + self.bias_C).softmax(1)
        return (z_BC * self.scale + self.bias_C).softmax(1)


class Finished(nn.Module):
    """`Parts.finished`: neighbours, where a bank is given, then calibration."""

    def __init__(self, parts: Parts, bank: Bank | None, classes: Sequence[str]) -> None:
        super().__init__()
        self._near = None
        if parts.neighbours is not None and bank is not None:
            self._near = WithNeighbours(parts.neighbours, bank, classes)
        self._calibrated = None if parts.calibration is None else Calibrated(parts.calibration, classes)

    def forward(self, answer_BC: Tensor, features: Sequence[Tensor]) -> Tensor:
        if self._near is not None:
            answer_BC = self._near(answer_BC, features)
        return answer_BC if self._calibrated is None else self._calibrated(answer_BC)


class Shifted(nn.Module):
    """`prior.shift` from some class shares to others."""

    ratio_C: Tensor

    def __init__(self, from_C: ArrayLike, to_C: ArrayLike) -> None:
        super().__init__()
        own_C, wanted_C = (np.asarray(shares, np.float64) / np.sum(shares) for shares in (from_C, to_C))
        ratio_C = np.divide(wanted_C, own_C, out=np.zeros_like(wanted_C), where=own_C > 0)
        self.register_buffer("ratio_C", torch.from_numpy(ratio_C))

    def forward(self, p_BC: Tensor) -> Tensor:
        moved_BC = p_BC.double().clamp(min=_SMALLEST) * self.ratio_C
        return moved_BC / moved_BC.sum(1, keepdim=True)
