"""The README's tables of speed, made from benchmarks/results and from nothing else.

    python benchmarks/tables.py      # writes them into README.md, between their marks

A figure that was typed into a page goes on standing there when the next measurement has another one; a test holds that
the page shows what the files say.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import frame
from engine.bench.envelope import Envelope, read
from engine.errors import EngineError
from engine.files import write_text
from peers.task import EpochResult, Outcome

README = Path(__file__).resolve().parents[1] / "README.md"
END = "<!-- end -->"
LEVELS = {"avx512": "AVX-512", "avx2": "AVX2", "generic": "no vector instructions asked for"}


def pass_table(result: Envelope) -> str:
    """The pass and its peers on the CPU."""
    rates = {(row["contender"], row["size"]): row["images_per_second"] for row in result.rows if row["device"] == "cpu"}
    plain = "no antialias"
    labels: dict[tuple[str, ...], str] = {
        ("one pass",): f"the one pass (C++, {LEVELS[result.settings['simd_level']]})",
        ("one pass, avx2",): f"the one pass (C++, {LEVELS['avx2']})",
        ("OpenCV warpAffine alone",): "OpenCV's warpAffine alone, geometry only",
        ("torchvision v2",): "torchvision v2",
        ("Albumentations",): "Albumentations",
        (f"in numba, {plain}",): "the pass in numba, not antialiased",
        (f"in torch.compile, {plain}",): "the pass in torch.compile, not antialiased",
        ("Kornia",): "Kornia",
    }
    return _rates(labels, rates)


def loader_table(result: Envelope) -> str:
    """The loader and its peers on the CPU."""
    labels: dict[tuple[str, ...], str] = {
        ("engine",): "engine (libjpeg-turbo decodes parts)",
        ("engine, fast decoding",): "engine, decode.fast",
        ("engine, AVX2",): "engine, its pass by AVX2",
        ("engine, AVX2, fast decoding",): "engine, its pass by AVX2, decode.fast",
        ("engine, DALI decodes",): "engine (DALI decodes)",
        ("Albumentations + OpenCV",): "Albumentations + OpenCV, 2 workers",
        ("DALI pipeline",): "DALI's own pipeline",
        ("torchvision v2",): "torchvision v2, 2 workers",
        ("Kornia",): "Kornia",
    }
    return _rates(labels, {(row["peer"], row["size"]): statistics.median(row["windows"]) for row in result.rows})


def timm_table(result: Envelope) -> str:
    """Training with the engine and with timm: medians over the seeds."""
    outcomes: dict[str, list[Outcome]] = {}
    for row in result.rows:
        epochs = tuple(EpochResult(**epoch) for epoch in row["epochs"])
        outcomes.setdefault(row["side"], []).append(Outcome(epochs, row["total_s"], row["cpu_s"], "", ""))
    losses = [[outcome.best.log_loss for outcome in own] for own in outcomes.values()]
    lines = [
        ["log loss (range)", *(f"{statistics.median(own):.3f} ({min(own):.3f} - {max(own):.3f})" for own in losses)]
    ]
    figures: list[tuple[str, str, Callable[[Outcome], float]]] = [
        ("accuracy", ".3f", lambda outcome: outcome.best.accuracy),
        ("images a second, training", ".0f", lambda outcome: outcome.images_per_s),
        ("seconds in all", ".0f", lambda outcome: outcome.total_s),
    ]
    for label, form, figure in figures:
        lines.append([label, *(f"{statistics.median(map(figure, own)):{form}}" for own in outcomes.values())])
    return _markdown(["", *outcomes], lines)


def ensemble_table(result: Envelope) -> str:
    """What each step from folds to an answer is worth."""
    lines = []
    for row in result.rows:
        if "test" not in row:
            continue
        test, held = row["test"], row.get("out_of_fold")
        apart, kept = row.get("against_before"), {part["part"] for part in row["parts"] if part["kept"]}
        asked = {part["part"] for part in row["parts"]}
        lines.append(
            [
                row["row"],
                _interval(held["log_loss"]) if held else "",
                _interval(test["log_loss"]),
                f"{apart['difference']:+.3f}, {apart['verdict']}" if apart else "",
                *(f"{test[name][0]:.3f}" for name in ("accuracy", "macro_f1")),
                f"{test['calibration_error'][0]:.3f}" + (f" / {held['calibration_error'][0]:.3f}" if held else ""),
                ", ".join(sorted(kept)) or ("nothing gained" if asked else ""),
            ]
        )
    headings = ["", "log loss out of fold", "on the test photos", "to the row before", "accuracy", "macro F1"]
    return _markdown([*headings, "ECE (test / out of fold)", "kept"], lines)


def finetune_table(result: Envelope) -> str:
    """Fine-tuning with the engine, timm and fastai: medians over the seeds, differences of each seed."""
    lines = []
    for side in dict.fromkeys(row["side"] for row in result.rows):
        own = [row for row in result.rows if row["side"] == side]
        apart = [
            "; ".join(f"{one['difference']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})" for one in found)
            for peer in ("timm", "fastai")
            if (found := [row["against"][peer] for row in own if peer in row["against"]]) or True
        ]
        tests = [row["test"] for row in own]
        lines.append(
            [
                side,
                *(f"{statistics.median(test[name] for test in tests):.3f}" for name in ("log_loss", "accuracy")),
                f"{statistics.median(row['total_s'] for row in own):.0f}",
                *apart,
            ]
        )
    return _markdown(["", "log loss", "accuracy", "seconds", "log loss less timm's", "less fastai's"], lines)


def distill_table(result: Envelope) -> str:
    """A student taught by labels alone and by an ensemble."""
    lines = []
    for row in result.rows:
        apart = [row["against_labels"].get(where) for where in ("out_of_fold", "test")]
        lines.append(
            [
                row["student"],
                *(f"{row[where][name]:.3f}" for where in ("out_of_fold", "test") for name in ("log_loss", "accuracy")),
                *(
                    f"{one['difference']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})" if one else ""
                    for one in apart
                ),
                "" if row["cpu_s"] is None else f"{row['cpu_s']:.0f}",
            ]
        )
    headings = ["learns from", "log loss out of fold", "accuracy", "log loss on the test photos", "accuracy"]
    compared = ["log loss less that of labels alone, out of fold", "on the test photos"]
    return _markdown([*headings, *compared, "processor seconds"], lines)


def serve_table(result: Envelope) -> str:
    """A server's rates and waiting times at some numbers of clients, beside the model alone and LitServe."""
    rows = [row for row in result.rows if row["what"] == "rate"]
    (bare,) = (statistics.median(row["windows"]) for row in rows if row["contender"] == "bare")
    lines = []
    for row in rows:
        rate = statistics.median(row["windows"])
        waits = [f"{row[name] / 1000:.1f}" for name in ("p50_ms", "p99_ms")] if row["clients"] else ["", ""]
        alone = "the model without a server, full batches"
        name = f"{row['contender']}, {row['clients']} clients" if row["clients"] else alone
        cells = [name.replace(" 1 clients", " 1 client"), f"{rate:.2f}", f"{rate / bare:.0%}", *waits]
        lines.append((row["clients"], [*cells, f"{row['cpu_ms_a_photo']:,.0f}"]))
    headings = ["", "photos a second", "of the model's", "p50, s", "p99, s", "processor ms a photo"]
    return _markdown(headings, [cells for _, cells in sorted(lines, key=lambda line: line[0])])


