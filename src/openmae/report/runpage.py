"""The page of one run, as far as its folder could be read."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from openmae.report import chart
from openmae.report.curves import panels_of, words_of
from openmae.report.html import cards, frame, grid, more, section, text
from openmae.report.pagepictures import others, over_time
from openmae.report.rundata import RunData, marks_of, state_of

STYLE = (
    chart.STYLE
    + """.strip { display: flex; gap: 1rem; overflow-x: auto; scroll-snap-type: x proximity; }
.strip figure { flex: 0 0 min(88%, 34rem); scroll-snap-align: start; }
.shots { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.strip img, .shots img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
figcaption { color: var(--soft); font-size: .9rem; }
nav ul { list-style: none; margin: .6rem 0 0; display: flex; flex-wrap: wrap; gap: .2rem 1rem;
  max-height: none; }
a { color: var(--bar); }
.state { font-weight: 600; } .state.bad { color: var(--bad); } .state.warn { color: var(--warn); }
.card b { overflow-wrap: anywhere; } .same { color: var(--soft); }
@media print { .strip { flex-wrap: wrap; overflow: visible; } nav { display: none; } }
"""
)
_LISTED = 200  # rows of a table of troubles
_ENDS = ("accuracy", "mIoU", "mAP", "AP")
_FIXED = ("low_95", "high_95")


@dataclass(frozen=True)
class About:
    """What only the settings of the commands can tell.

    Args:
        differences: (setting, its value, that of the recipe).
        recipe: by name, or what it is that was compared with.
        commands: to paste, each with what it is for.
    """

    differences: Sequence[tuple[str, str, str]] = field(default=())
    recipe: str = ""
    commands: Sequence[tuple[str, str]] = field(default=())


def page(run: RunData, about: About, axis: str = "steps") -> str:
    """The whole page."""
    return frame(run.name, lead(run), body(run, about, axis), STYLE, kind="Run")


def lead(run: RunData) -> str:
    """The lines below the title."""
    data = run.config.get("data")
    of = f" on <b>{text(data)}</b>" if data else ""
    _, mark, told = state_of(run)
    return (
        f"<p><code>openmae {text(run.task)}</code>{of}, {text(model_words(run))}. Folder"
        f' <code>{text(run.path)}</code></p><p class="state {mark}" id="state">{text(told)}</p>'
    )


def body(run: RunData, about: About, axis: str) -> str:
    """The sections, behind a list of them."""
    panels = panels_of(run.metrics, axis, marks_of(run))
    drawn = "".join(chart.chart(panel, f"c-{i}") for i, panel in enumerate(panels))
    parts = [
        ("curves", "Curves", f'<div class="charts">{drawn}</div>' if drawn else ""),
        ("pictures", "Reconstructions over time", over_time(run.path / "pictures")),
        ("scores", "Scores", scores_table(run)),
        ("shots", "Pictures", others(run.path / "pictures")),
        ("next", "Commands", commands(about.commands)),
        ("troubles", "Troubles and restarts", _troubles(run)),
        ("data", "Data", _data(run)),
        ("settings", "Settings", _settings(run, about)),
        ("chosen", "Chosen at the start", values_table(run.resolved, "chosen at the start")),
        ("machine", "Environment", values_table(run.environment, "environment")),
        ("missing", "What could not be read", _list(run.problems)),
    ]
    kept = [(name, head, made) for name, head, made in parts if made]
    links = "".join(f'<li><a href="#{name}">{text(head)}</a></li>' for name, head, _ in kept)
    nav = f'<nav aria-label="Parts of this page"><ul>{links}</ul></nav>'
    return _cards(run) + nav + "\n".join(section(head, made, name) for name, head, made in kept)


def model_words(run: RunData) -> str:
    """The model in a few words."""
    config = run.config
    size, mask = config.get("image_size"), config.get("mask_ratio")
    parts = [str(config.get("method", "")) if run.task == "pretrain" else ""]
    parts.append(str(config.get("model") or ""))
    parts.append(f"{'x'.join(map(str, size))} px" if isinstance(size, list) else f"{size} px")
    masked = isinstance(mask, float) and config.get("method", "mae") == "mae"
    parts.append(f"mask {mask:.0%}" if masked and run.task == "pretrain" else "")
    return ", ".join(p for p in parts if p and "None" not in p) or "model unknown"


def speed_of(run: RunData) -> float | None:
    """Images a second of the last rows: their median."""
    rates = run.metrics.values("images_per_s")[-50:]
    rates = rates[np.isfinite(rates)]
    return float(np.median(rates)) if len(rates) else None


def hours(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"


def trained(run: RunData) -> float:
    """Seconds of training."""
    _, seconds = run.metrics.seconds()
    return float(seconds[-1]) if len(seconds) else 0.0


def _cards(run: RunData) -> str:
    word, mark, _ = state_of(run)
    metrics = run.metrics
    share = f" of {run.total:,}" if run.total else ""
    found = [("state", word, mark), (f"steps{share}", f"{run.step:,}", "")]
    for name, words in (("loss", "training loss"), ("val_loss", "held-out loss")):
        value = metrics.last(name)
        found += [] if value is None else [(words, f"{value:.4f}", "")]
    for name in metrics.names:
        if name.endswith(_ENDS):
            found.append((words_of(name), f"{100 * (metrics.last(name) or 0):.1f} %", ""))
    speed, waits = speed_of(run), metrics.values("data_share")[-50:]
    found += [] if speed is None else [("images/s", f"{speed:,.0f}", "")]
    if np.isfinite(waits).any():
        wait = float(np.nanmedian(waits))
        found.append(("waiting for data", f"{wait:.0%}", "warn" if wait > 0.2 else ""))
    done = trained(run)
    found += [("of training", hours(done), "")] if done else []
    if word == "running" and done and run.total and metrics.step:
        left = done / metrics.step * max(run.total - run.step, 0)
        found.append(("left, about", hours(left), ""))
    skipped = int(np.nansum(metrics.values("skipped")))
    found.append(("steps skipped", f"{skipped:,}", "warn" if skipped else ""))
    found.append(("bad files", f"{run.bad_count:,}", "warn" if run.bad_count else ""))
    return cards(found[:12])


def scores_table(run: RunData) -> str:
    """What was measured with the run afterwards, with its floors; and its own results."""
    rows = []
    for folder, values in run.scores.items():
        numbers = {n: v for n, v in values.items() if _score(n, v)}
        floors = {n: v for n, v in numbers.items() if n.startswith(("random", "major", "raw"))}
        own = {n: v for n, v in numbers.items() if n not in floors and not n.endswith(_FIXED)}
        low, high = (next((v for n, v in numbers.items() if n.endswith(e)), None) for e in _FIXED)
        span = "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"
        for name, value in own.items():
            main = not name.endswith("train_accuracy") and bool(span)
            less = ", ".join(f"{words_of(n)} {100 * v:.1f}" for n, v in floors.items())
            count = values.get("n") if isinstance(values.get("n"), int) else ""
            rows.append(
                [text(folder), text(words_of(name)), f"<b>{100 * value:.1f}</b>",
                 span if main else "", text(less), text(count), text(values.get("seed", ""))]
            )  # fmt: skip
    heads = ("folder", "score", "%", "95 % interval", "floors, %", "n", "seed")
    made = grid(heads, rows, 0, "scores of the run", named=True) if rows else ""
    return made + (more("results.json", values_table(run.results, "results")) if made else
                   values_table(run.results, "results"))  # fmt: skip


def _score(name: str, value: object) -> bool:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return good and (name.endswith(_ENDS) or name.endswith(_FIXED))


def commands(found: Sequence[tuple[str, str]]) -> str:
    """Commands to paste, each with what it is for."""
    return "".join(
        f"<h3>{text(words)}</h3><pre><code>{text(command)}</code></pre>" for command, words in found
    )


def command(*words: object) -> str:
    """The words of a command as a shell reads them."""
    return shlex.join(["openmae", *map(str, words)])


def _troubles(run: RunData) -> str:
    rows = []
    for row in run.anomalies[:_LISTED]:
        batch = row.get("samples") or row.get("batch") or []
        named = ", ".join(map(str, batch[:3])) if isinstance(batch, list) else str(batch)
        told = {n: v for n, v in row.items() if n not in ("step", "what", "samples", "batch")}
        rows.append([text(row.get("step", "")), text(row.get("what", "?")), text(named[:300]),
                     text(_short(told) if told else "")])  # fmt: skip
    for row in run.restarts[:_LISTED]:
        rows.append([text(row.get("step", "")), "continued", "", ""])
    if not rows:
        return ""
    left = len(run.anomalies) - _LISTED
    note = f"<p>The first {_LISTED}; all are in anomalies.jsonl.</p>" if left > 0 else ""
    words = "<p>A skipped step changes nothing; a spike is only reported.</p>"
    return words + grid(("step", "what", "images", "value"), rows, 0, "troubles") + note


def _data(run: RunData) -> str:
    known = (
        ("data", run.config.get("data")), ("images", run.resolved.get("images")),
        ("classes", run.resolved.get("classes")), ("held out", run.config.get("val")),
        ("channels", run.config.get("channels")), ("bands", run.config.get("bands")),
        ("mean", run.resolved.get("mean")), ("standard deviation", run.resolved.get("std")),
        ("range of values", run.resolved.get("value_range")),
        ("hash of the list", run.resolved.get("data_hash")),
    )  # fmt: skip
    told = {name: value for name, value in known if value not in (None, [], "")}
    made = values_table(told, "the data")
    if not run.bad_count:
        return made + ("<p>No file was found that cannot be read.</p>" if told else "")
    rows = [[text(r.get("path", "?")), text(r.get("reason", ""))] for r in run.bad[:_LISTED]]
    words = f"<h3>{run.bad_count:,} files cannot be read</h3>"
    left = run.bad_count - len(rows)
    note = f"<p>{left:,} more are in bad_files.jsonl.</p>" if left > 0 else ""
    return made + words + grid(("path", "reason"), rows, 0, "files that cannot be read") + note


def _settings(run: RunData, about: About) -> str:
    if not run.config and not run.config_text:
        return ""
    if about.differences:
        rows = [[text(n), text(v), text(usual)] for n, v, usual in about.differences]
        made = f"<p>What differs from {text(about.recipe)}:</p>"
        made += grid(("setting", "this run", "there"), rows, 0, "settings that differ", True)
    else:
        made = f"<p>Nothing differs from {text(about.recipe or 'the recipe')}.</p>"
    lines = "\n".join(text(line) for line in run.config_text[:200_000].splitlines())
    return made + more("The complete config.yaml", f"<pre><code>{lines}</code></pre>")


def values_table(values: Mapping[str, Any], label: str) -> str:
    """Names and values; what is nested is written as JSON."""
    rows: list[list[str]] = []
    for name, value in values.items():
        if name == "versions" and isinstance(value, dict):
            rows += [[text(n), text(_short(v))] for n, v in value.items()]
        else:
            rows.append([text(str(name).replace("_", " ")), text(_short(value))])
    return grid(("what", "value"), rows[:400], 0, label, named=True) if rows else ""


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    plain = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return plain if len(plain) <= 400 else plain[:400] + " ..."


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{text(line)}</li>' for line in lines)}</ul>" if lines else ""
