"""`openmae.load`: one door for a run folder, an encoder file or a timm name."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from openmae.engine import checkpoint
from openmae.errors import OpenMAEError, StorageError, UsageError
from openmae.methods.base import Base
from openmae.methods.tokenizer import Tokenizer
from openmae.models.encoder import Encoder, build_vit, create_arguments
from openmae.weights.build import build
from openmae.weights.encoderfile import is_own, load_encoder
from openmae.weights.foreign import Found, find
from openmae.weights.methodfile import is_method, load_method, method_from


@dataclass(frozen=True)
class Loaded:
    """What was loaded: a method or an encoder alone, where from, and notices for the user."""

    model: nn.Module
    what: str
    run: Path | None
    notices: tuple[str, ...] = ()
    found: Found | None = None  # what a file of another project is

    @property
    def encoder(self) -> Encoder:
        """The encoder, with or without a method around it.

        Raises:
            UsageError: it is a tokenizer.
        """
        found: Any = self.model
        if isinstance(found, Tokenizer):
            raise UsageError(
                f"{self.what} is a tokenizer, which has no encoder. Pretrain one with it: openmae"
                f" pretrain DATA --target tokens --target-args tokenizer={self.run or 'FILE'}"
            )
        if isinstance(found, Base):
            found = found.trained_encoder()
        elif not isinstance(found, Encoder):
            found = found.encoder
        assert isinstance(found, Encoder)
        return found


def load(
    source: str | Path, heads: int | None = None, decoder_heads: int | None = None
) -> nn.Module:
    """The Method of a run folder or of any checkpoint of the MAE family (official, Hugging Face,
    timm, mmpretrain, lightly, ours), or the Encoder where there is no more, in evaluation mode.

    A run that kept averaged weights gives those. A timm name with a tag, such as
    "vit_base_patch16_224.mae", loads weights over the network; without a tag the weights are
    random, and a notice says so. `heads` and `decoder_heads` replace the numbers that the file
    records.

    Raises:
        StorageError: no usable weights there.
        UsageError: no such file or model.
    """
    loaded = load_any(str(source), heads, decoder_heads)
    for notice in loaded.notices:
        print(f"openmae: {notice}", file=sys.stderr)
    return loaded.model


def load_any(
    source: str,
    heads: int | None = None,
    decoder_heads: int | None = None,
    trust_source: bool = False,
) -> Loaded:
    """As `load`, with where it came from; prints nothing and leaves the random state alone."""
    with torch.random.fork_rng(devices=[]):
        return _load(source, heads, decoder_heads, trust_source)


def _load(source: str, heads: int | None, decoder_heads: int | None, trust_source: bool) -> Loaded:
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "checkpoints").is_dir() and not (path / "encoder.safetensors").is_file():
            return _load_foreign(path, heads, decoder_heads, trust_source)
        return _load_run(path, heads, decoder_heads)
    if path.is_file():
        if is_method(path):
            return Loaded(load_method(path, heads, decoder_heads).eval(), f"model {path}", None)
        if is_own(path):
            return Loaded(load_encoder(path, heads).eval(), f"encoder {path}", None)
        return _load_foreign(path, heads, decoder_heads, trust_source)
    if "/" in source or path.suffix == ".safetensors":
        raise StorageError(
            f"{source} does not exist. Give a run folder, a checkpoint file or a timm name"
        )
    return _load_timm(source, heads)


def _load_foreign(
    path: Path, heads: int | None, decoder_heads: int | None, trust_source: bool
) -> Loaded:
    found = find(path, heads, decoder_heads, trust_source)
    return Loaded(build(found), f"{path} ({found.kind})", None, found.notices, found)


def _load_run(path: Path, heads: int | None, decoder_heads: int | None) -> Loaded:
    found, notices = checkpoint.latest(path / "checkpoints")
    if found is None:
        encoder = path / "encoder.safetensors"
        if encoder.is_file():
            return Loaded(load_encoder(encoder, heads).eval(), f"encoder {encoder}", path)
        raise StorageError(
            f"{path} has no checkpoint. Is it a run folder? A run saves its first one after some"
            " steps"
        )
    record = found.state["method"]
    method = method_from(record, heads, decoder_heads)
    averaged = checkpoint.load_weights(found, method)
    what = f"{path} at step {found.step:,}" + (" (averaged weights)" if averaged else "")
    return Loaded(method.eval(), what, path, tuple(notices))


def _load_timm(name: str, heads: int | None) -> Loaded:
    create = create_arguments(name, encoder_args={"num_heads": heads} if heads else None)
    if "." not in name:
        notice = (
            f"{name} without a tag has random weights; a trained one is for example"
            " vit_base_patch16_224.mae"
        )
        return Loaded(
            random_encoder(create, seed=0).eval(), f"{name}, random weights", None, (notice,)
        )
    try:
        vit = build_vit(create, pretrained=True)
    except OpenMAEError:
        raise
    except Exception as error:  # hub, network and file errors come in many classes
        found = timm.list_pretrained(f"{name.split('.')[0]}.*")
        tags = ", ".join(sorted(found, key=lambda tag: not tag.endswith(".mae"))[:4])
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"{name} could not be fetched: {reason}\nKnown tags: {tags}") from None
    settings = vit.pretrained_cfg
    return Loaded(Encoder(vit, settings["mean"], settings["std"], create).eval(), name, None)


def random_encoder(create: dict[str, Any], seed: int, like: Encoder | None = None) -> Encoder:
    """The same network with the paper's random initialisation: the honest baseline of frozen
    features.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vit = build_vit(create)
        chans = vit.patch_embed.proj.weight.shape[1]
        mean = like.mean.flatten().tolist() if like else [0.5] * chans
        std = like.std.flatten().tolist() if like else [0.5] * chans
        reads = (like.value_range, like.bands) if like else (None, ())
        encoder = Encoder(vit, mean, std, create, *reads)
        encoder.initialise()
    return encoder
