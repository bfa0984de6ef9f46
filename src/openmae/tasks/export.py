"""`openmae export`: an encoder or classifier as ONNX or torch.export, checked where it will run."""

from __future__ import annotations

import importlib.util
import json
import os
import uuid
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openmae.config.base import Options
from openmae.config.convert import ExportConfig
from openmae.engine.features import pool_tokens
from openmae.engine.log import say, warn
from openmae.engine.runfolder import Results
from openmae.errors import StorageError, UsageError
from openmae.methods.classify import Classifier
from openmae.models.encoder import Encoder
from openmae.tasks.convert import tell_what_is_lost
from openmae.tasks.reading import dry
from openmae.weights import load_any
from openmae.weights.encoderfile import formula, what_it_reads
from openmae.weights.writers import whole
from openmae.weights.writers_official import Model, encoder_of

_LIMIT = 1e-3  # of the largest difference, relative to the largest output above 1
_LARGEST = 2_000_000_000  # bytes of weights in one ONNX file, which protobuf limits to 2 GiB
_NEEDED = ("onnx", "onnxscript", "onnxruntime")


class Exported(nn.Module):
    """Images -> one output, with nothing that depends on the caller; never masks, no decoder."""

    def __init__(self, model: Model, output: str, pool: str) -> None:
        super().__init__()
        self.encoder, self.output, self.pool = encoder_of(model), output, pool

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> (B, D), (B, N, D) or (B, K)."""
        if self.output == "logits":
            logits: Tensor = self.encoder.vit.forward_head(self.encoder(images))
            return logits
        tokens = self.encoder(images)
        if self.output == "tokens":
            return tokens
        return pool_tokens(tokens, self.encoder.num_prefix_tokens, self.pool)


def run(config: ExportConfig, options: Options) -> Results:
    """Write the file; the result holds its largest difference from PyTorch."""
    out = Path(config.out).expanduser()
    if not out.parent.is_dir():
        raise StorageError(f"{out.parent} does not exist. Make it first, or give another -o")
    if out.is_dir():
        raise StorageError(f"{out} is a folder. Give another -o")
    onnx = out.suffix == ".onnx"
    if onnx and any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise UsageError(f'-o {config.out}: ONNX needs more: pip install "openmae[export]"')
    loaded = load_any(config.model, config.heads)
    _ = loaded.encoder  # a tokenizer has none, and says so
    for notice in loaded.notices:
        warn(notice)
    say("Model", loaded.what)
    model = whole(loaded.model)
    tell_what_is_lost(loaded.model, model)
    output = _require_output(config, model, onnx)
    if options.dry_run:
        return dry()
    exported = Exported(model, output, config.pool).eval()
    about = _about(model, output, config)
    temporary = out.with_name(f".tmp-{uuid.uuid4().hex[:8]}-{out.name}")
    try:
        images = _images(exported.encoder, 2, config.uint8)
        (_write_onnx if onnx else _write_pt2)(exported, images, temporary, about)
        difference = _check(exported, temporary, config.uint8, onnx)
        os.replace(temporary, out)
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    size = out.stat().st_size / 1e6
    by = "onnxruntime" if onnx else "torch.export.load"
    say("Check", f"batches of 1 and 3 by {by}: largest difference {difference:.2g} from PyTorch")
    say("Out", f"{out} ({size:.1f} MB): {about['input']} -> {output}, any batch")
    return Results({"max_difference": difference, "output": output}, out.parent)


def _require_output(config: ExportConfig, model: Model, onnx: bool) -> str:
    """Which output is written; refuses what the model does not have."""
    encoder, classifier = encoder_of(model), isinstance(model, Classifier)
    if config.uint8 and encoder.value_range is not None:
        low, high = encoder.value_range
        raise UsageError(
            f"{config.model} reads values of {low:g} to {high:g}, which 8 bits do not hold: without"
            " --uint8 its input is normalised floats"
        )
    output = config.output
    if output == "auto":
        output = "logits" if classifier else "embedding"
    if output == "logits" and not classifier:
        raise UsageError(f"{config.model} has no classes, so no logits. Use --output embedding")
    if output == "embedding" and config.pool == "cls" and not encoder.num_prefix_tokens:
        raise UsageError(f"{config.model} has no class token. Use --pool mean")
    size = sum(p.numel() * p.element_size() for p in encoder.parameters())
    if onnx and size > _LARGEST:
        raise UsageError(
            f"an ONNX file holds at most 2 GB, and this model has {size / 1e9:.1f} GB of weights."
            " Use -o NAME.pt2"
        )
    return output


def _about(model: Model, output: str, config: ExportConfig) -> dict[str, str]:
    """What a caller must know, as text that both formats keep inside."""
    encoder = encoder_of(model)
    height, width = encoder.image_size
    kind = "uint8" if config.uint8 else f"float32, {formula(encoder)}"
    about = {
        "input": f"images (B, {encoder.in_chans}, {height}, {width}) {kind}",
        "output": output,
        "pool": config.pool if output == "embedding" else "",
        "image_size": json.dumps([height, width]),
        "channels": str(encoder.in_chans),
        "mean": json.dumps(encoder.mean.flatten().tolist()),
        "std": json.dumps(encoder.std.flatten().tolist()),
        **what_it_reads(encoder),
    }
    classes = model.classes if isinstance(model, Classifier) else []
    return about | ({"classes": json.dumps(classes)} if output == "logits" else {})


def _images(encoder: Encoder, count: int, uint8: bool) -> Tensor:
    shape = (count, encoder.in_chans, *encoder.image_size)
    generator = torch.Generator().manual_seed(count)
    if uint8:
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return torch.randn(shape, generator=generator)


def _write_onnx(model: nn.Module, images: Tensor, path: Path, about: dict[str, str]) -> None:
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program: Any = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=["output"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    proto = program.model_proto
    for name, value in about.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = name, value
    onnx.save(proto, path)


def _write_pt2(model: nn.Module, images: Tensor, path: Path, about: dict[str, str]) -> None:
    shapes = {"images": {0: torch.export.Dim("batch")}}
    program = torch.export.export(model, (images,), dynamic_shapes=shapes)
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={"openmae.json": json.dumps(about)})


def _check(model: Exported, path: Path, uint8: bool, onnx: bool) -> float:
    """The largest difference from PyTorch at batches of 1 and 3.

    Raises:
        StorageError: more than rounding.
    """
    if onnx:
        import onnxruntime

        onnxruntime.disable_telemetry_events()  # which some of its builds have
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    else:
        with path.open("rb") as file:
            program = torch.export.load(file).module()
    worst = 0.0
    for count in (1, 3):
        images = _images(model.encoder, count, uint8)
        with torch.inference_mode():
            expected = model(images)
        if onnx:
            found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        else:
            with torch.no_grad():
                found = program(images)
        difference = float((found - expected).abs().max())
        if not difference <= _LIMIT * max(1.0, float(expected.abs().max())):  # also for NaN
            raise StorageError(f"not written: it differs by {difference:.2g} from PyTorch")
        worst = max(worst, difference)
    return worst
