"""What goes wrong between a file and its answers elsewhere, recognised by the answers.

Each known fault is planted on purpose: the file's own networks answer about the proof's photos as they would be read
with it, and somebody's answers are compared with all of these. It is how a person would find it, without the evenings.
What the answers are alike to says what is wrong, and no log or source of the other side is needed.

A fault in reading is imitated and seldom to the last bit: libraries round in their own ways. So the nearest imitation
counts, where it explains most of the difference and no other does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.export import readings as read
from engine.export.proof import Between, Proof, Shown, Steps, softmax
from engine.export.stages import ANSWER, Stages, Values
from engine.text import some

Answers = NDArray[np.float64]  # (N, C)

DECODER, ORIENTATION, CHANNELS, RESIZE, NORMALISATION = (
    "decoder",
    "orientation",
    "channel order",
    "resize",
    "normalisation",
)
LAYOUT, CLASSES, CALIBRATION, OUTPUT, MODELS, VIEWS = (
    "layout",
    "class order",
    "temperature",
    "output",
    "models",
    "views",
)
PHOTOS = "photos"

_EXPLAINS = 0.25  # of the difference, this much at most may be left
_APART = 1.5  # and others leave so many times as much
_MORE = 1.3  # by which a second fault has to be better than none
_ALIKE = 1e-4  # of the total variation: nobody can tell


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A fault of deployments that is known. stage: where it happens; words: what was done; remedy: what to do."""

    name: str
    stage: str
    words: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What somebody's answers come from. faults: those together; other: the names of others that would answer alike.
    left: the highest difference of a probability to what they would answer; exact: it is within the tolerance."""

    faults: tuple[Mistake, ...]
    left: float
    exact: bool
    other: tuple[str, ...] = ()


_FILE = "give the file whole photos: it fits, resizes and normalises itself"
_PASS = "resize with antialiasing by the contract's filter in floating point, or give the file whole photos"

DECODINGS: dict[Mistake, read.Decoding] = {
    Mistake("BGR", CHANNELS, "red and blue are swapped, as OpenCV decodes", "cv2.cvtColor(image, cv2.COLOR_BGR2RGB)"): (
        read.bgr
    ),
    Mistake(
        "EXIF ignored", ORIENTATION, "photos are not turned as EXIF says", "PIL.ImageOps.exif_transpose(image)"
    ): read.as_stored,
    Mistake(
        "EXIF backwards", ORIENTATION, "photos are turned the wrong way round", "PIL.ImageOps.exif_transpose(image)"
    ): read.turned_wrongly,
    Mistake("gray", CHANNELS, "photos are read without colour", 'image.convert("RGB"), or cv2.IMREAD_COLOR'): read.gray,
    Mistake("mirrored", ORIENTATION, "left and right are swapped", "leave out the flip"): read.mirrored,
    Mistake("upside down", ORIENTATION, "top and bottom are swapped", "leave out the flip"): read.upside_down,
    Mistake(
        "transposed", LAYOUT, "rows are taken for columns", "photos are (height, width, 3), rows first"
    ): read.transposed,
    Mistake(
        "fast DCT",
        DECODER,
        "JPEGs are decoded by the fast and rough transform",
        'tf.io.decode_jpeg(..., dct_method="INTEGER_ACCURATE"), or another decoder',
    ): read.by_fast_dct,
    Mistake(
        "compressed again", DECODER, "photos are compressed anew on the way, with loss", "pass files on as they came"
    ): read.compressed_again,
}

_PILLOW = {
    "bilinear": read.BILINEAR,
    "bicubic": read.BICUBIC,
    "Lanczos": read.LANCZOS,
    "box": read.BOX,
    "nearest": read.NEAREST,
}


def _resizes(between: Between) -> dict[Mistake, read.Reading]:
    """Other ways to what networks are shown, for whoever prepares photos without the file's graph."""
    contracts = [one.contract for one in between.shown]
    fits, crops = {one.fit for one in contracts}, {one.crop for one in contracts if one.fit == "center"}
    found: dict[Mistake, read.Reading] = {}
    for name, filter in _PILLOW.items():
        words = f"resized by Pillow's {name} filter, to whole pixels"
        found[Mistake(f"PIL {name}", RESIZE, words, _PASS)] = read.in_whole_pixels(read.pillow(filter), in_8_bits=True)
    for mode in ("bilinear", "bicubic"):
        words = f"resized by a {mode} filter without antialiasing, as OpenCV and torch's interpolate do"
        fault = Mistake(f"no antialias, {mode}", RESIZE, words, _PASS)
        found[fault] = read.in_whole_pixels(read.interpolated(mode))
    for fit, crop in (("letterbox", 1.0), ("stretch", 1.0), ("center", 1.0), ("center", 0.875)):
        if fits != {fit} or (fit == "center" and crops != {crop}):
            words = {
                "letterbox": "photos are fitted whole, with borders",
                "stretch": "photos are pulled into shape",
                "center": f"{f'{crop:.3g} of ' if crop < 1 else ''}the middle of photos is cut out",
            }[fit]
            name = f"{fit} {crop:g}" if fit == "center" else fit
            told = "fit as the contract says: " + ", ".join(
                sorted(f"{one.fit} {one.crop:g}" if one.fit == "center" else one.fit for one in contracts)
            )
            found[Mistake(name, RESIZE, words, told)] = read.by_fit(fit, crop)
    if "letterbox" in fits:
        for name, color in (("black", 0.0), ("gray 114", 114 / 255), ("white", 1.0)):
            fault = Mistake(f"{name} borders", RESIZE, f"borders are {name}", "fill borders with the contract's mean")
            found[fault] = read.on_ground(color)
    return found


