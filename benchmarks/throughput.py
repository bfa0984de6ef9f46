"""Images a second of a pretraining step: OpenMAE against other implementations.

The same architecture, weights, batch, precision and threads for all, in one process, in turn (A B C
A B C ...): forward, backward and AdamW on random data, medians. Ours: the training path and the
published formulation that our code also has. Peers: transformers' ViTMAE, lightly,
stable-pretraining (where installed), and plain PyTorch written from the paper; each as shipped, and
tuned: fused AdamW, the attention and the memory layout that are fastest for it here, nothing read
back. Before anyone is timed its loss must equal ours with the same weights and mask.

    python benchmarks/throughput.py --device cpu --model vit_base_patch16_224 --batch-size 16 \\
        --repeats 7 --json out.json

With `--batch-size max` each runs alone at the largest batch that fits, found by doubling.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import record
import torch
from peers import PEERS
from profiles import costs, print_costs
from steps import Row, Rows, add_sizes, described, model_of, random_images, require_same
from torch import Tensor

from openmae.engine.device import resolve_device, resolve_precision
from openmae.engine.measure import data_sheet, matmul_rate, wait
from openmae.engine.memory import is_out_of_memory, peak, release, reset_peak
from openmae.methods.mae import MAE
from openmae.tasks.account import size_of

WARM_UP = 2  # rounds


def window(row: Row, steps: int, device: torch.device) -> float:
    """Seconds a step in one window; the device is waited for only at its ends."""
    row.prepare()
    wait(device)
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(steps):
            row.step()
        end.record()
        wait(device)
        return start.elapsed_time(end) / 1e3 / steps
    began = time.perf_counter()
    for _ in range(steps):
        row.step()
    wait(device)
    return (time.perf_counter() - began) / steps


def begin(row: Row, device: torch.device) -> int:
    """The first step (plans, compiling); returns the bytes that it needed above what was there."""
    row.prepare()
    reset_peak(device)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    started = time.perf_counter()
    row.step()
    wait(device)
    row.first_s = time.perf_counter() - started
    return peak(device) - before if device.type == "cuda" else 0


def in_turn(rows: Rows, images: Tensor, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every row at one batch, interleaved."""
    device, made, bytes_of, failed = images.device, [], {}, []
    for family, variant in rows.wanted():
        row = rows.row(family, variant, images)
        try:
            bytes_of[row.name] = begin(row, device)
        except Exception as error:  # a peer that torch cannot compile is a result too
            if "compiled" not in variant:
                raise
            failed.append(_line(row, 0, len(images), {}, f"{type(error).__name__}: {error}"[:300]))
            continue
        made.append(row)
    for number in range(args.repeats + WARM_UP):
        for row in made:
            seconds = window(row, args.window, device)
            if number >= WARM_UP:
                row.times.append(seconds)
        print(f"round {number + 1} of {args.repeats + WARM_UP}", flush=True)
    found = [_line(r, bytes_of[r.name], len(images), record.summary(r.times)) for r in made]
    if args.profile:
        args.costs = [
            costs(row, device) for row in made if row.family == "openmae" or "tuned" in row.variant
        ]
    return found + failed


