"""`openmae convert`: a model in the form that others read, written, read back and compared."""

from __future__ import annotations

import importlib.util
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmae.config.base import Options
from openmae.config.convert import ConvertConfig
from openmae.engine.log import say, warn
from openmae.engine.runfolder import Results
from openmae.errors import StorageError, UsageError
from openmae.methods.classify import Classifier
from openmae.methods.mae import MAE
from openmae.tasks.reading import dry
from openmae.weights import load_any
from openmae.weights.card import write_card
from openmae.weights.writers import WRITERS, Model, encoder_of, output

_LIMIT = 1e-4  # of the largest difference, relative to the largest output


def run(config: ConvertConfig, options: Options) -> Results:
    """Write the model in another format; the result holds the difference of its outputs."""
    out = Path(config.out).expanduser()
    _require_free(out, config)
    loaded = load_any(config.file, config.heads, config.decoder_heads, config.trust_source)
    for notice in loaded.notices:
        warn(notice)
    say("Model", loaded.what)
    if options.dry_run:
        return dry()
    model: Any = loaded.model
    temporary = out.with_name(f".tmp-{uuid.uuid4().hex[:8]}-{out.name}")
    try:
        told = WRITERS[config.to](model, temporary)
        difference, how = compare(model, temporary, config.to)
        if temporary.is_dir():
            write_card(temporary, model, loaded, config.license, config.to)
        if out.is_dir():
            shutil.rmtree(out)
        os.replace(temporary, out)
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror or error}") from None
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
    say("Check", f"read back by {how}: largest difference {difference:.2g} of the outputs")
    for number, line in enumerate(told):
        say("" if number else "Out", line.replace(temporary.name, out.name))
    if config.push_to_hub:
        push(out, config.push_to_hub)
    return Results({"max_difference": difference, "to": config.to}, out.parent)


def _require_free(out: Path, config: ConvertConfig) -> None:
    if not out.parent.is_dir():
        raise StorageError(f"{out.parent} does not exist. Make it first, or give another -o")
    folder = config.to in ("hf", "timm")
    if not out.exists():
        return
    same = (out / "config.json").is_file() if folder else out.is_file()
    if not same:
        raise StorageError(f"{out} is something else than the output of --to {config.to}: refusing")
    if not config.overwrite:
        raise StorageError(f"{out} exists. Give another -o, or --overwrite")


def compare(model: Model, path: Path, to: str) -> tuple[float, str]:
    """The largest difference of the outputs of a model and of what was written, and by whose code
    it was read back.

    Raises:
        StorageError: they differ by more than rounding.
    """
    encoder = encoder_of(model)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, encoder.in_chans, *encoder.image_size, generator=generator)
    expected = output(model, images)
    how, found = "openmae", None
    if to == "timm":
        how = "timm"
        expected = encoder(images) if isinstance(model, MAE) else expected
        found = _by_timm(path, images, not isinstance(model, Classifier))
    elif to == "hf" and importlib.util.find_spec("transformers"):
        how = "transformers"
        found = _by_transformers(path, model, images)
    if found is None:
        found = output(load_any(str(path)).model, images)
    difference = float((found - expected).detach().abs().max())
    scale = max(1.0, float(expected.detach().abs().max()))
    if not difference <= _LIMIT * scale:
        raise StorageError(
            f"the converted model differs by {difference:.2g} (read back by {how}): not written."
            " Please report this, with `openmae inspect`"
        )
    return difference, how


@torch.inference_mode()
def _by_timm(path: Path, images: Tensor, tokens: bool) -> Tensor:
    import timm

    vit: Any = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    found: Tensor = vit.forward_features(images) if tokens else vit(images)
    return found


@torch.inference_mode()
def _by_transformers(path: Path, model: Model, images: Tensor) -> Tensor:
    import transformers

    transformers.logging.set_verbosity_error()
    if isinstance(model, MAE):
        theirs: Any = transformers.ViTMAEForPreTraining.from_pretrained(path).eval()
        length = model.encoder.grid[0] * model.encoder.grid[1]
        theirs.config.mask_ratio = 1 - (max(1, length // 4) + 0.5) / length
        noise = torch.arange(length).expand(len(images), -1).float() * 7919 % 104729
        found: Tensor = theirs(images, noise=noise).logits
        return found
    if isinstance(model, Classifier):
        theirs = transformers.ViTForImageClassification.from_pretrained(path).eval()
        return theirs(images).logits
    theirs = transformers.ViTModel.from_pretrained(path, add_pooling_layer=False).eval()
    return theirs(images).last_hidden_state


def push(folder: Path, name: str) -> None:
    """Upload a folder to a private repository of the hub; never asks for anything.

    Raises:
        UsageError: no token, no rights or no network.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
    except Exception as error:  # hub and network errors come in many classes
        reason = " ".join(str(error).split())[:160]
        raise UsageError(
            f"--push-to-hub {name}: {reason}\n{folder} is written. A token is needed: `hf auth"
            " login`, or HF_TOKEN"
        ) from None
    say("Hub", f"https://huggingface.co/{name} (private)")
