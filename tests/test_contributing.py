"""What can be added to the engine is known in every place where it must be, and CONTRIBUTING.md names these places.

Every test goes through all there are of a kind, so one that is new fails here, with the places that lack it, until the
last of them has it. A place is asked by running it where that is cheap, and looked up in the source where it is not:
whether all executors *agree* about an operation is for tests/kernels, which draw operations from the same enumeration.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from engine.augment.policy import Policy
from engine.cli.infer import infer
from engine.ensemble.vote import RULES, blend
from engine.kernels import Border, Color, Fill, Filter, Plan, Ragged, cpu_pass, one_pass
from engine.kernels.reference import reference_pass
from engine.loader.kornia_pass import kornia_pass
from engine.metrics import METRICS, better
from engine.model import heads, losses
from engine.model.build import build_model
from engine.model.losses import build_loss
from engine.quarantine import Fault
from engine.recipe import schema
from engine.recipe.load import parse_recipe

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from architecture import House  # noqa: E402

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
QUOTED = sorted(set(re.findall(r"`([^`]+)`", PAGE)))

PLACES = [name for name in QUOTED if re.fullmatch(r"(engine|kernels|tests|docs|benchmarks)/[\w./:]*", name)]

Known = Mapping[str, set[str]]  # what each place knows, by name


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def mentioned(path: str, names: Iterable[str], pattern: str = r"\b{}\b") -> set[str]:
    """Which of these names a test file (or the files of a folder of tests) speaks of."""
    files = sorted((ROOT / path).rglob("test_*.py")) if (ROOT / path).is_dir() else [ROOT / path]
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return {name for name in names if re.search(pattern.format(re.escape(name)), source)}


def lacking(name: str, known: Known) -> str:
    """The places that do not know `name`, as a message; "" when all do."""
    places = [place for place, names in known.items() if name not in names]
    return f"{name} is not known in: {'; '.join(places)}. See CONTRIBUTING.md" if places else ""


def key(path: str) -> schema.Key:
    found = schema.find(tuple(path.split(".")))
    assert found is not None, path
    return found


def choices(path: str) -> list[str]:
    """What a key of the recipe may be: the words of its Literal."""
    return re.findall(r'"([^"]+)"', key(path).type)


def described(path: str) -> set[str]:
    """Those of a key's choices that its description, and so docs/recipes.md, says something about."""
    return {name for name in choices(path) if re.search(rf"\b{name}\b", key(path).description)}


# --- colour operations ------------------------------------------------------------------------------------------------

OPERATIONS = [op for op in Color if op is not Color.NONE]
ARGUMENTS = (0.0, 0.3, 1.0)  # one of these changes a picture, whatever the operation