def largest(rows: Rows, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every row alone, at twice the batch as long as it fits, then timed at the last that did. A
    compiled row begins where the same one without compiling ended.
    """
    device, found, begins = torch.device(args.device), [], dict[str, int]()
    for family, variant in rows.wanted():
        compiled = variant.endswith("compiled")
        batch, best = begins.get(family, args.start) if compiled else args.start, 0
        while batch <= args.most and _fits(rows, family, variant, batch, device):
            best, batch = batch, 2 * batch
        if not best:
            raise SystemExit(f"{family}, {variant}: no room for {batch} images")
        begins[family] = best
        row = rows.row(family, variant, random_images(rows.model, best, device))
        begin(row, device)
        reset_peak(device)
        times = [window(row, args.window, device) for _ in range(args.repeats + WARM_UP)]
        found.append(_line(row, peak(device), best, record.summary(times[WARM_UP:])))
        print(f"{row.name}: {best} images", flush=True)
        rows.forget()
        del row
        release(device)
    return found


def _fits(rows: Rows, family: str, variant: str, batch: int, device: torch.device) -> bool:
    try:
        row = rows.row(family, variant, random_images(rows.model, batch, device))
        for _ in range(2):  # the second has the optimizer's state beside it
            row.prepare()
            row.step()
        wait(device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        rows.forget()
        release(device)
    return True


def _line(
    row: Row, peak_bytes: int, batch: int, times: dict[str, Any], failed: str = ""
) -> dict[str, Any]:
    line = {
        "name": row.name,
        "family": row.family,
        "variant": row.variant,
        "settings": row.settings,
        "batch_size": batch,
        "images_per_s": batch / times["median_s"] if times else 0.0,
        **times,
        "first_step_s": row.first_s,
        "peak_bytes": peak_bytes,
        "parameters": row.parameters,
    }
    return line | ({"note": row.note} if row.note else {}) | ({"failed": failed} if failed else {})


def ratios(lines: list[dict[str, Any]]) -> dict[str, float | str | None]:
    """Ours against the best tuned peer (compiled or not), and against the best as shipped; None
    where there is no peer.
    """

    def best(ours: bool, *variants: str) -> tuple[float, str | None]:
        fit = [r for r in lines if (r["family"] == "openmae") == ours and r["variant"] in variants]
        return max(((r["images_per_s"], r["name"]) for r in fit), default=(0.0, None))

    own, plain = best(True, "training path", "training path, compiled"), best(True, "training path")
    tuned, shipped = best(False, "tuned", "tuned, compiled"), best(False, "as shipped")
    eager = best(False, "tuned")
    return {
        "ratio_to_best_peer": own[0] / tuned[0] if tuned[0] else None,
        "best_peer": tuned[1],
        "ratio_as_shipped": own[0] / shipped[0] if shipped[0] else None,
        "best_as_shipped": shipped[1],
        "ratio_without_compile": plain[0] / eager[0] if eager[0] else None,
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything, as it is written."""
    device = torch.device(args.device)
    model = model_of(args)
    rows = Rows(model, args)
    own = rows.family("openmae")
    assert own is not None
    own_difference = require_same(own, model, args.device)
    before = matmul_rate(device, args.precision)
    if args.batch_size == "max":
        lines = largest(rows, args)
    else:
        lines = in_turn(rows, random_images(model, args.batch, device), args)
    matmul = [before, matmul_rate(device, args.precision)]
    account(lines, model, max(matmul), _sheet(device, args.precision))
    return {
        "benchmark": "throughput",
        **record.origin(device),
        **described(args),
        "batch_size": args.batch_size,
        "interleaved": args.batch_size != "max",
        "repeats": args.repeats,
        "steps_per_window": args.window,
        "precision": args.precision,
        "loss_difference": {"openmae": own_difference, **rows.agreement},
        "absent": rows.absent,
        "matmul_flops_per_s": matmul,
        "rows": lines,
        **ratios(lines),
        **({"costs": args.costs} if args.costs else {}),
    }


def account(lines: list[dict[str, Any]], model: MAE, matmul: float, sheet: float | None) -> None:
    """Add the share of the matmul's rate, and of the data sheet's, that each reaches. All are given
    the operations of the published formulation, whatever they leave out.
    """
    size = size_of(model)
    assert size is not None
    for line in lines:
        rate = size.train() * line["images_per_s"]
        line["mfu_matmul"] = rate / matmul
        line["mfu_sheet"] = rate / sheet if sheet else None


def _sheet(device: torch.device, precision: str) -> float | None:
    if device.type != "cuda":
        return None
    return data_sheet(torch.cuda.get_device_properties(device).name, precision)


def parse() -> argparse.Namespace:
    """The command line, with what "auto" stands for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_sizes(parser)
    add("--device", default="auto")
    add("--batch-size", default="16", help="images, or max: the largest of each")
    add("--repeats", type=int, default=7, help="timed windows of each")
    add("--window", type=int, help="steps of a window; 1 on CPU, 10 on CUDA")
    add("--threads", type=int, help="of the CPU")
    add("--compile", action="store_true", help="further rows: compiled")
    add("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    add("--peers", default="all", help="comma-separated, all or none")
    add("--profile", action="store_true", help="where the time goes, kernel by kernel")
    add("--start", type=int, default=32, help="of --batch-size max: the first batch")
    add("--most", type=int, default=8192, help="of --batch-size max: the last batch")
    add("--json", type=Path)
    args = parser.parse_args()
    known = {"all": list(PEERS), "none": []}
    args.peers = known.get(args.peers) if args.peers in known else args.peers.split(",")
    if unknown := [p for p in args.peers if p not in PEERS]:
        parser.error(f"--peers {unknown[0]}: should be of {', '.join(PEERS)}")
    if args.batch_size != "max" and not (args.batch_size.isdigit() and int(args.batch_size)):
        parser.error(f"--batch-size {args.batch_size}: should be a number of images, or max")
    args.device = str(resolve_device(args.device))
    args.precision = resolve_precision(args.precision, torch.device(args.device))
    args.batch = args.start if args.batch_size == "max" else int(args.batch_size)
    args.batch_size = "max" if args.batch_size == "max" else args.batch
    args.window = args.window or (10 if args.device.startswith("cuda") else 1)
    args.costs = []
    return args


def main() -> None:
    """Measure, print and write JSON."""
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    result = measure(args)
    for row in result["rows"]:
        rate, batch, share = row["images_per_s"], row["batch_size"], row["mfu_matmul"]
        spread = f"+-{row['spread']:.1%}" if "spread" in row else row["failed"][:60]
        print(f"{row['name']:<36} {rate:9.2f} img/s {spread:>7}  batch {batch}  matmul {share:.1%}")
    for name, reason in result["absent"].items():
        print(f"{name:<36} {reason}")
    print_costs(result.get("costs", []))
    for name, words in (("ratio_to_best_peer", "tuned peer"), ("ratio_as_shipped", "as shipped")):
        if result[name] is not None:
            print(f"ratio to the best {words}: {result[name]:.3f}")
    record.write(args.json, result)


if __name__ == "__main__":
    main()