def _before(between: Between) -> dict[Mistake, read.Decoding]:
    """Photos that were resized before the file was asked."""
    contract = between.shown[0].contract
    size = (contract.height, contract.width)
    found: dict[Mistake, read.Decoding] = {}
    for name in ("bilinear", "bicubic", "nearest"):
        filter = _PILLOW[name]
        words = f"photos are pulled into shape, to {size[0]} x {size[1]} pixels ({name}), before they are fitted"
        found[Mistake(f"stretched before, {name}", RESIZE, words, _FILE)] = read.stretched_before(size, filter)
        words = f"photos are made small ({name}) before they are resized once more"
        found[Mistake(f"small before, {name}", RESIZE, words, _FILE)] = read.made_small_before(size, filter)
    return found


MEANS = {
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "Inception's": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "CLIP's": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "no": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
Scaling = Callable[[NDArray[np.float32], tuple[float, ...], tuple[float, ...]], NDArray[np.float32]]
"""Shares of light (h, w, 3), mean and std to what networks are shown, (3, h, w)."""


def _scalings(between: Between) -> dict[Mistake, Scaling]:
    own = {(one.contract.mean, one.contract.std) for one in between.shown}
    told = "; ".join(f"(x / 255 - {mean}) / {std}" for mean, std in sorted(own))
    found: dict[Mistake, Scaling] = {
        Mistake("[0, 255]", NORMALISATION, "values are not divided by 255", told): (
            lambda x, mean, std: read.normalised(x * 255, mean, std)
        ),
        Mistake("scaled twice", NORMALISATION, "values are divided by 255 twice", told): (
            lambda x, mean, std: read.normalised(x * np.float32(1 / 255), mean, std)
        ),
        Mistake("[0, 255], not normalised", NORMALISATION, "values from 0 to 255 go in as they are", told): (
            lambda x, mean, std: read.normalised(x * 255, (0.0,) * 3, (1.0,) * 3)
        ),
        Mistake("layout", LAYOUT, "(h, w, 3) is reshaped to (3, h, w)", "transpose: image.transpose(2, 0, 1)"): (
            lambda x, mean, std: read.normalised(x, mean, std).transpose(1, 2, 0).reshape(3, *x.shape[:2])
        ),
    }
    for name, (other_mean, other_std) in MEANS.items():
        if (other_mean, other_std) not in own:
            words = f"normalised with {name} mean and std" if name != "no" else "values from 0 to 1 are not normalised"
            fault = Mistake(f"{name} mean and std", NORMALISATION, words, told)
            found[fault] = _with_other(other_mean, other_std)
    return found


def _with_other(mean: tuple[float, ...], std: tuple[float, ...]) -> Scaling:
    return lambda x, own_mean, own_std: read.normalised(x, mean, std)


# --- what follows the networks ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Heard:
    """What networks said about N photos: logits (N, V, C) by name, and the answers of all, (N, C)."""

    logits: dict[str, NDArray[np.float32]]
    answers_NC: Answers

    @classmethod
    def of(cls, values: Sequence[Values]) -> Heard:
        names = [name for name in values[0] if name.startswith("logits_")]
        return cls(
            {name: np.stack([one[name] for one in values]).astype(np.float32) for name in names},
            np.stack([one[ANSWER] for one in values]).astype(np.float64),
        )


_TWICE = Mistake("softmax twice", OUTPUT, "a softmax is taken of what are probabilities", "leave out the softmax")


def afterwards(
    heard: Heard, between: Between, steps: Steps | None, every: bool = False
) -> Iterator[tuple[tuple[Mistake, ...], Answers]]:
    """All that may be made of it: as it should be, which is no fault, and with faults. `every`: also with several of
    them, a part of the models about a part of the views."""
    yield (), heard.answers_NC
    yield (_TWICE,), softmax(heard.answers_NC)
    if steps is None:
        return
    plain = Mistake("not calibrated", CALIBRATION, "the temperature is left out", "divide logits as the export does")
    kinds: list[tuple[tuple[Mistake, ...], bool]] = [((), True)]
    if steps.parts.calibration is not None:
        kinds.append(((plain,), False))
        own_NC = steps.answer(heard.logits, between, calibrated=False)
        yield (plain,), own_NC
        yield (plain, _TWICE), softmax(own_NC)
    for part in _parts(between, steps, every):
        for before, calibrated in kinds:
            yield (*part.faults, *before), part.steps.answer(heard.logits, between, part.views, part.folds, calibrated)


@dataclasses.dataclass(frozen=True)
class _Part:
    """A part of the models and views alone: of all there are where `views` or `folds` are ()."""

    faults: tuple[Mistake, ...]
    steps: Steps
    views: tuple[int, ...] = ()
    folds: tuple[int, ...] = ()


def _parts(between: Between, steps: Steps, every: bool) -> Iterator[_Part]:
    folds, epochs, views = _of_folds(between, steps), _of_epochs(steps), _of_views(between, steps)
    for fold in folds:
        for epoch in epochs:
            for view in views:
                faults = (*fold.faults, *epoch.faults, *view.faults)
                if len(faults) == 1 or (every and faults):
                    yield _Part(faults, epoch.steps, view.views, fold.folds)
    if steps.vote == "soft" and steps.parts.join is None and (len(views) > 1 or sum(map(len, steps.folds)) > 1):
        told = "logits are averaged in place of probabilities"
        fault = Mistake("mean of logits", OUTPUT, told, "take each softmax, then the mean")
        yield _Part((fault,), dataclasses.replace(steps, vote="logit"))


def _of_folds(between: Between, steps: Steps) -> list[_Part]:
    """All folds, and each alone."""
    found = [_Part((), steps)]
    for number, names in enumerate(steps.folds if len(steps.folds) > 1 else ()):
        model = next(one.model for one in between.asked if one.logits == names[0])
        name = model.partition("/epoch_")[0]
        fault = Mistake(f"fold {name} alone", MODELS, f"one fold ({name}) answers alone", "average all folds")
        found.append(_Part((fault,), steps, folds=(number,)))
    return found


def _of_epochs(steps: Steps) -> list[_Part]:
    """All kept epochs of a fold, and each alone."""
    found, most = [_Part((), steps)], max(map(len, steps.folds))
    for place in range(most) if most > 1 and steps.parts.join is None else ():
        folds = tuple((names[min(place, len(names) - 1)],) for names in steps.folds)
        told = f"of the epochs that were kept, number {place + 1} answers alone"
        fault = Mistake(f"epoch {place + 1} alone", MODELS, told, "average the kept epochs of a fold")
        found.append(_Part((fault,), dataclasses.replace(steps, folds=folds)))
    return found


def _of_views(between: Between, steps: Steps) -> list[_Part]:
    """All views, each alone, and all but one."""
    names = [one.view.name for one in _views(between)]
    found, remedy = [_Part((), steps)], f"average the views {', '.join(names)}"
    for place, name in enumerate(names if len(names) > 1 else ()):
        fault = Mistake(f"view {name} alone", VIEWS, f"the view {name} is asked about alone", remedy)
        found.append(_Part((fault,), steps, views=(place,)))
        if len(names) > 2:
            rest = tuple(other for other in range(len(names)) if other != place)
            fault = Mistake(f"without view {name}", VIEWS, f"the view {name} is left out", remedy)
            found.append(_Part((fault,), steps, views=rest))
    return found


def _views(between: Between) -> list[Shown]:
    by_name = {one.name: one for one in between.shown}
    return [by_name[name] for name in between.asked[0].shown]


# --- their form ------------------------------------------------------------------------------------------------------


def as_probabilities(theirs_NC: Answers) -> tuple[Answers, Mistake | None]:
    """Answers in another form as probabilities, and which form that is."""
    sums_N = theirs_NC.sum(1)
    if (theirs_NC >= 0).all() and np.allclose(sums_N, 1, atol=5e-3):
        told = Mistake("labels alone", OUTPUT, "the likeliest class is given alone", "give out all probabilities")
        return theirs_NC, told if _are_labels(theirs_NC) else None
    if (theirs_NC >= 0).all() and np.allclose(sums_N, 100, atol=0.5):
        return theirs_NC / 100, Mistake("per cent", OUTPUT, "answers are in per cent", "divide by 100")
    if (theirs_NC <= 1e-6).all() and np.allclose(np.exp(theirs_NC).sum(1), 1, atol=5e-3):
        return np.exp(theirs_NC), Mistake("logarithms", OUTPUT, "answers are logarithms of probabilities", "take exp")
    if (theirs_NC >= 0).all() and (theirs_NC <= 1).all():
        odds_NC = np.log(theirs_NC.clip(1e-9, 1 - 1e-9)) - np.log1p(-theirs_NC.clip(1e-9, 1 - 1e-9))
        told = Mistake("sigmoid", OUTPUT, "a sigmoid is taken in place of the softmax", "take the softmax of a row")
        return softmax(odds_NC), told
    return softmax(theirs_NC), Mistake("logits", OUTPUT, "answers are logits", "take the softmax of a row")


def _are_labels(theirs_NC: Answers) -> bool:
    return bool(((theirs_NC == 0) | (theirs_NC == 1)).all())


def in_another_order(theirs_NC: Answers, ours_NC: Answers, tolerance_N: NDArray[np.float64]) -> list[int] | None:
    """Which of our columns each of theirs holds, where that explains them and no column stands in its place otherwise;
    None where it does not, or nothing is exchanged."""
    from scipy.optimize import linear_sum_assignment

    tolerance_N11 = tolerance_N[:, None, None]
    cost_CC = (np.abs(theirs_NC[:, :, None] - ours_NC[:, None, :]) / tolerance_N11).max(0)
    columns = linear_sum_assignment(cost_CC)[1].tolist()
    own = np.arange(len(columns))
    # Of columns that are alike nobody can tell which is which: they stay.
    columns = [int(c) if cost_CC[k, k] > 1 else k for k, c in zip(own.tolist(), columns, strict=True)]
    apart_N = np.abs(theirs_NC - ours_NC[:, columns]).max(1)
    fits = sorted(columns) == own.tolist() and bool((apart_N <= tolerance_N).all())
    return columns if fits and columns != own.tolist() else None


def order_fault(columns: Sequence[int], classes: Sequence[str]) -> Mistake:
    """Classes in another order, with what that order is."""
    held = [classes[column] for column in columns]
    known = {
        "sorted by name": sorted(classes),
        "sorted by name, capitals as small letters": sorted(classes, key=str.casefold),
        "from the last to the first": list(classes[::-1]),
    }
    # They call our column k by the name that stands k-th in their list.
    theirs = [""] * len(classes)
    for name, column in zip(classes, columns, strict=True):
        theirs[column] = name
    how = next((f" ({told})" for told, names in known.items() if names == theirs), "")
    moved = [f"{name!r} holds {other!r}" for name, other in zip(classes, held, strict=True) if name != other]
    return Mistake(
        "class order",
        CLASSES,
        f"classes are listed in another order{how}: {some(moved, 3, str)}",
        'take the names from the file: json.loads(metadata["engine"])["classes"]',
    )


# --- the search ------------------------------------------------------------------------------------------------------

Told = Callable[[int, int], None]
Candidate = tuple[tuple[Mistake, ...], Answers]


def diagnose(
    theirs_NC: Answers, proof: Proof, between: Between, planted: Iterable[tuple[Heard, Mistake]]
) -> Diagnosis | None:
    """What `theirs_NC`, answers about the proof's photos with columns as the file's classes, come from; None when
    nothing known explains them. planted: see there; it is gone through only where what follows the networks explains
    nothing."""
    right = Heard(dict(proof.logits), proof.probabilities_NC.astype(np.float64))
    if (found := _of_rounding(theirs_NC, right.answers_NC, proof.tolerance_N)) is not None:
        return found
    theirs_NC, form = as_probabilities(theirs_NC)
    if form is not None and form.name == "labels alone":
        return _of_labels(theirs_NC, right, form)
    search = _Search(theirs_NC, right.answers_NC, proof.tolerance_N, between.classes)
    search.hear(afterwards(right, between, proof.steps, every=True), ordered=True)
    if not search.found:
        for heard, fault in planted:
            search.hear(((fault, *after), answers) for after, answers in afterwards(heard, between, proof.steps))
    found = search.best()
    return None if found is None else dataclasses.replace(found, faults=(*([form] if form else ()), *found.faults))


def _of_rounding(theirs_NC: Answers, right_NC: Answers, tolerance_N: NDArray[np.float64]) -> Diagnosis | None:
    """Right answers of which too few digits are given."""
    apart_NC = np.abs(theirs_NC - right_NC)
    for digits in () if _are_labels(theirs_NC) else (1, 2, 3):
        if (theirs_NC.round(digits) == theirs_NC).all() and (apart_NC <= tolerance_N[:, None] + 0.5 / 10**digits).all():
            told = f"answers are right, and rounded to {digits} digit{'s' if digits > 1 else ''}"
            return Diagnosis((Mistake("rounded", OUTPUT, told, "give out all digits"),), float(apart_NC.max()), True)
    return None


def _of_labels(theirs_NC: Answers, right: Heard, form: Mistake) -> Diagnosis | None:
    alike = (theirs_NC.argmax(1) == right.answers_NC.argmax(1)).all()
    return Diagnosis((form,), 0.0, True) if alike else None


@dataclasses.dataclass(frozen=True)
class _Seen:
    """A candidate: how far it is from somebody's answers by the mean total variation, and by the highest difference of
    a probability; whether each photo's is within its tolerance."""

    faults: tuple[Mistake, ...]
    distance: float
    left: float
    exact: bool


class _Search:
    """Keeps how far each candidate is from somebody's answers."""

    def __init__(
        self, theirs_NC: Answers, right_NC: Answers, tolerance_N: NDArray[np.float64], classes: Sequence[str]
    ) -> None:
        self._theirs, self._tolerance_N, self._classes = theirs_NC, tolerance_N, classes
        self._whole = _distance(theirs_NC, right_NC)
        self._seen: list[_Seen] = []

    @property
    def found(self) -> bool:
        return any(one.exact for one in self._seen)

    def hear(self, candidates: Iterable[Candidate], ordered: bool = False) -> None:
        """`ordered`: whether their classes may stand in another order, too."""
        for faults, answers_NC in candidates:
            seen = self._see(faults, answers_NC)
            if ordered and not seen.exact:
                columns = in_another_order(self._theirs, answers_NC, self._tolerance_N)
                if columns is not None:
                    self._see((order_fault(columns, self._classes), *faults), answers_NC[:, columns])

    def _see(self, faults: tuple[Mistake, ...], answers_NC: Answers) -> _Seen:
        apart_N = np.abs(self._theirs - answers_NC).max(1)
        exact = bool((apart_N <= self._tolerance_N).all())
        seen = _Seen(faults, _distance(self._theirs, answers_NC), float(apart_N.max()), exact)
        self._seen.append(seen)
        return seen

    def best(self) -> Diagnosis | None:
        """Of those that fit the one with the fewest faults, the nearest first; else the nearest, where it explains most
        of the difference, and none of another stage does as well."""
        exact = sorted((one for one in self._seen if one.exact), key=lambda one: (len(one.faults), one.distance))
        if exact:
            best = exact[0]
            alike = [one for one in exact[1:] if len(one.faults) == len(best.faults)]
            return Diagnosis(best.faults, best.left, True, _names(alike, best))
        near = sorted(self._seen, key=lambda one: one.distance * _MORE ** len(one.faults))
        best = near[0]
        if not best.faults or best.distance > _EXPLAINS * self._whole:
            return None
        alike = [one for one in near[1:] if one.faults and one.distance <= _APART * best.distance]
        if any(one.faults[0].stage != best.faults[0].stage for one in alike):
            return None
        return Diagnosis(best.faults, best.left, False, _names(alike, best))


def _names(seen: Sequence[_Seen], best: _Seen) -> tuple[str, ...]:
    """Those that come out as well, but for more of the same: a tolerance is wide for what is told apart by less."""
    own = set(best.faults)
    alike = [one for one in seen if one.distance <= max(_APART * best.distance, _ALIKE) and not own <= {*one.faults}]
    return tuple(dict.fromkeys(" + ".join(fault.name for fault in one.faults) for one in alike))[:3]


def _distance(a_NC: Answers, b_NC: Answers) -> float:
    """The mean total variation."""
    return float(np.abs(a_NC - b_NC).sum(1).mean() / 2)


def planted(
    proof: Proof, stages: Stages, between: Between, told: Told = lambda done, total: None
) -> Iterator[tuple[Heard, Mistake]]:
    """What the networks say about the photos with each fault in reading them."""
    decodings = DECODINGS | _before(between)
    resizes, scalings = _resizes(between), _scalings(between)
    total = len(decodings) + len(resizes) + len(scalings)
    uprights = [read.upright(shot.content) for shot in proof.shots]
    right = [stages.run(pixels) for pixels in uprights]
    done = 0
    for fault, decoded in decodings.items():
        yield Heard.of(_of_pixels(stages, proof, decoded, uprights, right)), fault
        told(done := done + 1, total)
    for fault, reading in resizes.items():
        prepared = [{one.name: reading(pixels, one) for one in between.shown} for pixels in uprights]
        yield Heard.of(stages.rest(prepared)), fault
        told(done := done + 1, total)
    for fault, scaling in scalings.items():
        prepared = [
            {
                one.name: scaling(
                    read.shares(values[one.name].astype(np.float32), one), one.contract.mean, one.contract.std
                )
                for one in between.shown
            }
            for values in right
        ]
        yield Heard.of(stages.rest(prepared)), fault
        told(done := done + 1, total)


def _of_pixels(
    stages: Stages, proof: Proof, decoded: read.Decoding, uprights: Sequence[read.Pixels], right: Sequence[Values]
) -> list[Values]:
    """Photos that come out alike are not asked about again."""
    found = []
    for shot, upright, own in zip(proof.shots, uprights, right, strict=True):
        pixels = decoded(shot.content)
        same = pixels.shape == upright.shape and np.array_equal(pixels, upright)
        found.append(own if same else stages.run(pixels))
    return found
