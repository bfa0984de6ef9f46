"""docs/performance.md and its picture, from the JSON files in benchmarks/results and nothing else.

python benchmarks/report.py            write them
python benchmarks/report.py --check    say whether the page in docs is the one that these give
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drawing import digest, draw

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
PICTURE = "images/performance-throughput.svg"
MIB = 2**20

HEAD = """# Performance

Written by `python benchmarks/report.py` from the JSON files in `benchmarks/results`; nothing here
is typed by hand. How each is measured, and what is still to be run, is in
[benchmarks/README.md](../benchmarks/README.md).
"""

Result = dict[str, Any]


def load(folder: Path) -> dict[str, Result]:
    """File name -> result, sorted by name."""
    return {
        path.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.json"))
    }


def kind_of(name: str) -> str:
    """Files are called KIND-WHATEVER.json."""
    return name.split("-")[0]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def origin(name: str, result: Result) -> str:
    """Where numbers come from: file, command, n, machine, versions, commit."""
    machine, peers = result["machine"], result.get("peer_versions", {})
    place = machine.get("gpu") or f"{machine['cpu']}, {machine['cpus']} cores"
    versions = {"torch": machine["versions"]["torch"], "timm": machine["versions"]["timm"]}
    versions |= {name: v for name, v in peers.items() if v}
    changed = result.get("changed_files", 0)
    told = f"commit {result['commit'][:10]}" + (f" with {changed} changed files" if changed else "")
    n = result.get("repeats") or result.get("rounds") or 1
    return (
        f"`{result.get('command') or old_command(name, result)}`  \n"
        f"[{name}](../benchmarks/results/{name}): n = {n}, {place}, {machine['threads']} threads, "
        + ", ".join(f"{k} {v}" for k, v in versions.items())
        + f", {told}."
    )


def old_command(name: str, result: Result) -> str:
    """The command of a result that did not write it down, from what it did."""
    if kind_of(name) == "loader":
        photos = "--photos DIR " if result["images"].endswith("photos") else ""
        return (
            f"python benchmarks/loader.py {photos}--batch-size {result['batch_size']}"
            f" --rounds {result['rounds']} --workers {result['workers']}"
        )
    return (
        f"python benchmarks/throughput.py --device {result['machine']['device']} --model"
        f" {result['model']} --batch-size {result['batch_size']} --repeats {result['repeats']}"
    )


def throughput(name: str, result: Result) -> str:
    """Images a second of each, fastest first."""
    rows = []
    for row in sorted(result["rows"], key=lambda r: -r["images_per_s"]):
        if "failed" in row:
            rows.append([row["name"], row["failed"].replace("|", "/")[:80], *[""] * 5])
            continue
        settings = row.get("settings", {})
        words = ", ".join(f"{k} {v}" for k, v in settings.items() if v != "no")
        share = f"{row['mfu_matmul']:.0%}" if "mfu_matmul" in row else ""
        held = f"{row['peak_bytes'] / MIB:,.0f}" if row.get("peak_bytes") else ""
        spread = f"{_spread(row['all_s']):.1%}"
        batch = str(row.get("batch_size", result["batch_size"]))
        rate = f"{row['images_per_s']:.2f}"
        rows.append([row["name"], rate, spread, batch, share, held, words])
    decoder = "{}x{}, {} heads".format(*result.get("decoder", [8, 512, 16]))
    pixels = result.get("image_size", 224)
    text = [
        f"### {result['model']}, {pixels} px, decoder {decoder}, {result['precision']},"
        f" {result['machine']['device']}"
        + ("" if result.get("interleaved", True) else ", each alone at its largest batch"),
        origin(name, result),
        table(["", "images/s", "spread", "batch", "of matmul", "MiB", "settings"], rows),
        f"Against the best tuned other: {_times(result['ratio_to_best_peer'])}."
        + (
            f" Against the best as shipped: {_times(result['ratio_as_shipped'])}."
            if "ratio_as_shipped" in result
            else ""
        ),
    ]
    text.append(_agreement(result))
    text += [f"Not measured: {k}, {v}." for k, v in result.get("absent", {}).items()]
    for costs in result.get("costs", []):
        text.append(f"Largest costs of {costs['row']}: " + "; ".join(costs["three_largest"]) + ".")
    return "\n\n".join(text)


def _spread(times: list[float]) -> float:
    low, median, high = statistics.quantiles(times, n=4) if len(times) > 3 else (0.0, 1.0, 0.0)
    return (high - low) / 2 / median


def _agreement(result: Result) -> str:
    """What is known of the losses before timing."""
    found = result["loss_difference"]
    if not isinstance(found, dict):
        return "An earlier form of the script: the other's weights were its own."
    told = ", ".join(f"{name} {difference:.1e}" for name, difference in found.items())
    notes = {row["family"]: row["note"] for row in result["rows"] if row.get("note")}
    more = "".join(f" {name}: {note}." for name, note in notes.items())
    return f"Losses before timing, relative to the published formulation: {told}.{more}"


def _times(ratio: float | None) -> str:
    return "no other was measured" if ratio is None else f"{ratio:.3f} times"


def memory(name: str, result: Result) -> str:
    """Bytes of a step."""
    keys = ("peak_bytes", "before_bytes", "step_bytes")
    rows = [[r["name"], *(f"{r[k] / MIB:,.0f}" for k in keys)] for r in result["rows"]]
    head = f"### {result['model']}, batch {result['batch_size']}, {result['machine']['device']}"
    words = ["", "most, MiB", "before the first step", "of the steps"]
    return "\n\n".join([head, origin(name, result), table(words, rows)])


def startup(name: str, result: Result) -> str:
    """Seconds of commands."""
    rows = [
        [f"`{r['name']}`", f"{r['median_s']:.2f}", f"{r['goal_s']}" if r["goal_s"] else ""]
        for r in result["rows"]
    ]
    return "\n\n".join([origin(name, result), table(["", "s", "goal"], rows)])


def dense(name: str, result: Result) -> str:
    """Images a second and peak memory of training and prediction."""
    rows = [
        [r["name"], f"{r['parameters'] / 1e6:.0f} M", *_pair(r, "train"), *_pair(r, "predict")]
        for r in result["rows"]
    ]
    words = ["", "parameters", "training, images/s", "GiB", "prediction, images/s", "GiB"]
    told = result["settings"]
    head = f"### {told['task']}, {told['size']} px, batch {told['batch_size']}"
    return "\n\n".join([head, origin(name, result | told), table(words, rows)])


def _pair(row: Result, kind: str) -> list[str]:
    return [f"{row[kind]['images_per_s']:.2f}", f"{row[f'{kind}_peak_bytes'] / 2**30:.1f}"]


def scaling(name: str, result: Result) -> str:
    """Rate by threads."""
    rows = [
        [str(r["threads"]), f"{r['images_per_s']:.2f}", f"{r['efficiency']:.0%}"]
        for r in result["rows"]
    ]
    words = ["threads", "images/s", "efficiency"]
    return "\n\n".join([f"### {result['model']}", origin(name, result), table(words, rows)])


def ranks(name: str, result: Result) -> str:
    """One rank against several."""
    rows = [[r["name"], f"{r['median_s']:.3f}", f"{r['images_per_s']:.2f}"] for r in result["rows"]]
    text = (
        f"{result['ranks']} ranks of {result['rank_threads']} thread and {result['batch_size']}"
        f" images do {result['efficiency']:.0%} of {result['ranks']} times the work of one: what"
        f" they share (caches, memory) costs {result['sharing_share']:.1%} of a step, communication"
        f" {result['communication_share']:.1%}."
    )
    words = ["", "s a step", "images/s"]
    return "\n\n".join([f"### {result['model']}", origin(name, result), table(words, rows), text])


def curves(name: str, result: Result) -> str:
    """How far two curves are apart."""
    rows = [
        [
            precision,
            f"{r['first_loss']:.4f} -> {r['last_loss']:.4f}",
            f"{r['fast_from_plain']:.1e}",
            f"{r['reversed_from_plain']:.1e}",
        ]
        for precision, r in result["precisions"].items()
    ]
    text = (
        f"{result['data']}, {result['steps']} steps, batch {result['batch_size']}, seed"
        f" {result['seed']}, the same images and masks. The largest relative difference of the"
        " loss from the published formulation's, over all steps: of the fast path, and, for scale,"
        " of the published formulation with each batch in reverse order."
    )
    words = ["", "loss", "fast path", "reversed batch"]
    return "\n\n".join([text, origin(name, result), table(words, rows)])


def loader(name: str, result: Result) -> str:
    """The data path."""
    end = result["end_to_end_images_per_s"]
    rows = [
        [
            r["name"],
            f"{r['images_per_s']:.0f}",
            f"{r['ratio_to_classic']:.2f}",
            f"{r['cpu_ratio_to_classic']:.2f}",
            f"{end[r['name']]:.0f}" if r["name"] in end else "",
        ]
        for r in result["rows"]
    ]
    workers = f"{result['workers']} workers, images/s"
    words = ["one process", "images/s", "to classic", "to classic, CPU time", workers]
    return "\n\n".join([origin(name, result), table(words, rows)])


SECTIONS: dict[str, tuple[str, str, Callable[[str, Result], str]]] = {
    "throughput": (
        "Training step",
        "Forward, backward and AdamW on random data, all in one process in turn, medians; spread"
        " is\nhalf of the interquartile range over the median. Weights and mask are shared for a"
        " comparison\nof losses before anyone is timed. Of matmul: the operations of the published"
        " formulation over\nthe rate of a large matmul in the same run, whatever is left out. The"
        " full path is the published\nformulation in our code. Where the settings of ours say"
        " `products onednn`, as `openmae pretrain`\nchooses on an AMD CPU, linear layers are"
        " multiplied by oneDNN. That is code of our own and no\nsetting of torch, so no other has"
        " it, tuned or not.",
        throughput,
    ),
    "memory": ("Memory", "A process each.", memory),
    "loader": ("Data path", "JPEG files to training batches; the classic path is Pillow.", loader),
    "startup": ("Start-up", "Medians of processes, with a warm file cache.", startup),
    "scaling": ("Threads", "One process, the training step.", scaling),
    "ranks": (
        "Ranks",
        "One rank alone, all at once without exchanging gradients, and as they train (DDP over"
        " gloo),\nin turn.",
        ranks,
    ),
    "dense": ("Detection, segmentation", "Beside networks without a ViT, in turn.", dense),
    "curves": ("The same curve", "The fast path is exact.", curves),
}


def page(results: dict[str, Result]) -> str:
    """The whole page."""
    parts = [HEAD]
    for kind, (title, words, write) in SECTIONS.items():
        mine = {n: r for n, r in results.items() if kind_of(n) == kind}
        parts.append(f"## {title}\n\n{words}\n")
        if kind == "throughput" and mine:
            parts.append(f"![images a second]({PICTURE})\n")
        parts += [write(name, result) + "\n" for name, result in mine.items()]
        if not mine:
            parts.append("Not run yet.\n")
    return "\n".join(parts)


def main() -> None:
    """Write, or check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing")
    args = parser.parse_args()
    results = load(RESULTS)
    timed = {n: r for n, r in results.items() if kind_of(n) == "throughput"}
    text, picture = page(results), PAGE.parent / PICTURE
    if args.check:
        same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        drawn = picture.exists() and digest(timed) in picture.read_text(encoding="utf-8")
        if not (same and drawn):
            raise SystemExit("docs/performance.md is not what the results say: run report.py")
        return
    PAGE.write_text(text, encoding="utf-8")
    draw(timed, picture)


if __name__ == "__main__":
    main()
