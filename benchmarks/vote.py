"""How long a vote of all ranks takes: the all-reduce of one number over gloo, as it decides at each
step whether to stop, against the number of ranks, all on one machine.

    python benchmarks/vote.py --ranks 2,4,8 --json out.json

With more ranks than cores they also wait for each other's turn: read those as an upper bound.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from statistics import median

import record
import torch
import torch.distributed as dist

WARM_UP, VOTES = 50, 500


def vote(store: str, rank: int, size: int) -> float:
    """Median seconds of a vote, seen from one rank."""
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(store, size),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    times, code = [], torch.zeros(1, dtype=torch.int64)
    for _ in range(WARM_UP + VOTES):
        start = time.perf_counter()
        dist.all_reduce(code, dist.ReduceOp.MAX)
        times.append(time.perf_counter() - start)
    dist.barrier()
    dist.destroy_process_group()
    return median(times[WARM_UP:])


def measure(size: int) -> float:
    """Of `size` ranks, forked, since each would take seconds to import torch."""
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(size):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    found = vote(f"{folder}/store", rank, size)
                    Path(folder, str(rank)).write_text(repr(found))
                    code = 0
                finally:
                    os._exit(code)
            children.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        if any(codes):
            raise SystemExit(f"{size} ranks ended with {codes}")
        return median(float(Path(folder, str(rank)).read_text()) for rank in range(size))


def main() -> None:
    """Measure, print and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", default="2,4,8", help="numbers of ranks, comma-separated")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    sizes, times = [int(word) for word in args.ranks.split(",")], {}
    load = os.getloadavg()[0]  # of others, before it begins: they make every figure larger
    for _ in range(args.repeats):
        for size in sizes:
            times.setdefault(size, []).append(measure(size))
    rows = [{"ranks": size, **record.summary(taken)} for size, taken in times.items()]
    for row in rows:
        print(f"{row['ranks']} ranks {1e3 * row['median_s']:.3f} ms")
    result = {"benchmark": "vote", **record.origin(torch.device("cpu"))}
    record.write(
        args.json, result | {"repeats": args.repeats, "votes": VOTES, "load": load, "rows": rows}
    )


if __name__ == "__main__":
    main()