def changed_by(run: Callable[[Ragged, Plan], torch.Tensor]) -> set[str]:
    """Operations that, run alone, make something else of a picture than no operation does."""
    steps = [(op, arg) for op in Color for arg in ARGUMENTS]
    side = 6
    picture = torch.randint(0, 256, (side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plan = Plan(
        height=side,
        width=side,
        matrix_B33=torch.eye(3).repeat(len(steps), 1, 1),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        color_op_BK=torch.tensor([[op] for op, _ in steps], dtype=torch.int32),
        color_arg_BK=torch.tensor([[arg] for _, arg in steps]),
    )
    out_BCHW = run(Ragged([picture] * len(steps)), plan)
    return {op.name for (op, _), image in zip(steps, out_BCHW, strict=True) if (image - out_BCHW[0]).abs().max() > 0.01}


def drawn_by_a_recipe() -> set[str]:
    """Operations in the plan of a recipe that sets every chance of its augment section to 1."""
    chances: dict[str, Any] = {}
    for found in schema.walk():
        if found.path[0] == "augment" and len(found.path) == 3 and found.default == 0.0:
            chances.setdefault(str(found.path[1]), {})[found.path[2]] = 1.0
    stage = {"size": 8, "batch": 4, "epochs": 1, "lr": 1e-3}
    section = parse_recipe({"augment": {**chances, "policy": {"kind": "none"}}, "stage": [stage]}).augment
    plan = Policy(section, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)).draw(
        torch.arange(8), torch.tensor([[9, 9]] * 8, dtype=torch.int32), 8, 8, seed=0, epoch=0
    )
    return {Color(code).name for code in plan.color_op_BK.unique().tolist()}


def handled_by_triton() -> set[str]:
    """Operations that `_color` of triton_pass.py has a branch for: it compares with a constant of the name."""
    (function,) = (
        node
        for node in ast.parse(text("kernels/triton_pass.py")).body
        if isinstance(node, ast.FunctionDef) and node.name == "_color"
    )
    names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    return {op.name for op in OPERATIONS if f"_{op.name}" in names}


@cache
def places_of_a_color_operation() -> Known:
    names = [op.name for op in OPERATIONS]
    known = {
        "kernels/reference.py (color_step)": changed_by(reference_pass),
        "kernels/cpu_pass.h (enum Color)": set(codes_of_the_compiled_pass(Color)),
        "kernels/cpu_pass_level.h (color_step)": set(re.findall(r"case (\w+):", text("kernels/cpu_pass_level.h"))),
        "kernels/triton_pass.py (_color)": handled_by_triton(),
        "engine/loader/kornia_pass.py (_colored)": changed_by(kornia_pass),
        "engine/augment/color.py (drawn, for a key in engine/recipe/sections/augment.py)": drawn_by_a_recipe(),
        "tests/kernels/test_executors.py": mentioned("tests/kernels/test_executors.py", names, r"\bColor\.{}\b"),
        "tests/loader/test_kornia_pass.py": mentioned("tests/loader/test_kornia_pass.py", names, r"\bColor\.{}\b"),
        "tests/augment": mentioned("tests/augment", names, r"\bColor\.{}\b"),
    }
    if cpu_pass.available():
        compiled = changed_by(lambda images, plan: one_pass(images, plan, executor="cpu"))
        known["the compiled pass (build it again: python setup.py build_ext --inplace)"] = compiled
    return known


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.name)
def test_a_color_operation_is_known_in_every_place(op: Color) -> None:
    assert not (message := lacking(op.name, places_of_a_color_operation())), message


def codes_of_the_compiled_pass(enum: type[IntEnum]) -> list[str]:
    """The names in the C++ enum of the same name, in order, without its own name in front, as Fill's have it."""
    found = re.search(rf"enum {enum.__name__} : int32_t {{([^}}]*)}}", text("kernels/cpu_pass.h"))
    assert found, f"kernels/cpu_pass.h has no enum {enum.__name__}"
    return [name.strip().removeprefix(f"{enum.__name__.upper()}_") for name in found[1].split(",")]


@pytest.mark.parametrize("enum", [Filter, Border, Color, Fill])
def test_the_compiled_pass_numbers_its_codes_as_the_plan_does(enum: type[IntEnum]) -> None:
    assert [code.value for code in enum] == list(range(len(enum)))
    assert codes_of_the_compiled_pass(enum) == [code.name for code in enum], "kernels/cpu_pass.h and kernels/plan.py"


# --- heads and losses -------------------------------------------------------------------------------------------------


def by_class(made: Mapping[str, type]) -> dict[str, str]:
    """Names that have a class of their own, and that class's name: of two with one class the first."""
    classes: dict[type, str] = {}
    for name, cls in made.items():
        classes.setdefault(cls, name)
    return {name: cls.__name__ for cls, name in classes.items()}


