"""A model of ours in the form that others read: official, Hugging Face, timm, or our own file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from openmae.engine.tensorfile import write_tensors
from openmae.errors import UsageError
from openmae.methods.classify import Classifier
from openmae.methods.mae import MAE
from openmae.models.encoder import Encoder, method_arguments
from openmae.models.groups import refuse_groups
from openmae.weights.encoderfile import formula, save_encoder
from openmae.weights.methodfile import save_method
from openmae.weights.writers_huggingface import require_hugging_face, write_hugging_face, write_json
from openmae.weights.writers_official import Model, encoder_of, require_official, write_official

CONTENT = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
"""All that a folder of ours for others can hold."""


def whole(model: nn.Module) -> Model:
    """The model itself; for the encoder file of a fine-tuned run, which holds the head as well, the
    classifier, its classes numbered; of what else has parts that no form holds, the encoder that
    its training leaves.
    """
    if not isinstance(model, MAE | Classifier | Encoder):
        model = encoder_of(model)  # type: ignore[arg-type]
    assert isinstance(model, MAE | Classifier | Encoder)
    if not isinstance(model, Encoder) or not model.create.get("num_classes"):
        return model
    with torch.random.fork_rng(devices=[]):
        made = Classifier(
            **method_arguments(model.create),
            classes=[str(i) for i in range(model.create["num_classes"])],
            image_size=model.image_size,
            pool="mean" if model.create.get("global_pool") == "avg" else "cls",
            mean=model.mean.flatten().tolist(),
            std=model.std.flatten().tolist(),
            value_range=model.value_range,
            bands=model.bands,
        )
    made.encoder.vit.load_state_dict(model.vit.state_dict())
    return made.eval()


def write_timm(model: Model, out: Path) -> list[str]:
    """A folder in timm's own layout, for `timm.create_model("local-dir:OUT")`."""
    encoder = encoder_of(model)
    refuse_groups(encoder, "timm")
    create = {k: v for k, v in encoder.create.items() if k not in ("model_name", "num_classes")}
    classes = model.classes if isinstance(model, Classifier) else []
    height, width = encoder.image_size
    tuned = bool(classes) and 96 < max(height, width) <= 224
    config = {
        "architecture": encoder.create["model_name"].split(".")[0],
        "num_classes": len(classes),
        "num_features": encoder.vit.embed_dim,
        "global_pool": create.get("global_pool", "token"),
        "model_args": create,
        "pretrained_cfg": {
            "input_size": [encoder.in_chans, height, width],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 0.875 if tuned else 1.0,  # what predict and embed do
            "mean": encoder.mean.flatten().tolist(),
            "std": encoder.std.flatten().tolist(),
            "num_classes": len(classes),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        }
        | ({"label_names": classes} if classes else {}),
    }
    out.mkdir()
    tensors = encoder.vit.state_dict().items()
    write_tensors(out / "model.safetensors", tensors, {"format": "pt"})
    write_json(out / "config.json", config)
    told = [f'timm: timm.create_model("local-dir:{out}", pretrained=True)']
    return [*told, "the decoder is left out: timm has none"] if isinstance(model, MAE) else told


def write_openmae(model: Model, out: Path) -> list[str]:
    """One safetensors file: an encoder as every run has it, or the whole method."""
    if isinstance(model, Encoder):
        save_encoder(out, model, {"weights": "converted"})
    else:
        save_method(out, model)
    return [f'openmae: openmae.load("{out}"), and every command']


def _require_names(model: Model) -> None:
    if isinstance(model, MAE) and not isinstance(model.mask, str):
        raise UsageError("a mask that is your own function cannot be kept in a file")


def deep_input(encoder: Encoder) -> list[str]:
    """What a reader of images must know beside mean and std, in lines; none for all of 8 bits."""
    lines = []
    if encoder.value_range is not None:
        low, high = (f"{v:g}" for v in encoder.value_range)
        lines.append(f"value range {low}:{high}, so its input is {formula(encoder)}")
    if encoder.bands:
        lines.append(f"bands {' '.join(str(band + 1) for band in encoder.bands)} of the files")
    return lines


class Format(NamedTuple):
    """`require` refuses what cannot be expressed; `write` returns how to use what it wrote, and
    what is not in it.
    """

    require: Callable[[Model], None]
    write: Callable[[Model, Path], list[str]]


FORMATS = {
    "official": Format(require_official, write_official),
    "hf": Format(require_hugging_face, write_hugging_face),
    "timm": Format(lambda _: None, write_timm),
    "openmae": Format(_require_names, write_openmae),
}
"""Name -> how it is written."""


@torch.inference_mode()
def outputs(model: Model, images: Tensor) -> dict[str, Tensor]:
    """What a conversion must keep: predictions and loss with a fixed mask, logits, or tokens."""
    if isinstance(model, MAE):
        keep, noise = fixed_mask(model, len(images))
        found = model(images, noise=noise, keep=keep, full=True)
        return {"predictions": found["pred"], "loss": found["loss"]}
    if isinstance(model, Classifier):
        return {"logits": model.logits(images)}
    return {"tokens": model(images)}


def fixed_mask(model: MAE, rows: int) -> tuple[int, Tensor]:
    """How many patches are kept, and a noise (rows, L) that scatters them, without random state."""
    length = model.encoder.grid[0] * model.encoder.grid[1]
    noise = torch.arange(length).expand(rows, -1).float() * 7919 % 104729
    return max(1, length // 4), noise