def export_table(result: Envelope) -> str:
    """Exported files beside the run: what each costs, on the same photos."""
    lines = []
    for row in result.rows:
        if "refused" in row:
            continue
        what = "all folds" if row["fold"] == "all" else "one fold"
        rates = row.get("photos_a_second")
        lines.append(
            [
                f"{what} ({row['models']} models, {row['views']} views)",
                f"{row['runtime']}, {row['precision']}",
                f"{row['difference']:.1e}" if "difference" in row else "",
                f"{row['agreement']:.1%}" if "agreement" in row else "",
                f"{row['log_loss']:.4f}",
                f"{row['megabytes']:.0f}" if "megabytes" in row else "",
                f"{statistics.median(rates):.1f}" if rates else "",
            ]
        )
    headings = ["", "by", "largest difference", "same answer", "log loss", "MB", "photos a second, one at a time"]
    return _markdown(headings, lines)


def court_table(result: Envelope) -> str:
    """How well swapped labels are found, by the court and by cleanlab: means over the seeds."""
    found: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for row in result.rows:
        found.setdefault((row["row"], row["way"]), []).append((row["average_precision"], row["hits"]))
    names = {
        "court": "engine data court",
        "cleanlab self_confidence": "cleanlab, self-confidence",
        "cleanlab normalized_margin": "cleanlab, normalised margin",
        "cleanlab confidence_weighted_entropy": "cleanlab, confidence-weighted entropy",
        "cleanlab issues by self_confidence": "cleanlab, issues by self-confidence",
        "cleanlab issues by normalized_margin": "cleanlab, issues by normalised margin",
        "mean of ranks": "mean of ranks",
    }

    def cells(name: str) -> Iterable[str]:
        for way in ("uniform", "confused"):
            precisions, hits = zip(*found[name, way], strict=True)
            yield f"{statistics.mean(precisions):.3f}"
            yield f"{statistics.mean(hits):.1f}"

    first = result.settings["first"]
    headings = ("ranking", "any class: average precision", f"of the first {first}")
    more = ("most confused class: average precision", f"of the first {first}")
    return _markdown((*headings, *more), [(shown, *cells(name)) for name, shown in names.items()])


