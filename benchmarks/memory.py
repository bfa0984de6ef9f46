"""Memory of a pretraining step of each implementation: one process each, so that nobody pays for
another's.

Three numbers: the most that the process (on CUDA: torch's allocator) ever held, what it held before
its first step, and the difference, which is gradients, the optimizer's state and what the forward
pass keeps for the backward pass.

    python benchmarks/memory.py --device cpu --model vit_base_patch16_224 --batch-size 16 \\
        --json out.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import record
import torch
from peers import PEERS
from steps import OURS, THEIRS, Rows, add_sizes, described, model_of, random_images

from openmae.engine.device import resolve_device, resolve_precision
from openmae.engine.measure import wait
from openmae.engine.memory import peak, reset_peak

STEPS = 3  # the first makes the optimizer's state, the second has it beside everything else


def child(args: argparse.Namespace) -> dict[str, Any]:
    """One implementation in this process."""
    device = torch.device(args.device)
    rows = Rows(model_of(args), args)
    if rows.family(args.family) is None:
        return {"absent": rows.absent[args.family]}
    # On CPU tuning would run a forward and a backward pass first and blur what was there before.
    rows.tuned[args.family] = {"attention": "sdpa", "channels": "first"}
    row = rows.row(args.family, args.variant, random_images(rows.model, args.batch, device))
    row.prepare()
    wait(device)
    reset_peak(device)
    before = _now(device)
    for _ in range(STEPS):
        row.step()
    wait(device)
    most = peak(device)
    return {"peak_bytes": most, "before_bytes": before, "step_bytes": most - before}


def _now(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))
    except (OSError, StopIteration):
        return peak(device)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Every implementation in turn, `repeats` times."""
    wanted = [("openmae", v) for v in OURS]
    wanted += [(name, v) for name in args.peers for v in THEIRS]
    found: dict[tuple[str, str], list[dict[str, Any]]] = {pair: [] for pair in wanted}
    absent: dict[str, str] = {}
    for _ in range(args.repeats):
        for family, variant in wanted:
            if family in absent:
                continue
            told = _ask(family, variant)
            if "absent" in told:
                absent[family] = told["absent"]
            else:
                found[family, variant].append(told)
    keys = ("peak_bytes", "before_bytes", "step_bytes")
    rows = [
        {"name": f"{family}, {variant}", "family": family, "variant": variant, "n": len(told)}
        | {key: statistics.median(t[key] for t in told) for key in keys}
        | {"all_peak_bytes": [t["peak_bytes"] for t in told]}
        for (family, variant), told in found.items()
        if told
    ]
    return {
        "benchmark": "memory",
        **record.origin(torch.device(args.device)),
        **described(args),
        "batch_size": args.batch,
        "precision": args.precision,
        "repeats": args.repeats,
        "absent": absent,
        "rows": rows,
    }


def _ask(family: str, variant: str) -> dict[str, Any]:
    words = [sys.executable, __file__, *sys.argv[1:], "--family", family, "--variant", variant]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{family}, {variant} failed:\n{done.stderr[-1500:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_sizes(parser)
    add("--device", default="auto")
    add("--batch-size", type=int, default=16, dest="batch")
    add("--repeats", type=int, default=3)
    add("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    add("--peers", default="all", help="comma-separated, all or none")
    add("--json", type=Path)
    add("--family", help=argparse.SUPPRESS)
    add("--variant", help=argparse.SUPPRESS)
    args = parser.parse_args()
    known = {"all": list(PEERS), "none": []}
    args.peers = known.get(args.peers) if args.peers in known else args.peers.split(",")
    args.device = str(resolve_device(args.device))
    args.precision = resolve_precision(args.precision, torch.device(args.device))
    args.compile = False
    return args


def main() -> None:
    """Measure, print and write JSON."""
    args = parse()
    if args.family:
        print(json.dumps(child(args)))
        return
    result = measure(args)
    for row in result["rows"]:
        print(
            f"{row['name']:<36} peak {row['peak_bytes'] / 2**20:8.0f} MiB, of a step"
            f" {row['step_bytes'] / 2**20:8.0f} MiB"
        )
    for name, reason in result["absent"].items():
        print(f"{name:<36} {reason}")
    record.write(args.json, result)


if __name__ == "__main__":
    main()
