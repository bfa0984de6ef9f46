"""Images a second of OpenMAE's training step against the number of CPU threads, in one process, in
turn, medians.

Efficiency is the rate over that of one thread and the number of threads. With as many threads as
cores nothing else must run.

    python benchmarks/scaling.py --threads 1,2 --model vit_base_patch16_224 --json out.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import record
import torch
from steps import Rows, add_sizes, described, model_of, random_images
from throughput import WARM_UP, window

from openmae.engine.device import cpu_count, threads


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Every number of threads in turn."""
    device = torch.device("cpu")
    rows = Rows(model_of(args), args)
    row = rows.row("openmae", "training path", random_images(rows.model, args.batch, device))
    times: dict[int, list[float]] = {count: [] for count in args.threads}
    for number in range(args.repeats + WARM_UP):
        for count in args.threads:
            with threads(count):
                seconds = window(row, 1, device)
            if number >= WARM_UP:
                times[count].append(seconds)
    found = [{"threads": count, **record.summary(taken)} for count, taken in sorted(times.items())]
    one = found[0]
    for line in found:
        line["images_per_s"] = args.batch / line["median_s"]
        speedup = one["median_s"] / line["median_s"]
        line["efficiency"] = speedup * one["threads"] / line["threads"]
    return {
        "benchmark": "scaling",
        **record.origin(device),
        "cores": cpu_count(),
        **described(args),
        "batch_size": args.batch,
        "repeats": args.repeats,
        "rows": found,
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_sizes(parser)
    add("--batch-size", type=int, default=16, dest="batch")
    add("--repeats", type=int, default=7)
    add("--threads", default="1,2", help="numbers of threads, comma-separated")
    add("--json", type=Path)
    args = parser.parse_args()
    args.threads = sorted({int(word) for word in args.threads.split(",")})
    if args.threads[-1] > cpu_count():
        parser.error(f"--threads {args.threads[-1]}: this process may use {cpu_count()} cores")
    args.device, args.precision, args.compile, args.peers = "cpu", "fp32", False, []
    return args


def main() -> None:
    """Measure, print and write JSON."""
    args = parse()
    result = measure(args)
    for row in result["rows"]:
        print(
            f"{row['threads']} threads {row['images_per_s']:8.2f} img/s"
            f"   efficiency {row['efficiency']:.0%}"
        )
    record.write(args.json, result)


if __name__ == "__main__":
    main()
