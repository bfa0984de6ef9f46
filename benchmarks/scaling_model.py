"""docs/scaling.md: what pretraining on 8 to 1,024 GPUs needs and where it stops scaling, on paper.
The formulas are in scaling_formulas.py; the one measured file is VOTE.

python benchmarks/scaling_model.py            write the page
python benchmarks/scaling_model.py --check    say whether the page in docs is the one that it gives
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

import scaling_formulas as f
from report import table

from openmae.engine.parallel import SHARD_ABOVE

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/scaling.md"
VOTE = ROOT / "benchmarks/results/scaling/vote-cpu.json"
COUNTS, LAYOUTS = (8, 16, 32, 64, 128, 256, 512, 1024), ("ddp", "fsdp", "hsdp")
BATCH, EPOCHS, IMAGENET = 4096, 800, 1_281_167

HEAD = """# Scaling, on paper

Written by `python benchmarks/scaling_model.py`; a test compares. **No GPU cluster was used**: these
are predictions from the formulas in `benchmarks/scaling_formulas.py`, the sizes of our own models
and the assumptions below. Measured inputs are marked. GB are 1e9 bytes."""


def hop() -> float:
    """Seconds of one step of gloo's ring, measured: half of a vote of two ranks."""
    rows = json.loads(VOTE.read_text(encoding="utf-8"))["rows"]
    return float(next(r["median_s"] for r in rows if r["ranks"] == 2)) / 2


def layout_of(model: f.Model) -> str:
    """What `--parallel auto` takes."""
    return "fsdp" if model.parameters > SHARD_ABOVE else "ddp"


def words(*lines: str) -> str:
    """Lines of the script as a paragraph of the page."""
    return textwrap.fill(" ".join(lines), 100)


def per_model(head: list[str], row: Callable[[f.Model], Iterable[str]]) -> str:
    """A table of the models."""
    return table(["model", *head], [[m.name, *row(m)] for m in f.MODELS])


def gb(size: float) -> str:
    """Bytes in GB, with as many digits as mean something."""
    return f"{size / 1e9:,.0f}" if size >= 20e9 else f"{size / 1e9:.2g}"


def assumptions() -> str:
    """What the figures rest on."""
    rows = [
        ["GPU", f"H100 SXM: {f.PEAK / 1e12:.0f} TFLOP/s dense bf16, 80 GB", "NVIDIA's data sheet"],
        ["reached of it", f"{f.MFU:.0%} of the peak, for every model", "assumed, not measured"],
        ["NVLink", f"{f.NVLINK / 1e9:.0f} GB/s each way, 8 GPUs a node", "NVIDIA's data sheet"],
        ["network", f"{f.NETWORK / 1e9:.0f} GB/s a GPU (400 Gb/s InfiniBand)", "published rate"],
        ["reached of links", f"{f.LINK_SHARE:.0%}", "assumed"],
        ["latency", f"{1e6 * f.LATENCY:.0f} us a doubling of ranks, each collective", "assumed"],
        ["overlap", f"{f.OVERLAP:.0%} of a pass: backward; FSDP2 forward too", "assumed"],
        ["a step of the vote", f"{1e6 * hop():.0f} us (gloo, loopback)", "measured, below"],
        ["sha256", f"{f.HASH_RATE / 1e9:.1f} GB/s of one core (AMD EPYC)", "measured"],
        ["failures", "419 in 54 days on 16,384 GPUs", "Llama 3, arXiv 2407.21783"],
        ["restart", f"{f.RESTART:.0f} s until training goes on", "assumed"],
        ["GPU to host", f"{f.COPY_RATE / 1e9:.0f} GB/s (PCIe 5)", "assumed"],
    ]
    return "## Assumptions\n\n" + table(["", "value", "from"], rows)


