"""The model card of a converted model: what it is, how it was made, how good it is, its limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from openmae.engine.tensorfile import file_sha256
from openmae.methods import METHODS
from openmae.methods.classify import Classifier
from openmae.methods.mae import MAE
from openmae.models.encoder import Encoder
from openmae.weights.encoderfile import formula
from openmae.weights.load import Loaded
from openmae.weights.writers_huggingface import class_name
from openmae.weights.writers_official import Model, encoder_of

_PRIVATE = {"data", "out", "val", "init", "model", "labels", "resolved"}
"""Settings that name places on somebody's disk."""

_TITLES = {
    "mae": "a masked autoencoder",
    "grouped_mae": "a masked autoencoder of channel groups",
    "simclr": "SimCLR",
    "byol": "BYOL",
    "mocov3": "MoCo v3",
    "dino": "DINO",
    "ibot": "iBOT",
    "simmim": "SimMIM",
    "maskfeat": "MaskFeat",
    "beit": "BEiT",
    "classify": "an image classifier",
    "detect": "a detector",
    "segment": "a segmenter",
}
"""Method -> what its model is called."""


def write_card(
    folder: Path, model: Model, loaded: Loaded, license: str, to: str, name: str
) -> None:
    """Write README.md beside the weights of a model, which was made of what was loaded.

    `name` is what others load the model by: a repository NAME/MODEL, or the folder. No path and no
    file name of the data is in the card.
    """
    task = "image-classification" if isinstance(model, Classifier) else "image-feature-extraction"
    run = loaded.run
    config = _yaml(run / "config.yaml") if run else {}
    method = _method(loaded, config)
    header = {
        "license": license,
        "library_name": "timm" if to == "timm" else "transformers",
        "pipeline_tag": task,
        "tags": [*_tags(method), "vision-transformer", "openmae"],
    }
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {_title(model, method)}",
        _what(model),
        _training(config) if config else "How it was trained is not known to `openmae convert`.",
        _scores(run, config) if run else "",
        f"## Use\n\n```python\n{use(model, to, name)}\n```",
        _limits(model, to, method),
        _licence(license),
        "## Files\n\n" + "\n".join(_checksums(folder)),
    ]
    text = "\n\n".join(part for part in parts if part)
    (folder / "README.md").write_text(text + "\n", encoding="utf-8")


def _method(loaded: Loaded, config: dict[str, Any]) -> str:
    """The name in `METHODS` of what was trained; empty where that is not known."""
    if not isinstance(loaded.model, Encoder):
        return next((n for n, kind in METHODS.items() if type(loaded.model) is kind), "")
    task = config.get("task", "pretrain") if config else ""
    if task != "pretrain":
        return "classify" if task == "finetune" else str(task)
    method = config.get("method", "mae")
    return "grouped_mae" if method == "mae" and config.get("channel_groups") else str(method)


def _tags(method: str) -> list[str]:
    autoencoder = method in ("mae", "grouped_mae")
    return ["masked-autoencoder", "mae"] if autoencoder else [method] if method in _TITLES else []


def _title(model: Model, method: str) -> str:
    title = _TITLES.get(method, method)
    kind = f"Encoder of {title}" if title else "Encoder"
    if isinstance(model, MAE):
        kind = (title or _TITLES["mae"]).removeprefix("a ").replace("masked", "Masked")
    if isinstance(model, Classifier):
        kind = "Image classifier"
    return f"{kind}, {encoder_of(model).create['model_name'].split('.')[0]}"


def _what(model: Model) -> str:
    encoder = encoder_of(model)
    vit, (height, width), (p, q) = encoder.vit, encoder.image_size, encoder.patch
    heads = vit.blocks[0].attn.num_heads
    rows = {
        "Encoder": f"{len(vit.blocks)} blocks of width {vit.embed_dim}, {heads} heads",
        "Parameters": f"{sum(x.numel() for x in model.parameters()) / 1e6:.1f} M",
        "Input": f"{height}x{width} px, {encoder.in_chans} channels, patches of {p}x{q}",
        "Mean, std": f"{_numbers(encoder.mean)}; {_numbers(encoder.std)} on the scale [0, 1]",
    }
    if isinstance(model, MAE):
        rows["Predicts"] = f"{model.target} of {model.mask_ratio:.0%} hidden patches"
    if isinstance(model, Classifier):
        rows["Classes"] = str(len(model.classes))
    return "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())])


def _numbers(values: Any) -> str:
    return ", ".join(f"{v:.4g}" for v in values.flatten().tolist())


def _training(config: dict[str, Any]) -> str:
    """Data in numbers, and the settings as a recipe that `openmae` reads."""
    resolved, task = config.get("resolved") or {}, config.get("task", "pretrain")
    kept = {
        k: v
        for k, v in config.items()
        if (k not in _PRIVATE or (k == "model" and task == "pretrain"))
        and not (isinstance(v, str) and "/" in v)
    }
    start = config.get("init") or (config.get("model") if task != "pretrain" else None)
    lines = [
        "## Training",
        f"Data: {resolved.get('images', 'unknown')} images; hash of the list of files"
        f" {resolved.get('data_hash', 'unknown')}.",
        f"Recipe: {resolved.get('recipe') or 'defaults'}, {resolved.get('total_steps', '?')} steps,"
        f" on {resolved.get('device', '?')} in {resolved.get('precision', '?')}."
        + (f" Started from {Path(start).name}." if start else ""),
        "To make it again, save this as recipe.yaml:",
        f"```yaml\n{yaml.safe_dump(kept, sort_keys=False)}```",
        f"```\nopenmae {task} {'MODEL ' if task != 'pretrain' else ''}IMAGES --recipe"
        " recipe.yaml\n```",
    ]
    return "\n\n".join(lines)


