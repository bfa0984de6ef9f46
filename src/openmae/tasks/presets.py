"""The ablations of the paper as presets: what they vary, at CPU size and as the paper had it.

The small size is a ViT of 64 x 4 on 32-pixel images: it shows the tool and perhaps a tendency. The
paper's numbers need its size (`--paper`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from openmae.config.ablate import parse_budget
from openmae.tasks.grid import Arm

SMALL: Mapping[str, Any] = {
    "model": "vit_tiny_patch16_224", "dim": 64, "depth": 4, "heads": 4, "image_size": 32,
    "patch_size": 4, "decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 4, "batch_size": 32,
    "lr": 1.6e-2, "warmup_epochs": 0.25, "workers": 0,
}  # fmt: skip
"""Of the small presets. Batch and rate are those of a run of a thousand steps: the same 32,000
images of CIFAR-10 in batches of 128 leave the linear probe at that of random weights.
"""

SMALL_BUDGET = "images=32000"
PAPER: Mapping[str, Any] = {
    "model": "vit_large_patch16_224", "image_size": 224, "epochs": 800, "target": "pixels",
    "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
}  # fmt: skip
"""ViT-L, 800 epochs, raw pixels, 75 %, decoder 8 x 512: the base of Table 1."""

PROBE = ("probe",)
BOTH = ("finetune", "probe")


@dataclass(frozen=True)
class Preset:
    """An ablation: its rows at small and at the paper's size, and what the paper found."""

    what: str
    found: str
    small: list[Arm]
    paper: list[Arm]
    small_scores: tuple[str, ...] = PROBE
    paper_scores: tuple[str, ...] = BOTH
    small_args: tuple[str, ...] = ()
    base: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of all rows, small and paper."""
    small_budget: str = SMALL_BUDGET


def _values(name: str, values: tuple[Any, ...], **more: Any) -> list[Arm]:
    return [Arm({name: _said(v)}, {name: v, **more}) for v in values]


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _lengths(unit: str, values: tuple[int, ...]) -> list[Arm]:
    return [Arm({unit: f"{v:,}"}, budget=parse_budget(f"{unit}={v}")) for v in values]


_MASKS = [
    Arm({"mask": mask, "mask_ratio": _said(ratio)}, {"mask": mask, "mask_ratio": ratio})
    for mask, ratio in (("random", 0.75), ("block", 0.5), ("block", 0.75), ("grid", 0.75))
]
_TOKENS = [
    Arm({"mask_tokens": "encoder"}, {"mask_tokens": "encoder"}),
    Arm({"mask_tokens": "decoder"}, {"mask_tokens": "decoder"}),
]
_TARGETS = ("pixels", "norm_pixels", "pca", "tokens", "hog")
_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9)
_LAST = ("0", "1", "2", "4", "6", "12", "18", "24")
_TUNED = ("finetune.epochs=3", "finetune.recipe=cifar10")


def _blocks(values: tuple[str, ...]) -> list[Arm]:
    return [Arm({"finetune.blocks": v}, scores={"finetune": {"blocks": v}}) for v in values]


def _deep(sizes: tuple[int, ...]) -> list[Arm]:
    """Mask tokens in the encoder against decoders of several depths (Table 2)."""
    inside = {"mask_tokens": "encoder", "decoder_depth": sizes[0]}
    arms = [Arm({"encoder sees": "all, with mask tokens", "decoder_depth": str(sizes[0])}, inside)]
    for depth in sizes:
        labels = {"encoder sees": "visible patches", "decoder_depth": str(depth)}
        arms.append(Arm(labels, {"mask_tokens": "decoder", "decoder_depth": depth}))
    return arms


_SIZES = [
    Arm({"encoder": f"{dim} x {depth}"}, {"dim": dim, "depth": depth, "heads": heads})
    for dim, depth, heads in ((32, 4, 2), (64, 4, 4), (128, 4, 4))
]
_MODELS = [
    Arm({"model": name}, {"model": f"{name}_patch16_224"})
    for name in ("vit_tiny", "vit_small", "vit_base")
]
_PATCHES = [Arm({"patch_size": str(p)}, {"patch_size": p, "mask_ratio": 0.75}) for p in (2, 4, 8)]
_STABLE = [
    Arm({"depth": str(depth), "lr": _said(lr)}, {"depth": depth, "lr": lr})
    for depth in (2, 8)
    for lr in (1e-3, 4e-3, 1.6e-2, 6.4e-2)
]
_STABLE_PAPER = [
    Arm({"model": name, "precision": precision, "lr": _said(lr)},
        {"model": f"{name}_patch16_224", "precision": precision, "lr": lr, "epochs": 100})
    for name in ("vit_base", "vit_large")
    for precision in ("fp32", "bf16")
    for lr in (1.5e-4, 6e-4)
]  # fmt: skip

PRESETS: dict[str, Preset] = {
    "table1a": Preset(
        "decoder depth", "probe 65.5 70.0 71.9 73.5 73.3 at 1 2 4 8 12; fine-tuning alike",
        _values("decoder_depth", (1, 2, 4)), _values("decoder_depth", (1, 2, 4, 8, 12)),
    ),
    "table1b": Preset(
        "decoder width", "probe 69.1 71.3 73.5 73.1 73.1 at 128 256 512 768 1024",
        _values("decoder_dim", (16, 32, 64)), _values("decoder_dim", (128, 256, 512, 768, 1024)),
    ),
    "table1c": Preset(
        "mask tokens in the encoder", "probe 59.6 with them, 73.5 without, at 3.3 x the FLOPs",
        _TOKENS, _TOKENS,
    ),
    "table1d": Preset(
        "target",
        "fine-tuning / probe: pixels 84.9/73.5, normalised 85.4/73.9, PCA 84.6/72.3, dVAE tokens"
        " 85.3/71.6",
        _values("target", _TARGETS), _values("target", _TARGETS),
    ),
    "table1e": Preset(
        "augmentation", "probe 65.7 none, 73.1 fixed crop, 73.5 random crop, 71.9 with jitter",
        _values("augment", ("none", "fixed", "crop", "jitter")),
        _values("augment", ("none", "fixed", "crop", "jitter")),
    ),
    "table1f": Preset(
        "mask sampling", "probe: random 75 % 73.5, block 50 % 72.3, block 75 % 63.9, grid 66.0",
        _MASKS, _MASKS,
    ),
    "table2": Preset(
        "cost of mask tokens in the encoder", "2.8 x faster without, 3.7 x with one decoder block",
        _deep((2, 1)), _deep((8, 1)),
    ),
    "fig5": Preset(
        "mask ratio", "probe rises to 73.5 at 75 % and falls after; fine-tuning flat 40-80 %",
        _values("mask_ratio", (0.25, 0.5, 0.75, 0.9)), _values("mask_ratio", _RATIOS),
    ),
    "fig7": Preset(
        "length", "probe 57.3 64.4 69.7 73.5 75.1 at 100 ... 1600 epochs: no end seen",
        _lengths("images", (8_000, 16_000, 32_000, 64_000)),
        _values("epochs", (100, 200, 400, 800, 1600)),
    ),
    "fig9": Preset(
        "blocks that are fine-tuned", "73.5 81.0 83.1 84.2 ... 84.9 at 0 1 2 4 ... 24 blocks",
        _blocks(("0", "0.5", "1", "2", "4")), _blocks(_LAST),
        ("finetune",), ("finetune",), _TUNED,
    ),
    "patch_size": Preset(
        "patch size at one mask ratio", "not in the paper; small images want small patches",
        _PATCHES, _values("patch_size", (8, 16, 32), epochs=400, model="vit_base_patch16_224"),
        small_budget="images=16000",
    ),
    "scale": Preset(
        "size of the encoder", "probe 68.0 75.8 76.6 for B L H (1600 epochs)", _SIZES, _MODELS,
    ),
    "transfer": Preset(
        "what is pretrained on", "Tables 4 to 6; give the sets by --vary data=A,B", [], [],
    ),
    "stability": Preset(
        "depth, precision and rate", "not in the paper; counts diverged runs and skipped steps",
        _STABLE, _STABLE_PAPER, paper_scores=PROBE, small_budget="images=12800",
    ),
}  # fmt: skip