def sizes() -> str:
    """Parameters, operations, rate."""
    text = words(
        "The paper's decoder (8 x 512), 224 px, 75 % hidden. Parameters are those of our",
        "code, with the decoder; operations are the published formulation's, forward and",
        "backward.",
    )
    rows = per_model(
        ["parameters, M", "GFLOP an image", "images/s a GPU", "`--parallel auto`"],
        lambda m: (
            f"{m.parameters / 1e6:,.0f}", f"{m.size.train() / 1e9:,.0f}",
            f"{1 / f.compute_s(m, 1):,.0f}", layout_of(m),
        ),
    )  # fmt: skip
    return f"## Sizes\n\n{text}\n\n{rows}"


def memory() -> str:
    """State and activations."""
    text = words(
        "Bytes a parameter: weights 4, gradients 4, AdamW 8, averages (`--ema`) 4. DDP: all",
        "of it on each rank, and 2 for autocast's copies. FSDP2: a share of 1/N on each rank,",
        "and two blocks whole. HSDP: a share of 1/8, so nothing is gained beyond a node.",
    )
    state = per_model(
        ["DDP, GB", "with EMA", "FSDP2, N = 8", "N = 64", "N = 1,024", "HSDP"],
        lambda m: (
            gb(f.state_bytes(m, "ddp", 8)), gb(f.state_bytes(m, "ddp", 8, True)),
            *(gb(f.state_bytes(m, "fsdp", n)) for n in (8, 64, 1024)),
            gb(f.state_bytes(m, "hsdp", 64)),
        ),
    )  # fmt: skip
    fits = per_model(
        ["MB an image", "checkpointed", "DDP fits", "FSDP2 fits, N = 64", "HSDP fits"],
        lambda m: (
            f"{f.activation_bytes(m) / 1e6:.0f}", f"{f.activation_bytes(m, True) / 1e6:.0f}",
            *(f"{f.images_that_fit(m, name, 64):,}" for name in LAYOUTS),
        ),
    )  # fmt: skip
    more = words(
        "Activations of an image with bf16 autocast, and the images at a time that fit into",
        "90 % of 80 GB without checkpointing. With it each block keeps its input only, for a",
        "third more operations: no size that fits at all needs it for 64 images at a time,",
        "since three quarters of the patches are never encoded.",
    )
    return f"## Memory of a rank\n\n{text}\n\n{state}\n\n{more}\n\n{fits}"


def traffic() -> str:
    """Bytes of a step."""
    text = words(
        "Bytes that a rank sends in a step for each parameter: DDP 8 (N-1)/N, half of it with",
        "gradients in bf16; FSDP2 12 (N-1)/N (weights twice, gradients once; 8 (N-1)/N when",
        "weights stay after the forward pass); HSDP 12 x 7/8 inside a node and (M-1)/M",
        "between M nodes. The times, for N = 64, are without overlap; beside them the work of",
        "a step of 64 images a GPU.",
    )
    rows = per_model(
        [*(f"{n}, GB, N = 64" for n in LAYOUTS), *(f"{n}, ms" for n in LAYOUTS), "step of 64, ms"],
        lambda m: (
            *(gb(f.traffic(m, name, 64)) for name in LAYOUTS),
            *(f"{1e3 * sum(f.traffic_s(m, name, 64)):.0f}" for name in LAYOUTS),
            f"{1e3 * f.compute_s(m, 64):.0f}",
        ),
    )  # fmt: skip
    return f"## Traffic\n\n{text}\n\n{rows}"


