"""docs/performance.md and its pictures, made from benchmarks/results alone: `python docs/performance.py`.

A figure stands beside the limit that it could reach and the command that measures it anew. What no result is there for
says so, with the command that would fill it; nothing is typed in by hand. A test holds the page to the results.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import count_instructions  # noqa: E402
import frame  # noqa: E402
import tables  # noqa: E402
from engine.bench.envelope import Envelope, Row, read  # noqa: E402
from engine.files import write_text  # noqa: E402

PAGE = ROOT / "docs" / "performance.md"
PICTURES = ROOT / "docs" / "performance"
SUITE = "python benchmarks/gpu_suite.py"
NOT_YET = "not yet measured"
_COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#97bbf5", "#9c6b4e")

Page = Iterator[str]
"""Paragraphs, tables and pictures of a section, as Markdown."""


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    write_text(PAGE, page())
    for name, (_, drawn) in pictures().items():
        save(drawn(), PICTURES / f"{name}.svg", digest(name))


def page() -> str:
    """The whole page. Sections whose results are missing say how to make them."""
    parts = [_HEAD, *(f"## {title}\n\n" + "\n\n".join(made()) for title, made in SECTIONS.items())]
    return "\n\n".join(parts) + "\n"


_HEAD = f"""# Performance

How fast each part of the path is, what limits it, and how it grows. The page and its pictures are made from
`benchmarks/results` by `python docs/performance.py`; under each table stands the command that measures it again.
Machines that were measured on are shared and noisy: ratios in one run hold where rates do not.