def _scores(run: Path, config: dict[str, Any]) -> str:
    """Accuracies of the run and of the tasks on it, with n, interval and baselines."""
    rows = []
    for path in [run / "results.json", *sorted(run.glob("*/results.json"))]:
        values = _json(path)
        where = path.parent.name if path.parent != run else config.get("task", "run")
        n, seed = values.get("n", ""), values.get("seed", "")
        for name, value in values.items():
            if not name.endswith(("accuracy", "accuracy_top5", "macro_f1", "mAP")):
                continue
            ends = [values.get(name.replace("accuracy", end)) for end in ("low_95", "high_95")]
            if isinstance(value, int | float):
                known = name.endswith("accuracy") and None not in ends
                between = f"{ends[0]:.3f} to {ends[1]:.3f}" if known else ""
                rows.append(f"| {where} | {name} | {value:.4f} | {between} | {n} | {seed} |")
    if not rows:
        return ""
    head = "| task | score | value | 95 % interval | n | seed |\n|---|---|---|---|---|---|"
    about = "random_weights, raw_pixels and majority are the baselines."
    return "## Scores\n\n" + "\n".join([head, *rows]) + f"\n\n{about}"


def use(model: Model, to: str, name: str) -> str:
    """Python that loads the model and runs it on a picture."""
    encoder = encoder_of(model)
    rgb, prefix = encoder.in_chans == 3, encoder.num_prefix_tokens
    lines = ["import torch", *(["from PIL import Image"] if rgb else [])]
    picture = 'Image.open("picture.png").convert("RGB")'
    if to == "timm":
        source = f"hf-hub:{name}" if "/" in name else f"local-dir:{name}"
        lines += ["import timm", f'model = timm.create_model("{source}", pretrained=True).eval()']
        settings = "timm.data.resolve_model_data_config(model)"
        images = f"timm.data.create_transform(**{settings})(\n    {picture}\n)[None]"
        logits, tokens = "model(images)", "model.forward_features(images)"
    else:
        kind = class_name(model)
        more = ", add_pooling_layer=False" if kind == "ViTModel" else ""
        lines += [
            f"from transformers import AutoImageProcessor, {kind}",
            f'model = {kind}.from_pretrained("{name}"{more}).eval()',
        ]
        images = f'AutoImageProcessor.from_pretrained("{name}")(\n    {picture},'
        images += ' return_tensors="pt"\n)["pixel_values"]'
        inner = "model.vit" if isinstance(model, MAE) else "model"
        logits, tokens = "model(images).logits", f"{inner}(images).last_hidden_state"
    if not rgb:
        shape = f"1, {encoder.in_chans}, {encoder.image_size[0]}, {encoder.image_size[1]}"
        images = f"torch.randn({shape})  # yours: {formula(encoder)}"
    lines.append(f"images = {images}")
    if isinstance(model, Classifier):
        what = "sigmoid()" if model.multi_label else "softmax(-1)"
        last = [f"    probabilities = {logits}.{what}"]
    else:
        last = [f"    vector = {tokens}[:, {prefix}:].mean(1)  # mean of the patch tokens"]
        if isinstance(model, MAE) and to == "hf":
            lines.append("model.config.mask_ratio = 0.0  # else it hides patches here as well")
    return "\n".join([*lines, "with torch.inference_mode():", *last])


def _limits(model: Model, to: str, method: str) -> str:
    lines = ["## Limits", ""]
    if isinstance(model, MAE) or issubclass(METHODS.get(method, Encoder), MAE):
        lines.append(
            "- The class token had no loss of its own in the pretraining, and is weak for k-NN:"
            " take the mean of the patch tokens. Even that gains much from fine-tuning."
        )
    elif not method and not isinstance(model, Classifier):
        lines.append(
            "- How it was pretrained is not known here. The class token of a masked autoencoder is"
            " weak for k-NN: take the mean of the patch tokens of such a model."
        )
    if isinstance(model, MAE) and model.target == "norm_pixels" and to != "timm":
        lines.append(
            "- It predicts patches normalised by their own mean and deviation: pictures need these"
            " back, and with the true ones they leak the answer."
        )
    if to == "hf":
        lines.append(
            "- The image processor squeezes pictures that are not square; openmae cuts the largest"
            " central square out of them."
        )
    lines.append("- It knows images like those it was trained on; others are untested.")
    return "\n".join(lines)


def _licence(license: str) -> str:
    unsaid = "The maker of these weights has not stated a licence. " if license == "other" else ""
    return (
        f"## Licence\n\n{unsaid}Weights that derive from the official MAE weights, timm's copies of"
        " them included, are under CC-BY-NC 4.0."
    )


def _checksums(folder: Path) -> list[str]:
    files = sorted(p for p in folder.iterdir() if p.name != "README.md")
    return [f"- `{p.name}` sha256 `{file_sha256(p)}`" for p in files]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
