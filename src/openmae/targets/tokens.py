"""Discrete tokens as a target (BEiT): the id of the code that a tokenizer gives a patch; the loss
is the cross-entropy.

B batch, M masked patches, V codes, C channels, W = p*q*C values of a patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openmae.errors import UsageError
from openmae.models.codebook import Codebook, normalised, perplexity
from openmae.models.encoder import Encoder
from openmae.targets.base import Target


class Tokens(Target):
    """The ids of the nearest codes of a frozen tokenizer, V logits a patch.

    Args:
        patch: height and width of a patch in pixels.
        in_chans: channels of the images.
        codes: V, the size of the vocabulary.
        kind: "kmeans": nearest code of the normalised pixels; "vqvae": of learned features.
        width: numbers of a code, of a vqvae.
        hidden: width of a vqvae's layers.
        tokenizer: where the codes come from, the name of a model of `openmae tokenize`; its
            weights are copied by `load_parts`. Empty: `fit` makes codes, which are random until
            then.

    Raises:
        UsageError: an unknown kind, or fewer than two codes.
    """

    source: ClassVar[str] = "tokenizer"
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        patch: tuple[int, int],
        in_chans: int,
        codes: int = 512,
        kind: str = "kmeans",
        width: int = 32,
        hidden: int = 128,
        tokenizer: str = "",
    ) -> None:
        super().__init__(patch, in_chans, codes)
        self.tokenizer, self.converts = tokenizer, False
        values = patch[0] * patch[1] * in_chans
        try:
            self.codebook = Codebook(values, codes, kind, width, hidden).requires_grad_(False)
        except ValueError as error:
            raise UsageError(f"target tokens: {error}") from None

    @classmethod
    def of(
        cls, encoder: Encoder, reads: Mapping[str, Any] | None = None, **arguments: Any
    ) -> Target:
        """The target for the patches that an encoder sees; `reads` is how the tokenizer sees them
        (`arguments_from`).

        Raises:
            UsageError: the tokenizer is of other patches, channels or values.
        """
        target = cls(encoder.patch, encoder.in_chans, **arguments)
        if reads is not None:
            target._adapt(encoder, reads)
        return target

    def _adapt(self, encoder: Encoder, reads: Mapping[str, Any]) -> None:
        """Patches are normalised for the encoder: turn them into those of the tokenizer."""
        _require_fit(encoder, reads, self.tokenizer)
        pairs = [(getattr(encoder, name).flatten(), list(reads[name])) for name in ("mean", "std")]
        (own_mean, mean), (own_std, std) = ((own, own.new_tensor(told)) for own, told in pairs)
        self.register_buffer("scale", own_std / std, persistent=False)
        self.register_buffer("shift", (own_mean - mean) / std, persistent=False)
        self.converts = True

    def seen(self, patches: Tensor) -> Tensor:
        """Patches (..., W) normalised for the encoder -> as the tokenizer normalises them."""
        if not self.converts:
            return patches
        x = patches.unflatten(-1, (-1, self.in_chans))
        return (x * self.scale + self.shift).flatten(-2)

    def values(self, patches: Tensor, images: Tensor, ids: Tensor) -> Tensor:
        return self.codebook.ids(self.seen(patches))

    def loss(self, pred: Tensor, values: Tensor) -> Tensor:
        logits = pred if pred.dtype.itemsize >= 4 else pred.float()
        return F.cross_entropy(logits.movedim(-1, 1), values, reduction="none")

    def notes(self, values: Tensor) -> dict[str, Tensor]:
        """How many codes the tokens of a batch amount to: a constant prediction has its logarithm
        as loss, about.
        """
        flat = values.flatten()
        count = torch.zeros(self.width, dtype=torch.long, device=flat.device)
        count.index_add_(0, flat, torch.ones_like(flat))
        return {"token_perplexity": perplexity(count)}

    @torch.no_grad()
    def fit(self, codes: Tensor) -> None:
        """Take codes (V, W) of patches as `goal` gives them, of a k-means made elsewhere."""
        self.codebook.codes.copy_(codes)

    def goal(self, patches: Tensor) -> Tensor:
        """Patches (..., W) normalised for the encoder -> what a k-means is made of."""
        return normalised(self.seen(patches))

    @classmethod
    def arguments_from(cls, model: nn.Module) -> Mapping[str, Any]:
        book: Any = getattr(model, "codebook", None)
        if not isinstance(book, Codebook):
            raise UsageError(
                "target tokens needs a tokenizer, and this is a model of another kind. Train one:"
                " openmae tokenize DATA --patch-size N --out runs/tokenizer"
            )
        told: Any = model.arguments
        own = {name: told[name] for name in ("codes", "kind", "width", "hidden")}
        names = ("value_range", "bands")
        reads = {n: None if told[n] is None else list(told[n]) for n in names}
        scale = {n: _floats(getattr(model, n)) for n in ("mean", "std")}
        patch: Any = model.patch
        return own | {"reads": {"patch": list(patch), "in_chans": model.in_chans, **scale, **reads}}

    @torch.no_grad()
    def load_parts(self, model: nn.Module) -> None:
        book: Any = model.codebook
        own, theirs = self.codebook.state_dict(), book.state_dict()
        shapes = [{n: t.shape for n, t in state.items()} for state in (own, theirs)]
        if shapes[0] != shapes[1]:
            raise UsageError(
                f"target tokens: codes, kind, width and hidden are those of tokenizer"
                f" {self.tokenizer}. Leave them out"
            )
        self.codebook.load_state_dict(theirs)


def _floats(values: Any) -> list[float]:
    return [float(v) for v in values.flatten()]


def _require_fit(encoder: Encoder, reads: Mapping[str, Any], name: str) -> None:
    """Raise UsageError if a tokenizer sees other patches than an encoder."""
    start = f"target tokens: the tokenizer {name}"
    (p, q), (a, b) = reads["patch"], encoder.patch
    if (p, q) != (a, b):
        raise UsageError(
            f"{start} has patches of {p}x{q}, this model of {a}x{b}. Use --patch-size"
            f" {p if p == q else f'{p} {q}'}, or a tokenizer of the other size"
        )
    if reads["in_chans"] != encoder.in_chans:
        raise UsageError(
            f"{start} reads {reads['in_chans']} channels, this model {encoder.in_chans}. Use"
            f" --channels {reads['in_chans']}, or another tokenizer"
        )
    theirs = _read_as(reads["value_range"], reads["bands"])
    own = _read_as(encoder.value_range, encoder.bands)
    if theirs != own:
        raise UsageError(
            f"{start} was made for {theirs}, this model for {own}. Give both the same"
            " --value-range and --bands"
        )


def _read_as(value_range: Any, bands: Any) -> str:
    words = "8-bit values" if value_range is None else "values {:g}:{:g}".format(*value_range)
    return words + (f" of bands {' '.join(str(band + 1) for band in bands)}" if bands else "")
