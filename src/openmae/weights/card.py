"""The model card of a converted model: what it is, how it was made, how good it is, its limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from openmae.engine.tensorfile import file_sha256
from openmae.methods.classify import Classifier
from openmae.methods.mae import MAE
from openmae.weights.load import Loaded
from openmae.weights.writers import Model, encoder_of

_FROM_OFFICIAL = (
    "Weights that derive from the official or timm's MAE weights are under CC-BY-NC 4.0."
)


def write_card(folder: Path, model: Model, loaded: Loaded, license: str, to: str) -> None:
    """Write README.md beside the weights. No file name of the data is in it."""
    task = "image-classification" if isinstance(model, Classifier) else "image-feature-extraction"
    header = {
        "license": license,
        "library_name": "timm" if to == "timm" else "transformers",
        "pipeline_tag": task,
        "tags": ["masked-autoencoder", "mae", "vision-transformer", "openmae"],
    }
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {_title(model)}",
        _what(model),
        *(_run(loaded.run) if loaded.run else []),
        f"## Use\n\n```python\n{_use(model, to)}\n```",
        _limits(model),
        "## Files\n\n" + "\n".join(_checksums(folder)),
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _title(model: Model) -> str:
    kind = "Masked autoencoder" if isinstance(model, MAE) else "Encoder of a masked autoencoder"
    kind = "Image classifier" if isinstance(model, Classifier) else kind
    return f"{kind}, {encoder_of(model).create['model_name'].split('.')[0]}"


def _what(model: Model) -> str:
    encoder = encoder_of(model)
    vit, (height, width) = encoder.vit, encoder.image_size
    rows = {
        "Encoder": f"{len(vit.blocks)} blocks of width {vit.embed_dim}",
        "Input": f"{height}x{width} px, {encoder.in_chans} channels, patch {encoder.patch[0]}x"
        f"{encoder.patch[1]}",
        "Mean, std": f"{_numbers(encoder.mean)}; {_numbers(encoder.std)} on the scale [0, 1]",
    }
    if isinstance(model, MAE):
        rows["Predicts"] = model.target
    if isinstance(model, Classifier):
        rows["Classes"] = str(len(model.classes))
    return "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())])


def _numbers(values: Any) -> str:
    return " ".join(f"{v:.3f}" for v in values.flatten().tolist())


def _run(run: Path) -> list[str]:
    """Data, recipe and scores of the run that the model is from."""
    parts = []
    config = _yaml(run / "config.yaml")
    resolved = config.get("resolved") or {}
    if config:
        told = (
            "batch_size",
            "epochs",
            "steps",
            "lr",
            "weight_decay",
            "mask_ratio",
            "target",
            "seed",
        )
        settings = ", ".join(f"{k} {config[k]}" for k in told if config.get(k) is not None)
        task, recipe = config.get("task"), resolved.get("recipe")
        data = f"{resolved.get('images')} images, hash of the list {resolved.get('data_hash')}"
        again = f"`openmae {task} ... --recipe config.yaml`, with the run's config.yaml"
        parts.append(
            f"## Training\n\nTask {task}, recipe {recipe}: {settings}.\n\nData: {data}.\n\n"
            f"Again: {again}."
        )
    scores = []
    for path in [run / "results.json", *sorted(run.glob("*/results.json"))]:
        values = _json(path)
        names = [n for n in values if n.endswith(("accuracy", "mAP")) and n in values]
        low = next((n for n in values if n.endswith("low_95")), None)
        where = path.parent.name if path.parent != run else config.get("task", "run")
        for name in names:
            between = ""
            if low and name in ("accuracy", low.replace("_low_95", "_accuracy")):
                between = f" [{values[low]:.3f}, {values[low.replace('low', 'high')]:.3f}]"
            scores.append(f"| {where} | {name} | {values[name]:.4f}{between} | {values.get('n')} |")
    if scores:
        head = "| task | score | value [95 %] | n |\n|---|---|---|---|"
        parts.append("## Scores\n\n" + "\n".join([head, *scores]))
    return parts


def _use(model: Model, to: str) -> str:
    if to == "timm":
        return 'import timm\nmodel = timm.create_model("local-dir:PATH", pretrained=True).eval()'
    kind = (
        "ViTMAEForPreTraining"
        if isinstance(model, MAE)
        else "ViTForImageClassification"
        if isinstance(model, Classifier)
        else "ViTModel"
    )
    return (
        f"from transformers import AutoImageProcessor, {kind}\n"
        'processor = AutoImageProcessor.from_pretrained("PATH")\n'
        f'model = {kind}.from_pretrained("PATH").eval()'
    )


def _limits(model: Model) -> str:
    lines = ["## Limits", "", f"- {_FROM_OFFICIAL}"]
    if not isinstance(model, Classifier):
        lines.append(
            "- The class token was never trained with a loss of its own: take the mean of the patch"
            " tokens as the vector of an image, and expect k-NN to be weak before fine-tuning."
        )
    if isinstance(model, MAE) and model.target == "norm_pixels":
        lines.append(
            "- It predicts patches normalised by their own mean and deviation: pictures need these"
            " back, and with the true ones they leak the answer."
        )
    lines.append("- It knows images like those it was trained on; others are untested.")
    return "\n".join(lines)


def _checksums(folder: Path) -> list[str]:
    return [f"- `{p.name}` sha256 `{file_sha256(p)}`" for p in sorted(folder.glob("*.safetensors"))]


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
