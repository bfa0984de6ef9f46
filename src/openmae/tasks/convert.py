"""`openmae convert`: a model in the form that others read, written, read back and compared."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openmae.config.base import Options
from openmae.config.convert import ConvertConfig
from openmae.engine.log import say, warn
from openmae.engine.runfolder import Results
from openmae.errors import OpenMAEError, StorageError, UsageError
from openmae.methods.classify import Classifier
from openmae.methods.mae import MAE
from openmae.models.encoder import Encoder
from openmae.tasks.reading import dry
from openmae.weights import load_any
from openmae.weights.card import write_card
from openmae.weights.container import read_raw
from openmae.weights.encoderfile import is_own
from openmae.weights.methodfile import is_method
from openmae.weights.writers import CONTENT, FORMATS, deep_input, fixed_mask, outputs, whole
from openmae.weights.writers_huggingface import class_name
from openmae.weights.writers_official import Model, encoder_of, eps_of, heads

_LIMIT = 1e-4  # of the largest difference, relative to the largest output above 1


def run(config: ConvertConfig, options: Options) -> Results:
    """Write the model in another format; the result holds the difference of its outputs."""
    out = Path(config.out).expanduser()
    out = out.resolve() if out.is_symlink() or not out.name else out
    _require_free(out, config)
    if config.push_to_hub:
        _require_hub(config.push_to_hub)
    loaded = load_any(config.file, config.heads, config.decoder_heads, config.trust_source)
    _ = loaded.encoder  # a tokenizer has none, and says so
    for notice in loaded.notices:
        warn(notice)
    say("Model", loaded.what)
    model, form = whole(loaded.model), FORMATS[config.to]
    tell_what_is_lost(loaded.model, model)
    form.require(model)
    if options.dry_run:
        return dry()
    temporary = out.with_name(f".tmp-{uuid.uuid4().hex[:8]}-{out.name}")
    try:
        told = form.write(model, temporary)
        if config.to != "openmae":
            told += [f"not in this format: {line}" for line in deep_input(encoder_of(model))]
        differences, how = compare(model, temporary, config.to)
        if temporary.is_dir():
            name = config.push_to_hub or out.name
            write_card(temporary, model, loaded, config.license, config.to, name)
        _put(temporary, out)
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror or error}") from None
    finally:
        _remove(temporary)
    shown = ", ".join(f"{name} {value:.2g}" for name, value in differences.items())
    say("Check", f"read back by {how}; largest difference of the {shown}")
    if max(differences.values()) and eps_of(model) != {1e-6} and config.to != "hf":
        warn("its layer norms have another epsilon than 1e-6, which this format does not hold")
    for number, line in enumerate(told):
        say("" if number else "Out", line.replace(temporary.name, out.name))
    if config.push_to_hub:
        push(out, config.push_to_hub)
    values = {f"{name}_difference": value for name, value in differences.items()}
    return Results(
        {"max_difference": max(differences.values()), **values, "to": config.to}, out.parent
    )


def tell_what_is_lost(before: nn.Module, model: nn.Module) -> None:
    """Say so where the heads of a detector, a segmenter or another method are not written."""
    if not isinstance(before, type(model)) and not isinstance(before, Encoder):
        warn("its heads have no form there: the encoder alone is written")


def _require_free(out: Path, config: ConvertConfig) -> None:
    if not out.parent.is_dir():
        raise StorageError(f"{out.parent} does not exist. Make it first, or give another -o")
    if not out.exists():
        return
    if not _same_kind(out, config.to):
        raise StorageError(f"{out} is something else than the output of --to {config.to}: refusing")
    if not config.overwrite:
        raise StorageError(f"{out} exists. Give another -o, or --overwrite")


def _same_kind(out: Path, to: str) -> bool:
    """Whether `out` is what an earlier conversion wrote, and holds nothing else."""
    if to in ("hf", "timm"):
        try:
            found = json.loads((out / "config.json").read_text(encoding="utf-8"))
            own = ("architectures" if to == "hf" else "architecture") in found
            return own and {p.name for p in out.iterdir()} <= CONTENT
        except (OSError, ValueError, TypeError):
            return False
    if not out.is_file():
        return False
    ours = out.suffix == ".safetensors" and (is_own(out) or is_method(out))
    if to == "openmae" or ours:
        return to == "openmae" and ours
    try:
        raw = read_raw(out)  # a training checkpoint holds more than weights
    except StorageError:
        return False
    return "patch_embed.proj.weight" in raw.tensors and not raw.extra


def _put(temporary: Path, out: Path) -> None:
    """Give the output its name; what had it before goes last, and stays if that fails."""
    if not out.is_dir():
        os.replace(temporary, out)
        return
    before = out.with_name(f".old-{uuid.uuid4().hex[:8]}-{out.name}")
    os.replace(out, before)
    try:
        os.replace(temporary, out)
    except BaseException:
        os.replace(before, out)
        raise
    shutil.rmtree(before, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def compare(model: Model, path: Path, to: str) -> tuple[dict[str, float], str]:
    """The largest difference of each output between a model and what was written, and by whose code
    that was read back.

    Raises:
        StorageError: they differ by more than rounding.
    """
    encoder = encoder_of(model)
    generator = torch.Generator().manual_seed(0)
    shape = (2, encoder.in_chans, *encoder.image_size)
    images = torch.randn(shape, generator=generator)
    if to == "openmae":  # with the normalisation, which this format holds as part of the model
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    with_transformers = to == "hf" and importlib.util.find_spec("transformers") is not None
    how = "timm" if to == "timm" else "transformers" if with_transformers else "openmae"
    expected = outputs(encoder if to == "timm" and isinstance(model, MAE) else model, images)
    try:
        if how == "timm":
            found = _by_timm(path, images, next(iter(expected)))
        elif how == "transformers":
            found = _by_transformers(path, model, images)
        else:
            found = outputs(_by_openmae(path, model, to), images)
    except Exception as error:  # errors of other projects come in many classes
        if isinstance(error, OSError) and not isinstance(error, OpenMAEError):
            raise
        reason = " ".join(str(error).split())[:160]
        raise StorageError(f"not written: {how} cannot read it back: {reason}") from error
    differences = {n: float((found[n] - t).abs().max()) for n, t in expected.items()}
    for name, value in differences.items():
        if not value <= _LIMIT * max(1.0, float(expected[name].abs().max())):
            eps = "" if eps_of(model) == {1e-6} else ". Its layer norms have another epsilon"
            raise StorageError(
                f"not written: the {name} differ by {value:.2g} (read back by {how}){eps}. Please"
                " report this, with `openmae inspect`"
            )
    return differences, how


def _by_openmae(path: Path, model: Model, to: str) -> Model:
    own, decoders = heads(model) if to == "official" else (None, None)  # the others hold them
    found = whole(load_any(str(path), own, decoders).model)
    if isinstance(found, MAE) and isinstance(model, MAE) and to == "official":
        found.target = model.target
    if type(found) is not type(model):
        raise StorageError(f"it is read as {type(found).__name__}, not {type(model).__name__}")
    return found


@torch.inference_mode()
def _by_timm(path: Path, images: Tensor, what: str) -> dict[str, Tensor]:
    import timm

    vit: Any = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    return {what: vit(images) if what == "logits" else vit.forward_features(images)}


@torch.inference_mode()
def _by_transformers(path: Path, model: Model, images: Tensor) -> dict[str, Tensor]:
    import transformers

    more = {"add_pooling_layer": False} if class_name(model) == "ViTModel" else {}
    with _silent(transformers.utils.logging):
        kind = getattr(transformers, class_name(model))
        theirs: Any = kind.from_pretrained(path, local_files_only=True, **more).eval()
    if isinstance(model, MAE):
        keep, noise = fixed_mask(model, len(images))
        theirs.config.mask_ratio = 1 - (keep + 0.5) / noise.shape[1]
        found = theirs(images, noise=noise)
        return {"predictions": found.logits, "loss": found.loss}
    if isinstance(model, Classifier):
        return {"logits": theirs(images).logits}
    return {"tokens": theirs(images).last_hidden_state}


@contextlib.contextmanager
def _silent(logging: Any) -> Iterator[None]:
    """No progress bars and no warnings of transformers."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _require_hub(name: str) -> None:
    """Refuse an upload that cannot work before anything is written."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UsageError("--push-to-hub needs more: pip install huggingface_hub")
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(f"--push-to-hub {name}: {' '.join(str(error).split())[:160]}") from None
    if not get_token():
        raise UsageError(f"--push-to-hub {name}: a token is needed: `hf auth login`, or HF_TOKEN")


def push(folder: Path, name: str) -> None:
    """Upload a folder to a repository of the hub, a private one if it is new; asks for nothing.

    Raises:
        UsageError: no rights or no network.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        name = api.create_repo(name, private=True, exist_ok=True).repo_id
        private = api.repo_info(name).private
        api.upload_folder(repo_id=name, folder_path=folder)
    except Exception as error:  # hub and network errors come in many classes
        reason = " ".join(str(error).split())[:160]
        raise UsageError(
            f"--push-to-hub {name}: {reason}\n{folder} is written, and not uploaded"
        ) from None
    seen = "private" if private else "PUBLIC: it was there before, and everybody can see it"
    say("Hub", f"https://huggingface.co/{name} ({seen})")
