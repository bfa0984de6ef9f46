"""Images a second of a pretraining step: OpenMAE against the published formulation and
transformers' ViTMAE.

One process, the implementations in turn (A B C A B C ...), medians, random data, forward + backward
+ fused AdamW, the same architecture, batch, precision and threads for all; transformers with SDPA
attention and normalised pixels. The published formulation is `MAE(..., full=True)`: embed every
patch, restore the order, decode everything. Before timing counts, its loss must equal the training
path's.

    python benchmarks/throughput.py --device cpu --model vit_tiny_patch16_224 --batch-size 16
    --repeats 7 --json out.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openmae.engine.device import autocast, environment
from openmae.methods.mae import MAE


def ours(model: MAE, full: bool) -> Callable[[Tensor], Tensor]:
    """Loss of a batch by the training path or by the plain one."""
    return lambda images: model(images, full=full)["loss"]


def peer(model: MAE) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """transformers' ViTMAE of the same sizes; its weights do not matter for speed."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    vit, decoder = model.encoder.vit, model.decoder
    config = ViTMAEConfig(
        hidden_size=vit.embed_dim,
        num_hidden_layers=len(vit.blocks),
        num_attention_heads=vit.blocks[0].attn.num_heads,
        intermediate_size=vit.blocks[0].mlp.fc1.out_features,
        image_size=model.encoder.image_size[0],
        patch_size=model.encoder.patch[0],
        decoder_hidden_size=decoder.embed.out_features,
        decoder_num_hidden_layers=len(decoder.blocks),
        decoder_num_attention_heads=decoder.blocks[0].attn.num_heads,
        decoder_intermediate_size=decoder.blocks[0].mlp.fc1.out_features,
        mask_ratio=model.mask_ratio,
        norm_pix_loss=model.target == "norm_pixels",
        layer_norm_eps=1e-6,
    )
    config._attn_implementation = "sdpa"
    other = ViTMAEForPreTraining(config).to(next(model.parameters()).device)
    return other, lambda images: other(images).loss


def step_time(
    module: nn.Module, loss_of: Callable[[Tensor], Tensor], images: Tensor, precision: str
) -> Callable[[], float]:
    """A function that runs one training step and returns its seconds."""
    optimizer = torch.optim.AdamW(
        [p for p in module.parameters() if p.requires_grad], lr=1e-4, fused=True
    )

    def step() -> float:
        _wait(images.device)
        start = time.perf_counter()
        with autocast(precision, images.device):
            loss = loss_of(images)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _wait(images.device)
        return time.perf_counter() - start

    return step


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_equal(model: MAE, images: Tensor) -> float:
    """Relative difference of the two paths' losses on the same mask."""
    noise = torch.rand(
        len(images), model.encoder.grid[0] * model.encoder.grid[1], device=images.device
    )
    with torch.no_grad():
        a, b = (float(model(images, noise=noise, full=full)["loss"]) for full in (False, True))
    return abs(a - b) / abs(b)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All implementations in turn."""
    device = torch.device(args.device)
    precision = "bf16" if device.type == "cuda" else "fp32"
    torch.manual_seed(0)
    model = MAE(args.model).to(device)
    images = torch.randn(args.batch_size, 3, *model.encoder.image_size, device=device)
    difference = check_equal(model, images)
    if difference > 1e-4:
        raise SystemExit(
            f"the two paths differ by {difference:.1e}: timing would compare different maths"
        )
    other, other_loss = peer(model)
    steps = {
        "openmae": step_time(model, ours(model, False), images, precision),
        "published formulation": step_time(model, ours(model, True), images, precision),
        "transformers ViTMAE (sdpa, fused AdamW)": step_time(other, other_loss, images, precision),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(args.repeats + 2):
        for name, step in steps.items():
            seconds = step()
            if repeat >= 2:  # the first two warm up
                times[name].append(seconds)
    rows = [
        {
            "name": name,
            "median_s": statistics.median(t),
            "images_per_s": args.batch_size / statistics.median(t),
            "all_s": t,
        }
        for name, t in times.items()
    ]
    best = max(r["images_per_s"] for r in rows[1:])
    return {
        "rows": rows,
        "ratio_to_best_peer": rows[0]["images_per_s"] / best,
        "loss_difference": difference,
        "model": args.model,
        "batch_size": args.batch_size,
        "repeats": args.repeats,
        "precision": precision,
        "machine": environment(device),
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True
        ).stdout.strip(),
    }


def main() -> None:
    """Parse the words, measure, print and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result = measure(args)
    for row in result["rows"]:
        rate, median = row["images_per_s"], row["median_s"] * 1e3
        print(f"{row['name']:<42} {rate:8.2f} img/s   median {median:9.1f} ms")
    print(f"ratio to the best other: {result['ratio_to_best_peer']:.3f}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