def test_a_head_is_known_in_every_place() -> None:
    section = schema.section_at(("model",))
    assert section is not None
    small = {"backbone": "test_convnext", "pretrained": False}
    made = by_class(
        {name: type(build_model(section(**small, head=name), 3, (32, 32)).head) for name in choices("model.head")}
    )
    spoken_of = mentioned("tests/model/test_heads.py", made.values())
    known = {
        "engine/model/build.py (build_model: a head of its own)": set(made),
        "engine/recipe/sections/model.py (the description of head)": described("model.head"),
        "tests/model/test_heads.py": {name for name, cls in made.items() if cls in spoken_of},
    }
    assert not (messages := [message for name in choices("model.head") if (message := lacking(name, known))]), messages
    unnamed = {name for name in vars(heads) if name.endswith("Head")} - set(made.values())
    assert not unnamed, f"no value of head in engine/recipe/sections/model.py makes {unnamed}"


def test_a_loss_is_known_in_every_place() -> None:
    model, train = (schema.section_at((name,)) for name in ("model", "train"))
    assert model is not None and train is not None
    rules: dict[str, type] = {}
    for name in choices("train.loss"):
        try:
            rules[name] = type(build_loss(model(), train(loss=name)).rule)
        except UnboundLocalError:  # no case for it
            continue
    made = by_class(rules)
    spoken_of = mentioned("tests/model/test_losses.py", made.values())
    known = {
        "engine/model/losses.py (build_loss: a rule of its own)": set(made),
        "engine/recipe/sections/train.py (the description of loss)": described("train.loss"),
        "tests/model/test_losses.py": {name for name, cls in made.items() if cls in spoken_of},
    }
    assert not (messages := [message for name in choices("train.loss") if (message := lacking(name, known))]), messages
    others = {"Loss", "AngularMargin"}  # what rules are put into
    modules = {
        name
        for name, value in vars(losses).items()
        if isinstance(value, type) and issubclass(value, torch.nn.Module) and value.__module__ == losses.__name__
    }
    unnamed = modules - others - set(made.values())
    assert not unnamed, f"no value of loss in engine/recipe/sections/train.py makes {unnamed}"


@pytest.mark.parametrize("name", sorted(choices("train.loss")))
def test_a_loss_heeds_its_keys_and_label_smoothing_or_refuses_it(name: str) -> None:
    """Its keys are those whose description begins with its name, alone or among others: "focal: how much less"."""
    model, train = (schema.section_at((section,)) for section in ("model", "train"))
    assert model is not None and train is not None

    def loss_B(**keys: float) -> torch.Tensor:
        return build_loss(model(), train(loss=name, **keys)).rule(torch.tensor([[2.0, 0.5, -1.0]]), torch.tensor([0]))

    for key, field in train.model_fields.items():
        names = re.match(r"([\w, ]+): ", field.description or "")
        if key != "loss" and names and name in names[1].split(", "):
            assert not torch.equal(loss_B(), loss_B(**{key: field.default + 0.3})), f"{name} does not heed train.{key}"
    try:
        smooth_B = loss_B(label_smoothing=0.3)
    except ValueError:
        return  # refused
    assert not torch.equal(loss_B(), smooth_B), f"{name} does not heed train.label_smoothing, and the recipe allows it"


# --- metrics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*METRICS, *choices("train.select")}))
def test_a_metric_is_known_in_every_place(name: str) -> None:
    known = {
        "engine/metrics/scores.py (METRICS)": set(METRICS),
        "engine/recipe/sections/train.py (Metric, for select)": set(choices("train.select")),
        "engine/recipe/sections/train.py (Metric, for early_stop)": set(choices("train.early_stop.metric")),
        "tests/test_metrics.py": mentioned("tests/test_metrics.py", [name], r'"{}"'),
    }
    assert not (message := lacking(name, known)), message


@pytest.mark.parametrize("name", METRICS)
def test_a_metrics_direction_prefers_being_right_and_sure(name: str) -> None:
    labels_N = np.arange(1, 8)
    sure_NC, undecided_NC = np.eye(8)[1:], np.full((7, 8), 1 / 8)
    function = METRICS[name].function
    assert better(name, function(sure_NC, labels_N), function(undecided_NC, labels_N))


