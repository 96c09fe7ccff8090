"""The findings of a check as one page with pictures.

Every list is cut to what a person looks at; the JSON of the same check has all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.data.checks import Case, Checked, Sample
from engine.pictures import thumbnail
from engine.quarantine import Fault
from engine.recipe.sections import DecodeSection
from engine.report.page import data_url, write_page

MOST_CASES = 24  # of a finding
MOST_IMAGES = 6  # of a case
MOST_CLASSES = 40
CLASS_IMAGES = 4
_THUMB = 144  # pixels of the longer side
_DOTS = 3000


def write_findings(checked: Checked, path: Path) -> None:
    """Write the page, whole or not at all."""
    classes = sorted(checked.facts["classes"].items(), key=lambda item: (-item[1], item[0]))
    shown = classes if len(classes) <= MOST_CLASSES else classes[: MOST_CLASSES // 2] + classes[-MOST_CLASSES // 2 :]
    members: dict[str, list[Sample]] = {name: [] for name, _ in shown}
    for sample in checked.samples:
        if sample.split == "train" and sample.label in members:
            members[sample.label].append(sample)
    rows = [
        {"name": name, "count": count, "share": 100 * count / classes[0][1], "samples": _spread(members[name])}
        for name, count in shown
    ]
    write_page(
        path,
        _PAGE,
        checked=checked,
        classes=rows,
        hidden=len(classes) - len(shown),
        most_cases=MOST_CASES,
        most_images=MOST_IMAGES,
        scatter=_scatter(checked.samples),
        thumb=_Thumbnails(checked.decode),
        said=_said,
    )


class _Thumbnails:
    """Data URLs of small pictures, each made once; "" for a file that cannot be decoded."""

    def __init__(self, decode: DecodeSection) -> None:
        self._decode = decode
        self._made: dict[str, str] = {}

    def __call__(self, sample: Sample) -> str:
        if sample.path not in self._made:
            self._made[sample.path] = self._make(sample.path)
        return self._made[sample.path]

    def _make(self, path: str) -> str:
        small = thumbnail(path, (_THUMB, _THUMB), self._decode.background, self._decode.max_megapixels)
        return "" if isinstance(small, Fault) else data_url(small, quality=70)


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    """A few of them from everywhere in the list."""
    if len(samples) <= CLASS_IMAGES:
        return list(samples)
    return [samples[int(at)] for at in np.linspace(0, len(samples) - 1, CLASS_IMAGES)]


def _said(case: Case) -> str:
    """What is written beside a case: its note, and the labels when they differ."""
    labels = sorted({sample.label for sample in case.samples if sample.label})
    return " · ".join(part for part in (case.note, " / ".join(labels) if len(labels) > 1 else "") if part)


def _scatter(samples: Sequence[Sample]) -> dict[str, Any]:
    """Points (x, y, split) in a 400 x 300 box, width to the right and height upwards, from 0 to the largest of each."""
    sized = [sample for sample in samples if sample.width and sample.height]
    step = max(1, -(-len(sized) // _DOTS))
    wide, high = (max((getattr(s, side) for s in sized), default=1) for side in ("width", "height"))
    points = {(round(400 * s.width / wide), round(300 - 300 * s.height / high), s.split) for s in sized[::step]}
    return {"points": sorted(points), "width": wide, "height": high}


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data check: {{ checked.source }}</title>
<style>
:root { --ink: #1c2530; --soft: #64707d; --line: #dde2e7; --ground: #f5f6f8; --card: #fff; --bar: #4a7fb5;
  --error: #b3261e; --warning: #9a6700; --note: #3f6b8f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #98a3ae; --line: #333c46; --ground: #14181d;
  --card: #1d232a; --bar: #5d93ca; --error: #ff8a80; --warning: #e3b341; --note: #8fb8dc; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 24px 20px 60px; color: var(--ink); background: var(--ground);
  font: 15px/1.5 system-ui, "Noto Sans", "Noto Sans KR", sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 10px; }
.soft { color: var(--soft); }
table { border-collapse: collapse; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
th, td { padding: 5px 12px; text-align: left; border-top: 1px solid var(--line); vertical-align: middle; }
tr:first-child th, tr:first-child td { border-top: 0; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.wide { width: 100%; }
.facts { display: flex; flex-wrap: wrap; gap: 10px; margin: 18px 0; }
.fact { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 8px 16px; }
.fact b { display: block; font-size: 20px; font-variant-numeric: tabular-nums; }
.badge { font-size: 12px; font-weight: 600; }
.error { color: var(--error); } .warning { color: var(--warning); } .note { color: var(--note); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px 18px;
  margin: 14px 0; }
section h3 { margin: 0; font-size: 16px; } section p { margin: 2px 0 10px; }
.cases { display: flex; flex-wrap: wrap; gap: 12px; }
.case { border: 1px solid var(--line); border-radius: 6px; padding: 8px; max-width: 100%; }
.case > div { display: flex; flex-wrap: wrap; gap: 8px; }
figure { margin: 0; width: 144px; }
figure img, .gone { width: 144px; height: 110px; object-fit: contain; background: var(--ground); border-radius: 4px; }
.gone { display: grid; place-items: center; color: var(--soft); font-size: 12px; }
figcaption { font-size: 11px; line-height: 1.35; overflow-wrap: anywhere; color: var(--soft); }
figcaption b { color: var(--ink); font-weight: 600; }
.case p { margin: 6px 0 0; font-size: 12px; max-width: 600px; overflow-wrap: anywhere; }
.bar { background: var(--bar); height: 12px; border-radius: 2px; min-width: 2px; }
td.bars { width: 34%; } td.samples { white-space: nowrap; }
td.samples img { height: 44px; width: 44px; object-fit: cover; border-radius: 4px; margin-right: 4px;
  vertical-align: middle; }
td.name { overflow-wrap: anywhere; }
.sizes { display: flex; flex-wrap: wrap; gap: 24px; align-items: flex-start; }
svg text { fill: var(--soft); font-size: 11px; } .frame { fill: none; stroke: var(--line); }
.dot { fill: var(--bar); fill-opacity: .45; } .dot.test { fill: var(--warning); }
a { color: inherit; }
</style>
</head>
<body>
<h1>{{ checked.source }}</h1>
<div class="soft">Data check{% if checked.test %} against {{ checked.test }}{% endif %}</div>
<div class="facts">
<div class="fact"><b>{{ "{:,}".format(checked.facts.samples) }}</b>images</div>
{% if checked.test_facts %}
<div class="fact"><b>{{ "{:,}".format(checked.test_facts.samples) }}</b>test images</div>
{% endif %}
<div class="fact"><b>{{ "{:,}".format(checked.facts.classes | length) }}</b>classes</div>
{% for group, count in checked.groups.items() %}
<div class="fact"><b>{{ "{:,}".format(count) }}</b>{{ group }}</div>
{% endfor %}
</div>

<h2>What was found</h2>
{% if checked.findings %}
<table class="wide">
<tr><th></th><th>finding</th><th class="number">cases</th><th class="number">images</th></tr>
{% for finding in checked.findings %}
<tr><td class="badge {{ finding.severity }}">{{ finding.severity }}</td>
<td><a href="#{{ finding.kind }}">{{ finding.title }}</a></td>
<td class="number">{{ "{:,}".format(finding.cases | length) }}</td>
<td class="number">{{ "{:,}".format(finding.images) if finding.images else "" }}</td></tr>
{% endfor %}
</table>
{% else %}
<p>Nothing: every file decodes, none is there twice, and the classes are even.</p>
{% endif %}

{% for finding in checked.findings %}
<section id="{{ finding.kind }}">
<h3>{{ finding.title }} <span class="badge {{ finding.severity }}">{{ finding.severity }}</span></h3>
<p class="soft">{{ finding.advice }}</p>
<div class="cases">
{% for case in finding.cases[:most_cases] %}
<div class="case">
{% if case.samples %}
<div>
{% for sample in case.samples[:most_images] %}
<figure>
{% if thumb(sample) %}<img src="{{ thumb(sample) }}" alt="">{% else %}<div class="gone">no picture</div>{% endif %}
<figcaption>
{% if checked.test %}{{ sample.split }} {% endif %}{% if sample.label %}<b>{{ sample.label }}</b><br>{% endif %}

{{ sample.id }}</figcaption>
</figure>
{% endfor %}
</div>
{% endif %}
{% if case.samples | length > most_images %}<p>and {{ case.samples | length - most_images }} more</p>{% endif %}
{% if said(case) %}<p>{{ said(case) }}</p>{% endif %}
</div>
{% endfor %}
</div>
{% if finding.cases | length > most_cases %}
<p class="soft">and {{ "{:,}".format(finding.cases | length - most_cases) }} more; --json has them all</p>
{% endif %}
</section>
{% endfor %}

{% if classes %}
<h2>Classes</h2>
<table class="wide">
{% for row in classes %}
<tr><td class="name">{{ row.name }}</td><td class="number">{{ "{:,}".format(row.count) }}</td>
<td class="bars"><div class="bar" style="width: {{ "%.1f" | format(row.share) }}%"></div></td>
<td class="samples">
{% for sample in row.samples if thumb(sample) %}<img src="{{ thumb(sample) }}" alt="">{% endfor %}

</td></tr>
{% if hidden and loop.index == (classes | length) // 2 %}
<tr><td class="soft" colspan="4">… {{ hidden }} classes between these …</td></tr>
{% endif %}
{% endfor %}
</table>
{% endif %}

<h2>Sizes</h2>
<div class="sizes">
<table>
<tr><th></th>{% for name in checked.facts.height %}<th class="number">{{ name }}</th>{% endfor %}</tr>
{% for what in ("height", "width", "bytes") %}
<tr><th>{{ what }}</th>{% for value in checked.facts[what].values() %}
<td class="number">{{ "{:,}".format(value) }}</td>{% endfor %}</tr>
{% endfor %}
</table>
<svg viewBox="-44 -8 470 344" width="470" height="344" role="img" aria-label="width and height of the images">
<rect class="frame" x="0" y="0" width="400" height="300"/>
{% for x, y, split in scatter.points %}<circle class="dot {{ split }}" cx="{{ x }}" cy="{{ y }}" r="3"/>{% endfor %}

<text x="400" y="318" text-anchor="end">{{ "{:,}".format(scatter.width) }} px wide</text>
<text x="-6" y="10" text-anchor="end">{{ "{:,}".format(scatter.height) }}</text>
<text x="-6" y="24" text-anchor="end">high</text><text x="-6" y="304" text-anchor="end">0</text>
</svg>
</div>
<p class="soft">Height and width in pixels, upright{{ "; test images in the other colour" if checked.test }}.</p>
</body>
</html>
"""
