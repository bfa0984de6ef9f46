"""Settings of `openmae inspect`, `convert` and `export`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from openmae.config.base import Settings, setting

MODEL, RUN = "Model", "Run"


class InspectConfig(Settings):
    """Say what a checkpoint is, without running anything in it."""

    file: str = setting(
        ..., "a checkpoint of any kind, a run folder or a timm name", MODEL, "free", positional=True
    )
    heads: int | None = setting(None, "encoder heads, where it does not tell", MODEL, "free", gt=0)
    decoder_heads: int | None = setting(None, "decoder heads; 16 else", MODEL, "free", gt=0)
    trust_source: bool = setting(
        False, "run the file's own code in a child process: only for people you trust", RUN, "free"
    )


class ConvertConfig(InspectConfig):
    """Write a model as others read it, read it back, and compare."""

    to: Literal["official", "hf", "timm", "openmae"] = setting(
        ..., "the format to write", RUN, "free"
    )
    out: str = setting(
        ...,
        "output: a folder for hf and timm, else a .pth or .safetensors file",
        RUN,
        "free",
        short="-o",
    )
    overwrite: bool = setting(False, "replace an output of the same kind", RUN, "free")
    license: str = setting("other", "of the weights, for the model card", RUN, "free")
    push_to_hub: str | None = setting(
        None, "also upload to this repository, NAME/MODEL, as a private one", RUN, "free"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        suffix = Path(self.out).suffix
        if self.to == "official" and suffix not in (".pth", ".safetensors"):
            yield "out", ": the name must end in .pth or .safetensors"
        if self.to == "openmae" and suffix != ".safetensors":
            yield "out", ": the name must end in .safetensors"
        if self.to in ("hf", "timm") and suffix in (".pth", ".safetensors"):
            yield "out", f": --to {self.to} writes a folder"
        if self.push_to_hub is not None and self.to not in ("hf", "timm"):
            yield "push_to_hub", ": needs --to hf or --to timm"


class ExportConfig(Settings):
    """Write a model for other run times, and check it there."""

    model: str = setting(
        ..., "a run folder, a checkpoint of any kind or a timm name", MODEL, "free", positional=True
    )
    out: str = setting(..., "output: .onnx (ONNX) or .pt2 (torch.export)", RUN, "free", short="-o")
    heads: int | None = setting(None, "encoder heads, where it does not tell", MODEL, "free", gt=0)
    output: Literal["auto", "embedding", "tokens", "logits"] = setting(
        "auto", "logits of a classifier, else embedding", MODEL, "free"
    )
    pool: Literal["mean", "cls"] = setting(
        "mean", "of the embedding: mean of patch tokens, or class token", MODEL, "free"
    )
    uint8: bool = setting(
        False, "take 8-bit images and normalise them inside; else normalised floats", MODEL, "free"
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        if Path(self.out).suffix not in (".onnx", ".pt2"):
            yield "out", ": the name must end in .onnx or .pt2"
