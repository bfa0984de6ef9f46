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
from openmae.tasks.reading import dry
from openmae.weights import load_any

_LIMIT = 1e-3  # of the largest difference
_NEEDED = ("onnx", "onnxscript", "onnxruntime")


class Exported(nn.Module):
    """Images -> one output, with nothing that depends on the caller; never masks."""

    def __init__(self, model: nn.Module, encoder: Encoder, output: str, pool: str) -> None:
        super().__init__()
        self.model, self.encoder, self.output, self.pool = model, encoder, output, pool

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> (B, D), (B, N, D) or (B, K)."""
        if self.output == "logits":
            assert isinstance(self.model, Classifier)
            return self.model.logits(images)
        tokens = self.encoder(images)
        if self.output == "tokens":
            return tokens
        return pool_tokens(tokens, self.encoder.num_prefix_tokens, self.pool)


def run(config: ExportConfig, options: Options) -> Results:
    """Write the file; the result holds its largest difference from PyTorch."""
    out = Path(config.out).expanduser()
    if not out.parent.is_dir():
        raise StorageError(f"{out.parent} does not exist. Make it first, or give another -o")
    onnx = out.suffix == ".onnx"
    if onnx and any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise UsageError(f'-o {config.out}: ONNX needs more: pip install "openmae[export]"')
    loaded = load_any(config.model)
    for notice in loaded.notices:
        warn(notice)
    encoder, classifier = loaded.encoder, isinstance(loaded.model, Classifier)
    output = config.output
    if output == "auto":
        output = "logits" if classifier else "embedding"
    if output == "logits" and not classifier:
        raise UsageError(f"{config.model} has no classes, so no logits. Use --output embedding")
    say("Model", loaded.what)
    if options.dry_run:
        return dry()
    model = Exported(loaded.model, encoder, output, config.pool).eval()
    about = _about(loaded.model, encoder, output, config)
    temporary = out.with_name(f".tmp-{uuid.uuid4().hex[:8]}-{out.name}")
    try:
        (_write_onnx if onnx else _write_pt2)(
            model, _images(encoder, 2, config.uint8), temporary, about
        )
        difference = _check(model, encoder, temporary, config.uint8, onnx)
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


def _about(model: nn.Module, encoder: Encoder, output: str, config: ExportConfig) -> dict[str, str]:
    height, width = encoder.image_size
    kind = "uint8" if config.uint8 else "float32, (x / 255 - mean) / std"
    about = {
        "input": f"images (B, {encoder.in_chans}, {height}, {width}) {kind}",
        "output": output,
        "pool": config.pool if output == "embedding" else "",
        "mean": json.dumps(encoder.mean.flatten().tolist()),
        "std": json.dumps(encoder.std.flatten().tolist()),
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


def _check(model: nn.Module, encoder: Encoder, path: Path, uint8: bool, onnx: bool) -> float:
    """The largest difference from PyTorch at batches of 1 and 3.

    Raises:
        StorageError: more than rounding.
    """
    if onnx:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    else:
        with path.open("rb") as file:
            program = torch.export.load(file).module()
    worst = 0.0
    for count in (1, 3):
        images = _images(encoder, count, uint8)
        with torch.inference_mode():
            expected = model(images)
        if onnx:
            found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        else:
            with torch.no_grad():
                found = program(images)
        worst = max(worst, float((found - expected).abs().max()))
    if not worst <= _LIMIT * max(1.0, float(expected.abs().max())):
        raise StorageError(f"the exported model differs by {worst:.2g} from PyTorch: not written")
    return worst
