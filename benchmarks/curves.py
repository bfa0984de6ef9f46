"""Loss curves of the fast path and of the published formulation: the same start, images and masks,
step by step.

Both are the same function, so in double precision they stay together to rounding. In single
precision rounding grows over the steps of a training, so a third run says how much: the published
formulation with every batch in reverse order, which is the same function as well.

    python benchmarks/curves.py --steps 300 --json benchmarks/results/curves-digits.json
    python benchmarks/curves.py --data CIFAR10/train --image-size 32 --steps 300 --json out.json
"""

from __future__ import annotations

import argparse
import copy
import math
from pathlib import Path
from typing import Any

import record
import torch
from torch import Tensor

from openmae.data.loader import TrainBatches
from openmae.data.sources import open_source
from openmae.data.transforms import TrainTransform
from openmae.data.values import Decoding
from openmae.engine.device import threads
from openmae.engine.optim import Schedule, adamw
from openmae.methods.mae import MAE
from openmae.randomness import Rand

RUNS = ("fast", "plain", "plain, batch reversed")


def train(
    name: str, start: MAE, batches: TrainBatches, steps: int, lr: float, seed: int
) -> list[float]:
    """Losses of one run from `start`, which is left alone."""
    model = copy.deepcopy(start)
    optimizer = adamw(model, lr, (0.9, 0.95), 0.05)
    schedule = Schedule(lr, 0.0, steps // 10, steps)
    losses = []
    for step in range(steps):
        images = batches[step]["image"]
        rand = Rand(seed, step, step / steps, step * len(images), len(images))
        noise = rand.uniform("mask", (len(images), model.encoder.grid[0] * model.encoder.grid[1]))
        loss = _loss(name, model, images, noise)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    return losses


def _loss(name: str, model: MAE, images: Tensor, noise: Tensor) -> Tensor:
    if name.endswith("reversed"):
        images, noise = images.flip(0), noise.flip(0)
    return model(images, noise=noise, full=name != "fast")["loss"]


def largest(a: list[float], b: list[float]) -> float:
    """The largest relative difference of two curves."""
    return max(abs(x - y) / abs(y) for x, y in zip(a, b, strict=True))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All runs in both precisions."""
    source = open_source(args.data).decoded(Decoding(channels=args.channels))
    size = (args.image_size, args.image_size)
    batches = TrainBatches(source, TrainTransform(size, seed=args.seed), args.seed, args.batch)
    torch.manual_seed(args.seed)
    model = MAE(
        "vit_tiny_patch16_224",
        image_size=args.image_size,
        patch_size=args.patch_size,
        in_chans=args.channels,
        encoder_args={"embed_dim": args.dim, "depth": args.depth, "num_heads": args.dim // 16},
        decoder_dim=args.dim,
        decoder_depth=2,
        decoder_heads=args.dim // 16,
    )
    found = {}
    for precision, start in (("float64", copy.deepcopy(model).double()), ("float32", model)):
        curves = {n: train(n, start, batches, args.steps, args.lr, args.seed) for n in RUNS}
        if not all(math.isfinite(x) for curve in curves.values() for x in curve):
            raise SystemExit(f"{precision}: a loss is not finite; use a lower --lr")
        found[precision] = {
            "fast_from_plain": largest(curves["fast"], curves["plain"]),
            "reversed_from_plain": largest(curves[RUNS[2]], curves["plain"]),
            "first_loss": curves["plain"][0],
            "last_loss": curves["plain"][-1],
            "fast": curves["fast"],
            "plain": curves["plain"],
        }
    return {
        "benchmark": "curves",
        **record.origin(torch.device("cpu")),
        "data": "digits" if args.data == "digits" else Path(args.data).name,
        "images": len(source),
        "steps": args.steps,
        "batch_size": args.batch,
        "lr": args.lr,
        "seed": args.seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "precisions": found,
    }


def main() -> None:
    """Parse the words, train, print and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", default="digits", help="digits, or what openmae pretrain reads")
    add("--steps", type=int, default=300)
    add("--batch-size", type=int, default=64, dest="batch")
    add("--channels", type=int, help="1 for digits, else 3")
    add("--image-size", type=int, default=16)
    add("--patch-size", type=int, default=4)
    add("--dim", type=int, default=64, help="width of encoder and decoder")
    add("--depth", type=int, default=4)
    add("--lr", type=float, default=1e-3)
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=1)
    add("--json", type=Path)
    args = parser.parse_args()
    args.channels = args.channels or (1 if args.data == "digits" else 3)
    with threads(args.threads):
        result = measure(args)
    for precision, row in result["precisions"].items():
        print(
            f"{precision}: loss {row['first_loss']:.4f} -> {row['last_loss']:.4f} in"
            f" {args.steps} steps; fast from plain at most {row['fast_from_plain']:.1e};"
            f" the batch reversed {row['reversed_from_plain']:.1e}"
        )
    record.write(args.json, result)


if __name__ == "__main__":
    main()
