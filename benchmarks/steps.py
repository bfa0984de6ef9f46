"""A training step of each implementation, ready to be timed: ours and the peers', as shipped, tuned
and compiled.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from peers import Loss, Peer, build
from torch import Tensor, nn

from openmae.config.pretrain import PretrainConfig
from openmae.engine.device import autocast
from openmae.engine.measure import wait
from openmae.methods.mae import MAE
from openmae.tasks.attention import resolve_attention, use_choices
from openmae.tasks.products import resolve_products

TOLERANCE = 1e-4  # of losses, relative; single precision, shared weights and mask
OURS = ("training path", "full path")
THEIRS = ("as shipped", "tuned")


@dataclass
class Row:
    """One line of the result: `step` does one training step, `prepare` puts the settings in place
    that rows of the same module do not share.
    """

    family: str
    variant: str
    step: Callable[[], None]
    prepare: Callable[[], None]
    settings: dict[str, Any]
    parameters: int
    note: str = ""
    first_s: float = 0.0
    times: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As it is printed."""
        return f"{self.family}, {self.variant}"


def model_of(args: argparse.Namespace) -> MAE:
    """Our model on the CPU. Every weight is moved a little, so that equal losses mean that every
    weight went where it belongs.
    """
    torch.manual_seed(0)
    model = MAE(args.model, **sizes(args))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model.train()


def sizes(args: argparse.Namespace) -> dict[str, Any]:
    """What is not the paper's."""
    return {
        "image_size": args.image_size,
        "decoder_dim": args.decoder_dim,
        "decoder_depth": args.decoder_depth,
        "decoder_heads": args.decoder_heads,
        "encoder_args": {"depth": args.depth} if args.depth else {},
    }


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """The options that size the model; the paper's by default."""
    parser.add_argument("--model", default="vit_base_patch16_224", help="a timm name")
    parser.add_argument("--depth", type=int, help="blocks of the encoder; the model's by default")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--decoder-dim", type=int, default=512)
    parser.add_argument("--decoder-depth", type=int, default=8)
    parser.add_argument("--decoder-heads", type=int, default=16)


def described(args: argparse.Namespace) -> dict[str, Any]:
    """The model, for a result."""
    return {
        "model": args.model if args.depth is None else f"{args.model}, {args.depth} blocks",
        "image_size": args.image_size,
        "decoder": [args.decoder_depth, args.decoder_dim, args.decoder_heads],
    }


def random_images(model: MAE, batch: int, device: torch.device) -> Tensor:
    """Normalised images of random numbers: zeros run faster than real data."""
    generator = torch.Generator().manual_seed(1)
    size = (batch, model.encoder.in_chans, *model.encoder.image_size)
    return torch.randn(size, generator=generator).to(device)


def ours(model: MAE, args: argparse.Namespace, compiled: bool) -> Peer:
    """Our model on its device, with the attention and the products that `openmae pretrain` would
    choose.
    """
    method = copy.deepcopy(model).to(args.device)
    config = PretrainConfig(data="digits", batch_size=max(args.batch, 1))
    resolved = {"device": args.device, "precision": args.precision, "micro_batch": args.batch}
    with torch.device("meta"):
        empty = MAE(args.model, **sizes(args))
    chosen = resolve_attention(config, empty, resolved)
    products = resolve_products(config, resolved)
    use_choices(method, {"attention": chosen, "products": products})
    if compiled:
        for block in method.blocks():
            block.compile()
    words = "; ".join(f"{name} {backend}" for name, backend in chosen.items())

    def loss(images: Tensor, noise: Tensor | None) -> Tensor:
        return method(images, noise=noise)["loss"]

    return Peer("openmae", method, loss, {}, {"attention": words, "products": products})


def full_path(peer: Peer) -> Loss:
    """The published formulation, run by our own code."""
    return lambda images, noise: peer.module(images, noise=noise, full=True)["loss"]