# --- rules of voting --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_of_voting_is_known_in_every_place(rule: str) -> None:
    voters_KNC = np.random.default_rng(0).dirichlet(np.ones(4), (3, 5))
    answers = {}
    for other in RULES:
        with suppress(ValueError):  # no such rule
            answers[other] = blend(voters_KNC, other)
    twins = [other for other, answer_NC in answers.items() if np.allclose(answer_NC, answers.get(rule, np.nan))]
    (option,) = (option for option in infer.params if option.name == "vote")
    known = {
        "engine/ensemble/vote.py (blend: an answer of its own)": {rule} if twins == [rule] else set(),
        "engine/cli/infer.py (--vote)": set(getattr(option.type, "choices", ())),
        "engine/recipe/sections/ensemble.py (vote)": set(choices("ensemble.vote")),
        "engine/recipe/sections/ensemble.py (the description of vote)": described("ensemble.vote"),
        "tests/ensemble/test_vote.py": mentioned("tests/ensemble/test_vote.py", [rule], r'"{}"'),
    }
    assert not (message := lacking(rule, known)), message


# --- sources ----------------------------------------------------------------------------------------------------------

# Two rows each, of which the second holds nothing: b"photo" and b"".
EXAMPLES: dict[str, Callable[[Any, Path], Any]] = {
    "Files": lambda cls, folder: cls([str(folder / "photo"), str(folder / "empty")]),
    "Memory": lambda cls, folder: cls([b"photo", b""]),
}
SOURCES = {
    name: module.name
    for module in House().modules
    for name, node in module.own.items()
    if module.room == "loader" and isinstance(node, ast.ClassDef) and "Protocol" not in map(ast.unparse, node.bases)
    if {"read", "where"} <= {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_is_known_in_every_place(name: str) -> None:
    known = {
        "tests/loader/test_source.py": mentioned("tests/loader/test_source.py", [name]),
        "tests/test_contributing.py (EXAMPLES)": set(EXAMPLES),
    }
    assert not (message := lacking(name, known)), message


@pytest.mark.parametrize("name", [name for name in SOURCES if name in EXAMPLES])
def test_a_source_answers_every_row_in_the_order_asked_for(name: str, tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(b"photo")
    (tmp_path / "empty").touch()
    source = EXAMPLES[name](getattr(importlib.import_module(SOURCES[name]), name), tmp_path)
    empty, *photos = source.read(np.array([1, 0, 0]))
    assert [bytes(photo) for photo in photos] == [b"photo"] * 2 and isinstance(empty, Fault)
    assert str(empty), "a fault says in words what is wrong"
    assert len(source) == 2 and all(isinstance(source.where(row), str) for row in range(2))


# --- the page and the hooks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLACES)
def test_a_place_that_the_page_names_exists(name: str) -> None:
    path, _, function = name.partition("::")
    assert (ROOT / path).exists()
    if function:
        assert re.search(rf"^def {function}\(", text(path), re.MULTILINE)


def test_the_page_names_every_test_of_a_kind() -> None:
    named = {name.partition("::")[2] for name in QUOTED if name.startswith("tests/test_contributing.py::")}
    kinds = set(re.findall(r"^def (test_an?_\w+_is_known_in_every_place)\(", text("tests/test_contributing.py"), re.M))
    assert named == kinds and len(kinds) == 6


def test_the_hooks_run_what_make_test_runs() -> None:
    makefile = re.search(r"^test: .*\n((?:\t.*\n)+)", text("Makefile"), re.MULTILINE)
    assert makefile
    commands = [shlex.split(line.replace("$(BIN)", ".venv/bin")) for line in makefile[1].splitlines()]
    (repository,) = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    hooks = [shlex.split(hook["entry"]) for hook in repository["hooks"]]
    assert [hook[:2] for hook in hooks if hook[0].endswith("ruff")] == [c[:2] for c in commands if "ruff" in c[0]]
    assert [hook[0] for hook in hooks] == [command[0] for command in commands]