def efficiencies() -> str:
    """The tables of efficiency."""
    head = ["model", "layout", *(f"{n:,}" for n in COUNTS)]

    def rows(images: Callable[[int], float]) -> str:
        lines = []
        for model in f.MODELS:
            for name in LAYOUTS if model.parameters > SHARD_ABOVE else ("ddp", "hsdp"):
                if f.images_that_fit(model, name, COUNTS[0]):
                    cells = [f"{f.efficiency(model, name, n, images(n)):.0%}" for n in COUNTS]
                    lines.append([model.name, name, *cells])
        return table(head, lines)

    about = words(
        "Rate of N GPUs over N times that of one with as many images. Not in it: ranks that",
        "wait for the slowest, the loader, the vote, and matmuls that get less efficient",
        "below some 64 images. Read 100 % as: all traffic fits beside the work.",
    )
    least = min(f.efficiency(m, layout_of(m), n, 256) for m in f.MODELS[:-1] for n in COUNTS)
    more = words(
        f"With 256 images a GPU, up to the 2 B model, the least entry is {least:.0%}. In the",
        "second table the work of a step shrinks with N and its traffic does not: a property",
        "of the batch, not of an implementation.",
    )
    weak = "### 64 images a GPU in each step: the global batch grows with N"
    strong = f"### The paper's global batch of {BATCH:,}, divided by N"
    tables = [weak, rows(lambda _: 64), strong, rows(lambda n: BATCH / n)]
    return "\n\n".join(["## Predicted efficiency", about, *tables, more])


def votes() -> str:
    """The vote of each step."""
    found = json.loads(VOTE.read_text(encoding="utf-8"))
    told = ", ".join(f"{r['ranks']} ranks {1e3 * r['median_s']:.2f} ms" for r in found["rows"])
    rows = [
        [f"{n:,}", f"{1e3 * f.vote_s(hop(), n):.1f}"] + [
            f"{f.vote_s(hop(), n) / f.compute_s(m, 256):.0%}" for m in f.MODELS[:3]
        ]
        for n in COUNTS
    ]  # fmt: skip
    text = words(
        "At each step all ranks agree whether to stop: one number over gloo, a ring of 2 (N -",
        f"1) steps. Measured with n = {found['repeats']} on one machine of 2 cores, shared with",
        f"others (load {found['load']:.1f}): {told}. Four runs gave 0.13-0.18, 0.39-0.48 and",
        "0.97-2.43 ms: from 2 to 4 ranks the formula's factor of 3 (2.7 to 3.1), while 8 ranks",
        f"on 2 cores also wait for their turn (formula: {1e3 * f.vote_s(hop(), 8):.2f} ms). The",
        "table goes on from 2 ranks, as if a network were as quick as that loopback: nothing",
        "beyond one machine was measured. Shares are of a step of 256 images a GPU.",
    )
    head = ["ranks", "vote, ms", *(f"of a step of {m.name}" for m in f.MODELS[:3])]
    return f"## The vote\n\n{text}\n\n{table(head, rows)}"


def checkpoints() -> str:
    """Sizes and times."""
    text = words(
        "Weights and AdamW, 12 bytes a parameter (16 with EMA), written and hashed by rank 0,",
        "one after the other. In the background the run stands still only for the copy to the",
        "host's memory, which must hold it once more.",
    )
    rows = per_model(
        ["GB", "with EMA", "at 1 GB/s, s", "at 5 GB/s, s", "background: stands still, s"],
        lambda m: (
            gb(f.checkpoint_bytes(m)), gb(f.checkpoint_bytes(m, True)),
            f"{f.save_s(m, 1e9):.1f}", f"{f.save_s(m, 5e9):.1f}", f"{f.copy_s(m):.2f}",
        ),
    )  # fmt: skip
    return f"## Checkpoints\n\n{text}\n\n{rows}"


def failures() -> str:
    """The best interval."""
    rows = []
    for n in (8, 64, 256, 1024):
        between = f.mean_time_between_failures(n)
        for model in (f.MODELS[1], f.MODELS[-1]):
            best = f.daly(cost := f.save_s(model, 1e9), between)
            share = f.efficiency(model, layout_of(model), n, BATCH / n)
            run = EPOCHS * f.compute_s(model, IMAGENET) / n / share
            twenty = f.lost(run / 20, cost, between)
            rows.append(
                [f"{n:,}", f"{between / 86_400:,.1f}", model.name, f"{best / 60:.0f}",
                 f"{f.lost(best, cost, between):.2%}", f"{run / 3600:,.1f}", f"{twenty:.2%}"]
            )  # fmt: skip
    head = ["GPUs", "days between failures", "model", "best, min", "lost", "run, h", "20 saves"]
    text = words(
        "A GPU fails as often as in Llama 3's pretraining: once in 50,676 hours, so one of N",
        "fails every 50,676 / N hours. With saves at 1 GB/s: Daly's best interval, the share",
        "of time lost there (saving, doing again, restarts), and what the default of twenty",
        f"saves a run loses, for {EPOCHS} epochs of ImageNet with a batch of {BATCH:,} at the",
        "efficiency above.",
    )
    return f"## Failures\n\n{text}\n\n{table(head, rows)}"


