"""A run's models as one torch module: photos' pixels in, probabilities out.

It does what `engine.predict.asking` does, step by step, and takes all that was settled from the loaded models: so what
is exported cannot be told something else than what predicts. Pixels are prepared once for all models of a contract, and
views of one size go through a network together.

What stands in a graph is answered for every photo: a specialist, which `engine infer` asks only about look-alikes,
costs its network here every time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.augment.contract import Contract
from engine.augment.views import View, views_of
from engine.ensemble.vote import Rule
from engine.errors import RecipeError
from engine.export.answers import Finished, Heard, Joined, Shifted, folded, places, together, voted
from engine.export.pixels import Read, prepared
from engine.inference.member import Member
from engine.model.build import Classifier
from engine.predict.asking import shares_of
from engine.predict.models import Models, RunModels
from engine.predict.panel import Asked
from engine.store.bank import bank_of
from engine.store.checkpoint import Checkpoint

CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a network is shown: a view of a contract. `name` is what the tensor is called."""

    name: str
    contract: Contract
    view: View

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.view.size(self.contract.height, self.contract.width)


@dataclasses.dataclass(frozen=True)
class Asks:
    """A model of the graph: what it is called, its logits' name, (V, B, C), its classes, and what it is shown."""

    model: str
    logits: str
    classes: tuple[str, ...]
    shown: tuple[str, ...]  # names of `Prepared`


class Photos(nn.Module):
    """uint8 RGB pixels of upright photos of one size, (B, H, W, 3), to what each network is shown, in order of
    `shown`."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Prepared] = []

    def name(self, contract: Contract, view: View) -> str:
        """What the pixels of this view are called, which are prepared once for all who ask for them."""
        for one in self.shown:
            if _as_it_is(one.view, one.contract) == _as_it_is(view, contract):
                return one.name
        self.shown.append(Prepared(f"prepared_{len(self.shown)}", contract, view))
        return self.shown[-1].name

    def forward(self, images_BHW3: Tensor) -> dict[str, Tensor]:
        read: Read = {}
        return {one.name: prepared(images_BHW3, one.view, one.contract, read) for one in self.shown}


def _as_it_is(view: View, contract: Contract) -> tuple[View, Contract]:
    """Views of two contracts may show the same: what a view changes of its contract is counted as the contract's."""
    return dataclasses.replace(view, name="", fit="", scale=1.0), view.contract(contract)


class Network(nn.Module):
    """A classifier whose backbone runs in `dtype`; its pooling and its head stay in float32."""

    def __init__(self, model: Classifier, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model = model.eval().to(memory_format=torch.contiguous_format)
        self.model.backbone.to(dtype)
        self.dtype = dtype

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C) and features (B, E), float32."""
        features_BE = self.model.features(images_BCHW.to(self.dtype)).float()
        return self.model.head(features_BE).float(), features_BE


class Answering(nn.Module):
    """One model's answer about all views: probabilities float32 (B, C), columns as `classes`, with logits (V, B, C) and
    features (B, E)."""

    def __init__(
        self, member: Member, rule: Rule, shown: Sequence[str], classes: Sequence[str], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.network = Network(member.model, dtype)
        self._rule, self._shown = rule, tuple(shown)
        order = places(member.classes, classes)
        self._order = None if order == sorted(order) else order

    def forward(self, pixels: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        views = [pixels[name] for name in self._shown]
        logits: list[Tensor | None] = [None] * len(views)
        features: list[Tensor | None] = [None] * len(views)
        for size in dict.fromkeys(tuple(view.shape[2:]) for view in views):
            alike = [place for place, view in enumerate(views) if tuple(view.shape[2:]) == size]
            images = torch.cat([views[place] for place in alike]) if len(alike) > 1 else views[alike[0]]
            for into, found in zip((logits, features), self.network(images), strict=True):
                for place, own in zip(alike, found.unflatten(0, (len(alike), -1)).unbind(0), strict=True):
                    into[place] = own
        logits_VBC = torch.stack([one for one in logits if one is not None])
        features_BE = torch.stack([one for one in features if one is not None]).mean(0)
        p_VBC = logits_VBC.softmax(2)
        p_BC = p_VBC[0] if len(views) == 1 else voted(p_VBC.unbind(0), self._rule).float()
        return (p_BC if self._order is None else p_BC[:, self._order]), logits_VBC, features_BE


class Answer(nn.Module):
    """All models of a run, or of several, as one function of photos' pixels, uint8 (B, H, W, 3) of upright RGB photos
    of one size: probabilities (B, C), float32, in the order of `classes`.

    `shown` and `asks` say what lies between. Raises RecipeError for what a graph cannot say, with the remedy.
    """

    def __init__(self, models: Models, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if models.recipe.predict.prior == "estimate":
            raise RecipeError(
                "predict.prior = estimate: shares are estimated from the answers to all images, and a file answers "
                "about each by itself; give the shares, or --set predict.prior=off"
            )
        self.classes = models.classes
        self.asks: list[Asks] = []
        self.photos = Photos()
        self.runs = nn.ModuleList(_Run(run, self, dtype) for run in models.runs)
        self._rule, self._weights = models.recipe.ensemble.vote, [run.weight for run in models.runs]
        self.joined = None if models.parts.join is None else Joined(models.parts.join, self._rule, self.classes)
        self.finished = Finished(models.parts, None, self.classes)
        prior = models.recipe.predict.prior
        self.shifted = None
        if not isinstance(prior, str):
            self.shifted = Shifted(shares_of(models, self.classes), [prior[name] for name in self.classes])

    @property
    def shown(self) -> list[Prepared]:
        return self.photos.shown

    @property
    def names(self) -> list[str]:
        """Of what `between` gives out, in order."""
        return ["probabilities", *(one.name for one in self.shown), *(one.logits for one in self.asks)]

    def forward(self, images_BHW3: Tensor) -> Tensor:
        return self.between(images_BHW3)[0]

    def between(self, images_BHW3: Tensor) -> tuple[Tensor, ...]:
        """The probabilities, and what lies on the way to them: see `names`."""
        pixels, logits = self.photos(images_BHW3), {}
        answers = [run(pixels, logits) for run in self.runs]
        if len(answers) == 1:
            answer_BC = answers[0]
        else:
            joined = self.joined
            answer_BC = together(answers, self._rule, self._weights) if joined is None else joined(answers)
            answer_BC = self.finished(answer_BC, ())
        answer_BC = answer_BC if self.shifted is None else self.shifted(answer_BC)
        return answer_BC.float(), *pixels.values(), *(logits[one.logits] for one in self.asks)

    def add(self, name: str, saved: Checkpoint, run: RunModels, classes: Sequence[str], dtype: torch.dtype) -> Any:
        """A model of the run, whose answer has columns `classes`, as a step of the graph, and its logits' name."""
        member = Member.restored(saved, CPU)
        shown = [self.photos.name(member.contract, view) for view in views_of(run.recipe.predict)]
        asks = Asks(name, f"logits_{len(self.asks)}", member.classes, tuple(shown))
        self.asks.append(asks)
        return Answering(member, run.recipe.ensemble.vote, shown, classes, dtype), asks.logits