TABLES = {
    "pass": ("augment_cpu.json", pass_table),
    "loader": ("loader_cpu.json", loader_table),
    "loader_sizes": ("loader_sizes_cpu.json", loader_table),
    "timm": ("timm_cpu.json", timm_table),
    "finetune": ("finetune_cpu.json", finetune_table),
    "ensemble": ("ensemble_cpu.json", ensemble_table),
    "export": ("export_cpu.json", export_table),
    "serve": ("serve_cpu.json", serve_table),
    "court": ("court_cpu.json", court_table),
    "distill": ("distill_cpu.json", distill_table),
}


def filled(page: str) -> str:
    """`page` with every table made again. Raises EngineError when the page has no place for one of them."""
    for name, (file, made) in TABLES.items():
        begin = f"<!-- {name}: made by benchmarks/tables.py -->\n"
        before, begun, rest = page.partition(begin)
        _, ended, after = rest.partition(END)
        if not (begun and ended):
            raise EngineError(f"there is no place for a table between {begin.strip()!r} and {END!r}")
        page = f"{before}{begin}\n{made(read(frame.RESULTS / file))}\n{END}{after}"
    return page


def _interval(values: Sequence[float]) -> str:
    return f"{values[0]:.3f} ({values[1]:.3f} to {values[2]:.3f})"


def _rates(labels: Mapping[tuple[str, ...], str], rates: Mapping[tuple[str, int], float]) -> str:
    """A row for each label, of those whose names were measured, and a column for each size, in images a second."""
    sizes = list(dict.fromkeys(size for _, size in rates))
    there = {name for name, _ in rates}
    rows = [
        [label, *(" / ".join(f"{rates[name, size]:,.0f}" for name in names) for size in sizes)]
        for names, label in labels.items()
        if there.issuperset(names)
    ]
    return _markdown(["images a second", *(f"{size} px" for size in sizes)], rows)


def _markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |\n" for cells in (headings, *rows)]
    return "".join([lines[0], "|" + "---|" * len(headings) + "\n", *lines[1:]])


if __name__ == "__main__":
    write_text(README, filled(README.read_text("utf-8")))