def limits() -> str:
    """What breaks first."""
    lines = []
    for model in f.MODELS:
        name = layout_of(model)
        short = next((n for n in COUNTS if f.efficiency(model, name, n, 64) < 0.9), None)
        batch = next((n for n in COUNTS if f.efficiency(model, name, n, BATCH / n) < 0.9), None)
        vote = next((n for n in COUNTS if f.vote_s(hop(), n) > f.compute_s(model, 256)), None)
        cells = (f"{n:,}" if n else "none to 1,024" for n in (short, batch, vote))
        lines.append([model.name, name, *cells])
    head = ["model", "layout", "64 a GPU", f"{BATCH:,} in all", "vote longer than a step of 256"]
    large, between = f.MODELS[-1], f.mean_time_between_failures(1024)
    save, copy = f.save_s(large, 1e9), f.copy_s(large)
    best, often = f.daly(save, between), f.daly(copy, between)
    points = (
        f"**The batch.** {BATCH:,} images are used up at 64 GPUs. Beyond, give each GPU more of"
        " them by a larger `--batch-size`; the learning rate follows it.",
        "**The vote**, a ring over gloo, grows with N. It is the CPU's work beside the GPU's and"
        " unseen until it takes as long as a step; from there on it must be cast every few steps,"
        " or inside nodes first.",
        f"**DDP's memory.** 18 bytes a parameter fill 90 % of 80 GB at"
        f" {0.9 * f.GPU_MEMORY / 18 / 1e9:.1f} B parameters, without one activation; FSDP2 takes"
        " over at 1.5 B.",
        f"**Rank 0 writes alone.** {large.name}: {gb(f.checkpoint_bytes(large))} GB take"
        f" {save:.0f} s at 1 GB/s and {f.save_s(large, 5e9):.0f} s at 5 GB/s, most of which is"
        f" hashing; in the background, {copy:.0f} s of standing still and as much of the"
        " host's memory. What a job keeps for its last save (`openmae slurm --grace`) must be"
        " longer than that.",
        f"**Failures.** 1,024 GPUs fail every {between / 86_400:.1f} days. The 6.5 B model then"
        f" loses {f.lost(best, save, between):.1%} with a save every {best / 60:.0f} min, and"
        f" {f.lost(often, copy, between):.1%} with one in the background every"
        f" {often / 60:.0f} min, if the disk is that quick.",
    )
    listed = [
        textwrap.fill(f"{number}. {point}", 100, subsequent_indent="   ")
        for number, point in enumerate(points, 1)
    ]
    about = "## What breaks first\n\nThe first N with an efficiency below 90 %, or too slow a vote."
    return "\n\n".join([about, table(head, lines), "\n".join(listed)])


def page() -> str:
    """The whole page."""
    sections = (assumptions, sizes, memory, traffic, efficiencies, votes, checkpoints, failures)
    return "\n\n".join([HEAD, *(write() for write in sections), limits()]) + "\n"


def main() -> None:
    """Write, or check."""
    parser = argparse.ArgumentParser(description="Write docs/scaling.md.")
    parser.add_argument("--check", action="store_true", help="change nothing")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        raise SystemExit(f"{PAGE.name} is not what the script says: run it without --check")


if __name__ == "__main__":
    main()