class _Run(nn.Module):
    """What the models of one run answer together, as `_AskingRun` has it."""

    def __init__(self, run: RunModels, whole: Answer, dtype: torch.dtype) -> None:
        super().__init__()
        classes, rule = whole.classes, run.recipe.ensemble.vote
        self._rule, self._folds = rule, run.folds
        self._weights = [float(len(places)) for places in run.folds]
        members = [
            whole.add(f"{run.name}{member.name}", saved, run, classes, dtype)
            for member, saved in zip(run.members, run.checkpoints, strict=True)
        ]
        self._logits = [logits for _, logits in members]
        self.members = nn.ModuleList(member for member, _ in members)
        self.joined = Joined(run.parts.join, rule, classes)
        self.panel = nn.ModuleList(_Panelist(one, run, whole, dtype) for one in run.specialists)
        banks = [bank_of(folder) if run.parts.neighbours else None for folder in run.fold_folders]
        self.finished = nn.ModuleList(Finished(run.parts, bank, classes) for bank in banks)

    def forward(self, pixels: dict[str, Tensor], logits: dict[str, Tensor]) -> Tensor:
        alone, features = [], []
        for member, name in zip(self.members, self._logits, strict=True):
            answer_BC, logits[name], features_BE = member(pixels)
            alone.append(answer_BC)
            features.append(features_BE)
        folds = []
        for number, (own, finished) in enumerate(zip(self._folds, self.finished, strict=True)):
            candidates = [alone[place] for place in own]
            answer_BC = folded(candidates, self._rule) if len(own) == 1 else self.joined(candidates)
            for panelist in self.panel:
                answer_BC = panelist(number, answer_BC, pixels, logits)
            folds.append(finished(answer_BC, [features[place] for place in own]))
        return together(folds, self._rule, self._weights)


class _Panelist(nn.Module):
    """A specialist, which each fold hears by its own models of it."""

    def __init__(self, asked: Asked, run: RunModels, whole: Answer, dtype: torch.dtype) -> None:
        super().__init__()
        one = asked.specialist
        self._rule = run.recipe.ensemble.vote
        folds = zip(run.fold_folders, asked.folds, strict=True)
        voters = [
            [
                whole.add(f"{run.name}{one.name}/{fold.name}/{k}", saved, run, one.answers, dtype)
                for k, saved in enumerate(own)
            ]
            for fold, own in folds
        ]
        self._logits = [[logits for _, logits in own] for own in voters]
        self.folds = nn.ModuleList(nn.ModuleList(member for member, _ in own) for own in voters)
        self.heard = Heard(one, whole.classes)

    def forward(self, fold: int, main_BC: Tensor, pixels: dict[str, Tensor], logits: dict[str, Tensor]) -> Tensor:
        answers = []
        for member, name in zip(self.folds[fold], self._logits[fold], strict=True):
            answer_BS, logits[name], _ = member(pixels)
            answers.append(answer_BS)
        return self.heard(main_BC, folded(answers, self._rule))