A column for a GPU that says "{NOT_YET}" is filled by `{SUITE}`: one command, under ten minutes, also on a machine
without a network ([benchmarks/pack_gpu.py](../benchmarks/pack_gpu.py))."""


# --- the path, stage by stage -----------------------------------------------------------------------------------------

_TIME = ("decode", "pass", "transfer", "forward", "backward", "optimiser")  # what an image's time is made of


def path() -> Page:
    """Each phase of each stage, CPU and GPU."""
    here, there = result("bench_recipe_cpu"), result("gpu_bench")
    yield (
        "Every phase by itself, then all of it together. *Limit*: the share of what the machine could do that a phase "
        "reaches, against ceilings that are measured first (a matrix product in the model's precision, a copy). "
        "*Waited*: the share of the time that is lost for want of images: work on what the loader brings beside the "
        "same on a batch that is always there, in turn."
    )
    if here is None:
        yield missing(
            "engine bench --recipe recipes/progressive_768.toml --json benchmarks/results/bench_recipe_cpu.json"
        )
        return
    phases, others = (
        [row for row in one.rows if row["phase"] not in ("costliest", "peer")] if one else [] for one in (here, there)
    )
    gpu = {(row["stage"], row["phase"]): row for row in others}
    for stage in dict.fromkeys(row["stage"] for row in phases):
        own = [row for row in phases if row["stage"] == stage]
        height, width = own[0]["size"]
        lines = []
        for row in own:
            other = gpu.get((stage, row["phase"]))
            lines.append([row["phase"], *_phase_cells(row), *(_phase_cells(other) if other else [NOT_YET, ""])])
        yield f"### {height} x {width}, batches of {own[0]['batch']}"
        yield markdown(["", "CPU, images/s", "limit", "GPU, images/s", "limit"], lines)
    yield source(here)
    yield picture("stages", "Milliseconds of an image in each phase, stage by stage")


def _phase_cells(row: Row) -> list[str]:
    if row["images_per_second"] is not None:
        rate = f"{row['images_per_second']:,.1f}"
    else:
        rate = f"{row['ms']:,.0f} ms once" if row["ms"] is not None else row["note"]
    shares = [f"{row['share']:.1%} {row['limit']}"] if row["share"] is not None else []
    shares += [f"waited {row['waited']:.1%}"] if row["waited"] is not None else []
    return [rate, ", ".join(shares)]


def draw_stages() -> Figure:
    """One bar a stage, stacked by what an image's time goes into."""
    found = result("bench_recipe_cpu")
    assert found is not None
    stages = list(dict.fromkeys(row["stage"] for row in found.rows))
    figure, axes = canvas()
    left = [0.0] * len(stages)
    for colour, name in zip(_COLOURS, _TIME, strict=False):
        own = [_ms(found.rows, stage, name) for stage in stages]
        axes.barh([_size(found.rows, stage) for stage in stages], own, left=left, color=colour, label=name)
        left = [a + b for a, b in zip(left, own, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds an image, one phase after the other")
    axes.legend(ncols=3, frameon=False, loc="upper right", fontsize=8)  # the first stage's bar is the shortest
    return figure


def _ms(rows: Sequence[Row], stage: int, phase: str) -> float:
    found = [row for row in rows if row["stage"] == stage and row["phase"] == phase and row["images_per_second"]]
    return 1000 / found[0]["images_per_second"] if found else 0.0


def _size(rows: Sequence[Row], stage: int) -> str:
    return next(f"{row['size'][0]} px, batch {row['batch']}" for row in rows if row["stage"] == stage)


# --- the pass ---------------------------------------------------------------------------------------------------------


def the_pass() -> Page:
    """On the CPU beside its peers, on a GPU by what it issues."""
    yield "Photos in memory to normalised batches: crop, affine, flip, full colour jitter, erasing."
    if found := result("augment_cpu"):
        yield tables.pass_table(found).strip()
        yield source(found)
    else:
        yield missing("python benchmarks/bench_augment.py --json benchmarks/results/augment_cpu.json")
    if counted := result("instructions"):
        yield (
            "On a GPU, counted from the compiled code along the way it takes: instructions a pixel of output, with "
            "full colour jitter and one rectangle, alone or mixed with a partner, in the kernel's first form and now. "
            "The last column is the limit: what part of the rate at which an H100 copies memory can be reached at "
            "most, and what bounds it there."
        )
        yield instructions_table(counted, result("instructions_before"))
        yield source(counted)
    else:
        yield missing("python benchmarks/count_instructions.py --json benchmarks/results/instructions.json")
    yield from gpu_rates("gpu_pass", "pass", "contender")


def instructions_table(found: Envelope, before: Envelope | None) -> str:
    """The pass by taps, on three generations of GPUs."""
    gpu = count_instructions.Gpu(**found.settings["gpus"]["H100"])
    targets = ("sm_80", "sm_89", "sm_90")
    now, then = (
        {(row["variant"], row["target"]): row for row in one.rows if row["kernel"] == "pass"} if one else {}
        for one in (found, before)
    )
    lines = []
    for variant in dict.fromkeys(variant for variant, _ in now):
        cells = []
        for target in targets:
            row, old = now.get((variant, target)), then.get((variant, target))
            counts = [f"{one['instructions']:,.0f}" for one in (old, row) if one and "instructions" in one]
            cells.append(" → ".join(counts))
        part, share = count_instructions.bound(now[variant, "sm_90"], gpu)
        lines.append([variant, *cells, f"{share:.0%}, by {part}"])
    return markdown(["", *targets, "of an H100's copy rate at most"], lines)


# --- the host that feeds a GPU ----------------------------------------------------------------------------------------


def feed() -> Page:
    """What the host does for each batch, with nothing to wait for."""
    yield (
        "What the host of a GPU can feed, measured without one: files are read (by now from the page cache), headers "
        "parsed, plans drawn, batches put together, beside a loop that queues 800 tiny operations of torch a step, as "
        "a model would. Not in it are decoding, whose pixels are there at once, and the GPU itself: an upload or a "
        "kernel costs the time that a host takes to queue one, which is set and not measured. The limit is the loop "
        "alone."
    )
    if found := result("feed_cpu"):
        yield feed_table(found)
        yield source(found)
    else:
        yield missing("python benchmarks/bench_feed.py --json benchmarks/results/feed_cpu.json")
    yield "What a step asks of the device beside the model and its optimiser, counted on a double of a GPU:"
    yield from plain("step_counts", "python benchmarks/step_counts.py --json benchmarks/results/step_counts.json")
    yield "Drawing all that is done to a batch, in milliseconds of the processor:"
    if drawn := result("draws_cpu"):
        yield draws_table(drawn)
        yield source(drawn)
    else:
        yield missing("python benchmarks/bench_draws.py --json benchmarks/results/draws_cpu.json")
    yield from gpu_rates("gpu_feed", "feed", "what")


def feed_table(found: Envelope) -> str:
    """The loop, the loader, and both together."""
    alone = next(row["step_ms"] for row in found.rows if row["what"] == "the loop alone")
    batch, lines = found.settings["batch"], []
    for row in found.rows:
        decoded = f", decoded on the {row['decoded'].upper()}" if row["decoded"] else ""
        if row["what"] == "turnover":
            lines.append(
                [f"first batch of an epoch{decoded}", "", f"{row['first_s']:.2f} s, then {row['second_s']:.2f} s", ""]
            )
            continue
        rate = statistics.median(row["windows"])
        shown = f"{alone:.1f} ms: the launches alone" if row["what"] == "both" else ""
        lines.append([f"{row['what']}{decoded}", f"{rate:,.0f}", f"{1000 * batch / rate:.1f} ms", shown])
    return markdown(["", f"images/s, batches of {batch}", "a step", "limit"], lines)


def draws_table(found: Envelope) -> str:
    """Torch beside C++, by size and part."""
    costs = {
        (row["size"], row["batch"], row["part"], row["way"]): statistics.median(row["cpu_ms"])
        for row in found.rows
        if row["kind"] == "cost"
    }
    lines = []
    for size, batch, part in dict.fromkeys(key[:3] for key in costs):
        torch_, own = (costs.get((size, batch, part, way)) for way in ("torch", "C++"))
        if torch_ and own:
            lines.append([f"{part}, {batch} images at {size} px", f"{torch_:.2f}", f"{own:.3f}", f"{torch_ / own:.0f}"])
    return markdown(["", "torch", "C++", "times"], lines)


# --- the loader -------------------------------------------------------------------------------------------------------


def loader() -> Page:
    """Files to batches on the CPU, and how that grows."""
    yield "Files to augmented batches of 64 on the CPU, beside what others offer for the same operations."
    if found := result("loader_cpu"):
        yield tables.loader_table(found).strip()
        yield source(found)
    else:
        yield missing("python benchmarks/bench_loader.py --json benchmarks/results/loader_cpu.json")
    if sizes := result("loader_sizes_cpu"):
        yield "The same of photos of many sizes, 200 to 3,000 pixels, spread as ImageNet's:"
        yield tables.loader_table(sizes).strip()
        yield source(sizes)
    else:
        yield missing("python benchmarks/bench_loader.py --many-sizes --json benchmarks/results/loader_sizes_cpu.json")
    if grown := result("growth_cpu"):
        yield picture("growth", "How rates and times grow")
        for curve in dict.fromkeys(row["curve"] for row in grown.rows):
            rows = [{k: v for k, v in row.items() if k != "curve"} for row in grown.rows if row["curve"] == curve]
            yield plain_table(rows)
        yield source(grown)
    else:
        yield missing("python benchmarks/bench_growth.py --json benchmarks/results/growth_cpu.json")


def draw_growth() -> Figure:
    """A small picture for each curve."""
    found = result("growth_cpu")
    assert found is not None
    plans: list[tuple[str, str, str, str]] = [
        ("rows", "rows", "images_per_second", "images/s"),
        ("rows", "rows", "first_batch_s", "s to the first batch"),
        ("megapixels", "megapixels", "images_per_second", "images/s"),
        ("batch", "batch", "images_per_second", "images/s, loader"),
        ("batch", "batch", "step_images_per_second", "images/s, step"),
        ("ranks", "ranks", "images_per_second", "images/s, all ranks"),
    ]
    figure, axes = plt.subplots(2, 3, figsize=(9, 5), layout="constrained")
    for place, (curve, x, y, label) in zip(axes.flat, plans, strict=True):
        rows = [row for row in found.rows if row["curve"] == curve]
        for colour, by in zip(_COLOURS, dict.fromkeys(row.get("decoder", "") for row in rows), strict=False):
            own = [row for row in rows if row.get("decoder", "") == by]
            place.plot([row[x] for row in own], [row[y] for row in own], "o-", color=colour, label=by, markersize=3)
            if by:
                place.legend(frameon=False, fontsize=7)
        place.set_xscale("log" if curve != "ranks" else "linear")
        if curve == "ranks":
            place.set_xticks([row[x] for row in rows])
        place.set_ylim(bottom=0)
        place.set_xlabel({"batch": "images in a batch", "ranks": "processes"}.get(curve, curve))
        place.set_ylabel(label)
        plainly(place)
    return figure


# --- the rest ---------------------------------------------------------------------------------------------------------


def cache() -> Page:
    """Later epochs from decoded images."""
    yield "Epoch 1 decodes, later epochs take what stayed decoded (`decode.cache`): where it fits, half fits, and not."
    found = result("cache_cpu")
    if found is None:
        yield missing("python benchmarks/bench_cache.py --json benchmarks/results/cache_cpu.json")
        return
    lines = []
    for row in found.rows:
        name = f"{row['photos']}, {row['cache']}" + (f", {row['fits']} fits" if row["fits"] else "")
        rates = [f"{statistics.median(row[key]):,.0f}" for key in ("first_epoch", "later_epoch")]
        work = [f"{statistics.median(row[key]):.2f}" for key in ("first_processor_ms", "later_processor_ms")]
        lines.append([name, *rates, *work])
    headings = ["photos, decode.cache", "images/s in epoch 1", "later", "processor ms an image in epoch 1", "later"]
    yield markdown(headings, lines)
    yield source(found)


def switch() -> Page:
    """What a change of size costs where the step is compiled."""
    yield "Where steps are compiled, a new size has to be compiled anew: at the switch, or beside the epoch before it."
    found = result("switch_cpu")
    if found is None:
        yield missing("python benchmarks/bench_switch.py --json benchmarks/results/switch_cpu.json")
        return
    lines = [
        [f"{row['way']}, to {row['size'][0]} px, batch {row['batch']}", f"{row['lost_s']:.1f}", row["note"]]
        for row in found.rows
    ]
    yield markdown([found.settings["backbone"], "seconds lost", ""], lines)
    yield source(found)


def memory() -> Page:
    """What a run needs, estimated and measured."""
    yield "What `engine train --dry-run` estimates beside the peak of the same run, main memory on the CPU:"
    found = result("memory_cpu")
    if found is None:
        yield missing("python benchmarks/bench_memory.py --json benchmarks/results/memory_cpu.json")
        return
    lines = [
        [
            row["name"],
            *(f"{row[key] / 2**20:,.0f}" for key in ("estimated", "measured")),
            f"{row['estimated'] / row['measured']:.2f}",
        ]
        for row in found.rows
    ]
    yield markdown(["", "estimated, MiB", "measured, MiB", "estimated over measured"], lines)
    yield source(found)


def options() -> Page:
    """Keys that wait for a GPU to show that they pay."""
    yield (
        "Options of the training step that are off until a GPU has shown what they are worth "
        "([recipes.md](recipes.md) says what each does)."
    )
    yield from gpu_rates("gpu_options", "options", "option")


def right() -> Page:
    """What the suite checks before it measures."""
    yield "Before anything is measured there, the GPU's answers are held to the CPU's."
    if found := result("gpu_checks"):
        yield plain_table(found.rows)
        yield source(found)
    else:
        yield missing(f"{SUITE} --only checks")


SECTIONS: dict[str, Callable[[], Page]] = {
    "The path, stage by stage": path,
    "The pass": the_pass,
    "A host that feeds a GPU": feed,
    "The loader on the CPU": loader,
    "Epochs from memory": cache,
    "A change of size": switch,
    "Memory": memory,
    "Options for GPUs": options,
    "Checks on a GPU": right,
}


# --- what the sections share ------------------------------------------------------------------------------------------


def result(name: str) -> Envelope | None:
    file = frame.RESULTS / f"{name}.json"
    return read(file) if file.is_file() else None


def gpu_rates(name: str, part: str, key: str) -> Page:
    """What a part of the suite measured."""
    found = result(name)
    if found is None:
        yield missing(f"{SUITE} --only {part}", "GPU")
        return
    rows = []
    for row in found.rows:
        shown = {key: row.get(key, "")} | {k: v for k, v in row.items() if k != key}
        if shown.get("windows"):
            shown["images_per_second"] = round(statistics.median(shown["windows"]), 1)
        rows.append(shown)
    yield plain_table(rows)
    yield source(found)


def plain(name: str, command: str) -> Page:
    """A result as it is, or how to make it."""
    found = result(name)
    if found is None:
        yield missing(command)
        return
    yield plain_table(found.rows)
    yield source(found)


def plain_table(rows: Sequence[Row]) -> str:
    """A column for every figure that is no list."""
    keys = dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, (list, dict)))
    lines = [[_cell(row.get(key)) for key in keys] for row in rows]
    return markdown([key.replace("_", " ") for key in keys], lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def missing(command: str, where: str = "") -> str:
    return f"{where + ': ' if where else ''}{NOT_YET}. `{command}` fills it."


def source(found: Envelope) -> str:
    """Where and when something was measured, and how to do it again."""
    machine = found.machine
    device = "" if machine["device"] == "cpu" else f", {machine['device']}"
    return f"*{machine['cpu']}, {machine['cores']} cores{device}, {found.date[:10]}: `{found.command}`*"


def picture(name: str, words: str) -> str:
    return f"![{words}](performance/{name}.svg)"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = "|" + "---|" * len(headings)
    return "\n".join([f"| {' | '.join(headings)} |", rule, *(f"| {' | '.join(cells)} |" for cells in rows)])


def pictures() -> dict[str, tuple[str, Callable[[], Figure]]]:
    """Those whose results are there, by name: the result's name and what draws it."""
    known = {"stages": ("bench_recipe_cpu", draw_stages), "growth": ("growth_cpu", draw_growth)}
    return {name: known[name] for name in known if result(known[name][0]) is not None}


def digest(name: str) -> str:
    """Of the rows that a picture is made from: it stands in the picture, so that an old one is known."""
    found = result(pictures()[name][0])
    assert found is not None
    return hashlib.sha256(json.dumps(found.rows).encode()).hexdigest()[:16]


def canvas() -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    plainly(axes)
    return figure, axes


def plainly(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def save(figure: Figure, path: Path, digest: str) -> None:
    """As text that is the same for the same rows."""
    with matplotlib.rc_context({"svg.hashsalt": digest, "svg.fonttype": "path"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Description": digest}, facecolor="white")
    plt.close(figure)


if __name__ == "__main__":
    main()