class Rows:
    """Makes rows of one model; modules are shared between the rows of a family unless it is told to
    `forget` them.
    """

    def __init__(self, model: MAE, args: argparse.Namespace) -> None:
        self.model, self.args = model, args
        self.absent: dict[str, str] = {}
        self.agreement: dict[str, float] = {}
        self.tuned: dict[str, dict[str, str]] = {}
        self._built: dict[tuple[str, bool], Peer] = {}

    def wanted(self) -> list[tuple[str, str]]:
        """(family, variant) of every row, ours first; peers that are not there are left out."""
        more = ["compiled"] if self.args.compile else []
        found = [("openmae", v) for v in (*OURS, *(f"training path, {m}" for m in more))]
        for name in self.args.peers:
            if self.family(name) is not None:
                found += [(name, v) for v in (*THEIRS, *(f"tuned, {m}" for m in more))]
        return found

    def forget(self) -> None:
        """Let go of every module."""
        self._built.clear()

    def family(self, name: str, compiled: bool = False) -> Peer | None:
        """The peer (or ours) of that name. It is compared with ours before anyone times it.

        Raises:
            SystemExit: it computes something else.
        """
        compiled = compiled and name == "openmae"  # blocks are compiled in place
        if (name, compiled) not in self._built and name not in self.absent:
            if name == "openmae":
                self._built[name, compiled] = ours(self.model, self.args, compiled)
                return self._built[name, compiled]
            made = build(name, self.model, torch.device(self.args.device))
            if isinstance(made, str):
                self.absent[name] = made
                return None
            self.agreement[name] = require_same(made, self.model, self.args.device)
            self._built[name, compiled] = made
        return self._built.get((name, compiled))

    def row(self, family: str, variant: str, images: Tensor) -> Row:
        """One row for one batch."""
        compiled = variant.endswith("compiled")
        peer = self.family(family, compiled)
        assert peer is not None
        if family == "openmae":
            settings = {**peer.shipped, "optimizer": "fused"}
            loss = full_path(peer) if variant == "full path" else peer.loss
        else:
            settings = dict(peer.shipped)
            loss = peer.loss
            if variant != "as shipped":
                if family not in self.tuned:
                    self.tuned[family] = tune(peer, images, self.args.precision)
                settings = {**self.tuned[family], "optimizer": "fused"}
        settings["compile"] = "no" if not compiled else "blocks" if family == "openmae" else "whole"
        if settings["compile"] == "whole":
            loss = torch.compile(loss, dynamic=False)
        step = training_step(peer.module, loss, images, settings, self.args.precision)
        switch = peer.attention.get(settings["attention"], lambda: None)
        count = sum(p.numel() for p in peer.module.parameters() if p.requires_grad)
        return Row(family, variant, step, switch, settings, count, peer.note)


def training_step(
    module: nn.Module, loss_of: Loss, images: Tensor, settings: dict[str, Any], precision: str
) -> Callable[[], None]:
    """Forward, backward and AdamW; nothing is read back, unless the settings say that it is."""
    trained = [p for p in module.parameters() if p.requires_grad]
    fused = {"fused": True} if settings["optimizer"] == "fused" else {}
    optimizer = torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.05, **fused)
    if settings.get("channels") == "last":
        images = images.to(memory_format=torch.channels_last)

    def step() -> None:
        with autocast(precision, images.device):
            loss = loss_of(images, None)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if settings.get("reads_loss"):
            loss.item()

    return step


def tune(peer: Peer, images: Tensor, precision: str) -> dict[str, str]:
    """The fastest attention and memory layout of a peer, each measured forward and backward."""

    def seconds(x: Tensor) -> float:
        taken = []
        for _ in range(3):
            wait(x.device)
            start = time.perf_counter()
            with autocast(precision, x.device):
                loss = peer.loss(x, None)
            loss.backward()
            wait(x.device)
            taken.append(time.perf_counter() - start)
            peer.module.zero_grad(set_to_none=True)
        return statistics.median(taken[1:])  # the first warms up

    chosen = {"attention": peer.shipped["attention"]}
    if peer.attention:
        times = {}
        for name, switch in peer.attention.items():
            switch()
            times[name] = seconds(images)
        chosen["attention"] = min(times, key=lambda name: times[name])
        peer.attention[chosen["attention"]]()
    last = images.to(memory_format=torch.channels_last)
    chosen["channels"] = "last" if seconds(last) < seconds(images) else "first"
    return chosen


def require_same(peer: Peer, model: MAE, device: str) -> float:
    """Relative difference of a peer's loss from ours, for the same weights, images and mask; for a
    peer with weights of its own, of its loss of the same prediction.

    Raises:
        SystemExit: more than rounding.
    """
    images = random_images(model, 2, torch.device("cpu"))
    generator = torch.Generator().manual_seed(2)
    noise = torch.rand(2, model.encoder.grid[0] * model.encoder.grid[1], generator=generator)
    there, order = images.to(device), noise.to(device)
    with torch.no_grad():
        own = model(images, noise=noise, full=True)
        want = float(own["loss"])
        if peer.formula is None:
            found = float(peer.loss(there, order))
        else:
            found = float(peer.formula(own["pred"].to(device), there, own["mask"].to(device)))
    difference = abs(found - want) / abs(want)
    if not difference <= TOLERANCE:
        raise SystemExit(
            f"{peer.name}: its loss is {found:.6f}, ours {want:.6f}, with the same weights and"
            " mask.\nTiming would compare different maths."
        )
    return difference
