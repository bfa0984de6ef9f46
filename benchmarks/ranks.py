"""What several ranks cost on one machine: a step of several against a step of one, with the same
batch and threads for each rank, in turn, medians.

Three windows take turns: rank 0 alone while the others wait; all ranks at once without exchanging
gradients; all ranks as they train (DDP, the vote before each step). The second against the first is
what cores, caches and memory cost that ranks share; the third against the second is communication.

    python benchmarks/ranks.py --model vit_small_patch16_224 --ranks 2 --threads 1 --repeats 7 \\
        --json out.json
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record
import torch
from steps import add_sizes, described, model_of, random_images

from openmae.engine.device import cpu_count, threads
from openmae.engine.distributed import World, joined
from openmae.engine.loop import Plan, State, training_step
from openmae.engine.optim import Schedule, adamw
from openmae.engine.parallel import Layout, parallelize

KINDS = ("alone", "together", "exchanging")
WARM_UP = 2  # rounds


def plan(world: World, rows: int) -> Plan:
    """One optimiser step of `rows` images on each rank."""
    return Plan(
        total=1_000_000,
        global_batch=rows * world.size,
        micro_batch=rows,
        schedule=Schedule(1e-5, 0.0, 0, 1_000_000),
        seed=0,
        device=torch.device("cpu"),
        precision="fp32",
        epoch_images=rows,
        world=world,
    )


def rank_main(args: argparse.Namespace) -> None:
    """One rank; the first one writes seconds a step of each kind to `args.times`."""
    with joined("cpu") as world, threads(args.threads):
        model = model_of(args)
        images = random_images(model, args.batch, torch.device("cpu"))
        optimizer = adamw(model, 1e-5, (0.9, 0.95), 0.05)
        forward = parallelize(model, False, world, Layout("ddp"))
        batch = {"image": images}
        states = {
            "alone": (State(model, optimizer, None), plan(World(), args.batch)),
            "together": (State(model, optimizer, None), plan(World(), args.batch)),
            "exchanging": (State(model, optimizer, None, forward=forward), plan(world, args.batch)),
        }
        times: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(args.repeats + WARM_UP):
            for kind in KINDS:
                state, own = states[kind]
                world.barrier()
                began = time.perf_counter()
                if kind != "alone" or world.main:
                    own.world.vote(0)
                    training_step(state, batch, own)
                if kind != "alone":
                    world.barrier()  # the slowest rank
                if number >= WARM_UP:
                    times[kind].append(time.perf_counter() - began)
        if world.main:
            args.times.write_text(json.dumps(times), encoding="utf-8")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Start the ranks and read what the first one found."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
        found.close()
        times = Path(folder) / "times.json"
        started = []
        for rank in range(args.ranks):
            told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": args.ranks}
            told |= {"LOCAL_WORLD_SIZE": args.ranks, "MASTER_ADDR": "127.0.0.1"}
            told |= {"MASTER_PORT": port, "OMP_NUM_THREADS": args.threads}
            environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
            environment |= {name: str(value) for name, value in told.items()}
            words = [sys.executable, __file__, *sys.argv[1:], "--times", str(times)]
            started.append(subprocess.Popen(words, env=environment))
        codes = [one.wait() for one in started]
        if any(codes):
            raise SystemExit(f"ranks ended with {codes}")
        seconds: dict[str, list[float]] = json.loads(times.read_text(encoding="utf-8"))
    rows = [
        {
            "name": kind,
            **record.summary(taken),
            "images_per_s": (1 if kind == "alone" else args.ranks)
            * args.batch
            / record.summary(taken)["median_s"],
        }
        for kind, taken in seconds.items()
    ]
    alone, together, exchanging = (row["median_s"] for row in rows)
    return {
        "benchmark": "ranks",
        **record.origin(torch.device("cpu")),
        "cores": cpu_count(),
        **described(args),
        "ranks": args.ranks,
        "rank_threads": args.threads,
        "batch_size": args.batch,
        "repeats": args.repeats,
        "rows": rows,
        "efficiency": alone / exchanging,
        "sharing_share": (together - alone) / exchanging,
        "communication_share": (exchanging - together) / exchanging,
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_sizes(parser)
    add("--ranks", type=int, default=2)
    add("--threads", type=int, default=1, help="of each rank")
    add("--batch-size", type=int, default=16, dest="batch", help="of each rank")
    add("--repeats", type=int, default=7)
    add("--times", type=Path, help=argparse.SUPPRESS)  # said to the ranks
    add("--json", type=Path)
    args = parser.parse_args()
    return args


def main() -> None:
    """Measure, print and write JSON; or be one of the ranks."""
    args = parse()
    if args.times is not None:
        rank_main(args)
        return
    result = measure(args)
    for row in result["rows"]:
        print(f"{row['name']:<12}{row['images_per_s']:8.2f} img/s  {row['median_s']:.3f} s a step")
    print(
        f"efficiency {result['efficiency']:.0%}: what ranks share costs"
        f" {result['sharing_share']:.0%}, communication {result['communication_share']:.0%}"
    )
    record.write(args.json, result)


if __name__ == "__main__":
    main()
