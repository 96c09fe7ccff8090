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
from pathlib import Path

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


class Views(nn.Module):
    """A network asked about several views of the same photos: images (B, 3, h, w) each, of sizes that may differ, to
    logits (V, B, C) and the mean of their features (B, E)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, *views: Tensor) -> tuple[Tensor, Tensor]:
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for size in dict.fromkeys(tuple(view.shape[2:]) for view in views):
            alike = [place for place, view in enumerate(views) if tuple(view.shape[2:]) == size]
            images = torch.cat([views[place] for place in alike]) if len(alike) > 1 else views[alike[0]]
            each = (values.unflatten(0, (len(alike), -1)).unbind(0) for values in self.network(images))
            found |= dict(zip(alike, zip(*each, strict=True), strict=True))
        logits, features = zip(*(found[place] for place in range(len(views))), strict=True)
        return torch.stack(logits), torch.stack(features).mean(0)


class Answer(nn.Module):
    """All models of a run, or of several, as one function of photos' pixels, uint8 (B, H, W, 3) of upright RGB photos
    of one size: probabilities (B, C), float32, in the order of `classes`.

    Three steps: `photos` prepares pixels, `networks` look at them, `together` makes one answer of what they say.
    `shown` and `asks` say what is handed from one to the next. Raises RecipeError for what a graph cannot say, with the
    remedy.
    """

    def __init__(self, models: Models, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.classes = models.classes
        self.asks: list[Asks] = []
        self.photos = Photos()
        self.networks = nn.ModuleList()
        self._dtype = dtype
        self.together = Together(models, self)

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
        pixels = self.photos(images_BHW3)
        said = [
            network(*(pixels[name] for name in asks.shown))
            for asks, network in zip(self.asks, self.networks, strict=True)
        ]
        logits, features = zip(*said, strict=True)
        return self.together(logits, features), *pixels.values(), *logits

    def add(self, name: str, saved: Checkpoint, run: RunModels) -> int:
        """A model of the run as a step of the graph; returns its place among `networks`."""
        member = Member.restored(saved, CPU)
        shown = [self.photos.name(member.contract, view) for view in views_of(run.recipe.predict)]
        self.asks.append(Asks(name, f"logits_{len(self.asks)}", member.classes, tuple(shown)))
        self.networks.append(Views(Network(member.model, self._dtype)))
        return len(self.networks) - 1


Said = Sequence[Tensor]
"""Of each network in turn: logits (V, B, C), or features (B, E)."""


class Together(nn.Module):
    """What networks say to one answer, (B, C) float32, as `Asking` has it."""

    def __init__(self, models: Models, answer: Answer) -> None:
        super().__init__()
        if models.recipe.predict.prior == "estimate":
            raise RecipeError(
                "predict.prior = estimate: shares are estimated from the answers to all images, and a file answers "
                "about each by itself; give the shares, or --set predict.prior=off"
            )
        names = names_of(models)
        self.runs = nn.ModuleList(_Run(run, answer, name) for run, name in zip(models.runs, names, strict=True))
        self._rule, self._weights = models.recipe.ensemble.vote, [run.weight for run in models.runs]
        self.joined = None if models.parts.join is None else Joined(models.parts.join, self._rule, models.classes)
        self.finished = Finished(models.parts, None, models.classes)
        prior = models.recipe.predict.prior
        self.shifted = None
        if not isinstance(prior, str):
            self.shifted = Shifted(shares_of(models, models.classes), [prior[name] for name in models.classes])

    def forward(self, logits: Said, features: Said) -> Tensor:
        answers = [run(logits, features) for run in self.runs]
        answer_BC = answers[0]
        if len(answers) > 1:
            joined = self.joined
            answer_BC = together(answers, self._rule, self._weights) if joined is None else joined(answers)
            answer_BC = self.finished(answer_BC, ())
        return (answer_BC if self.shifted is None else self.shifted(answer_BC)).float()


def names_of(models: Models) -> list[str]:
    """What stands before the names of each run's models: "" of one run alone, else its folder's own name. Where that
    folder lies is nobody's business who gets the file."""
    if len(models.runs) == 1:
        return [""]
    own = [Path(run.name).name or "run" for run in models.runs]
    return [f"{name}-{place}/" if own.count(name) > 1 else f"{name}/" for place, name in enumerate(own)]


class _Member(nn.Module):
    """One model's logits (V, B, C) to its probabilities (B, C), float32, their columns those of `classes`."""

    def __init__(self, own: Sequence[str], rule: Rule, classes: Sequence[str]) -> None:
        super().__init__()
        self._rule, order = rule, places(own, classes)
        self._order = None if order == sorted(order) else order

    def forward(self, logits_VBC: Tensor) -> Tensor:
        p_VBC = logits_VBC.softmax(2)
        p_BC = p_VBC[0] if len(p_VBC) == 1 else voted(p_VBC.unbind(0), self._rule).float()
        return p_BC if self._order is None else p_BC[:, self._order]


class _Run(nn.Module):
    """What the models of one run answer together, as `_AskingRun` has it."""

    def __init__(self, run: RunModels, answer: Answer, name: str) -> None:
        super().__init__()
        classes, rule = answer.classes, run.recipe.ensemble.vote
        self._rule, self._folds = rule, run.folds
        self._weights = [float(len(own)) for own in run.folds]
        self._asked = [
            answer.add(f"{name}{member.name}", saved, run)
            for member, saved in zip(run.members, run.checkpoints, strict=True)
        ]
        self.members = nn.ModuleList(_Member(saved.classes, rule, classes) for saved in run.checkpoints)
        self.joined = Joined(run.parts.join, rule, classes)
        self.panel = nn.ModuleList(_Panelist(one, run, answer, name) for one in run.specialists)
        banks = [bank_of(folder) if run.parts.neighbours else None for folder in run.fold_folders]
        self.finished = nn.ModuleList(Finished(run.parts, bank, classes) for bank in banks)

    def forward(self, logits: Said, features: Said) -> Tensor:
        alone = [member(logits[place]) for member, place in zip(self.members, self._asked, strict=True)]
        folds = []
        for number, (own, finished) in enumerate(zip(self._folds, self.finished, strict=True)):
            candidates = [alone[place] for place in own]
            answer_BC = folded(candidates, self._rule) if len(own) == 1 else self.joined(candidates)
            for panelist in self.panel:
                answer_BC = panelist(number, answer_BC, logits)
            folds.append(finished(answer_BC, [features[self._asked[place]] for place in own]))
        return together(folds, self._rule, self._weights)


class _Panelist(nn.Module):
    """A specialist, which each fold hears by its own models of it."""

    def __init__(self, asked: Asked, run: RunModels, answer: Answer, name: str) -> None:
        super().__init__()
        one = asked.specialist
        self._rule = run.recipe.ensemble.vote
        self._folds = [
            [answer.add(f"{name}{one.name}/{fold.name}/{k}", saved, run) for k, saved in enumerate(own)]
            for fold, own in zip(run.fold_folders, asked.folds, strict=True)
        ]
        own = asked.folds[0][0].classes
        self.member = _Member(own, self._rule, one.answers)
        self.heard = Heard(one, answer.classes)

    def forward(self, fold: int, main_BC: Tensor, logits: Said) -> Tensor:
        answers = [self.member(logits[place]) for place in self._folds[fold]]
        return self.heard(main_BC, folded(answers, self._rule))
