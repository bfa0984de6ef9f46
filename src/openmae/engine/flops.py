"""Floating-point operations of a training step: the published formulation's, whatever is left out
of it, so that rates of different programs can be compared.

A multiply-add is 2 operations. A linear layer of T tokens from A to B values takes 2*T*A*B; the
attention of T tokens of width D takes 4*T^2*D. The backward pass is twice the forward one, and once
for the patch embedding, whose input needs no gradient. Norms, biases and activations are not
counted: they are bandwidth.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stack:
    """Transformer blocks of one width: `hidden` is the width inside their MLP."""

    width: int
    depth: int
    hidden: int

    def linear(self, tokens: int) -> float:
        """Forward operations of qkv and projection, for one image."""
        return 8.0 * tokens * self.width**2 * self.depth

    def mlp(self, tokens: int) -> float:
        """Forward operations of the MLPs."""
        return 4.0 * tokens * self.width * self.hidden * self.depth

    def attention(self, tokens: int) -> float:
        """Forward operations of the two products of attention."""
        return 4.0 * tokens**2 * self.width * self.depth

    def forward(self, tokens: int) -> float:
        """All of them."""
        return self.linear(tokens) + self.mlp(tokens) + self.attention(tokens)

    def cross(self, queries: int, keys: int, width: int) -> dict[str, float]:
        """Forward operations by part of blocks whose queries read `keys` tokens of another width,
        and not each other.
        """
        own = 4.0 * queries * self.width**2  # q and projection
        return {
            "linear": self.depth * (own + 4.0 * keys * width * self.width),
            "mlp": self.mlp(queries),
            "attention": self.depth * 4.0 * queries * keys * self.width,
        }


@dataclass(frozen=True)
class MAESize:
    """What decides the cost of masked-autoencoder pretraining, for one image."""

    encoder: Stack
    decoder: Stack
    patches: int
    kept: int
    prefix: int  # class and register tokens
    values: int  # of a patch: p * q * C
    out: int  # values predicted for a patch
    cross: int | None = None  # hidden patches that a cross-attention decoder predicts
    masks: int = 1  # of each image in a step
    inside: bool = False  # the encoder sees hidden patches as mask tokens
    embedded: bool = True  # there is a linear layer between encoder and decoder

    @property
    def seen(self) -> int:
        """Tokens of the encoder."""
        return self.prefix + (self.patches if self.inside else self.kept)

    def forward(self) -> dict[str, float]:
        """Forward operations by part, of the published formulation: every patch is embedded,
        decoded and predicted (by a cross-attention decoder, those that it is asked for).
        """
        seen, encoder, decoder = self.seen, self.encoder, self.decoder
        if self.cross is None:
            decoded = self.prefix + self.patches
            parts = {
                "linear": decoder.linear(decoded),
                "mlp": decoder.mlp(decoded),
                "attention": decoder.attention(decoded),
            }
            embed = 2.0 * seen * encoder.width * decoder.width * self.embedded
        else:
            decoded, embed = self.cross, 0.0
            parts = decoder.cross(decoded, seen, encoder.width)
        each = {
            "encoder_linear": encoder.linear(seen),
            "encoder_mlp": encoder.mlp(seen),
            "encoder_attention": encoder.attention(seen),
            **{f"decoder_{name}": value for name, value in parts.items()},
            "patch_embed": 2.0 * self.patches * self.values * encoder.width,
            "decoder_embed": embed,
            "head": 2.0 * decoded * decoder.width * self.out,
        }
        return {name: self.masks * value for name, value in each.items()}

    def train(self) -> float:
        """Operations of forward and backward."""
        parts = self.forward()
        return 3 * sum(parts.values()) - parts["patch_embed"]


@dataclass(frozen=True)
class ClassifierSize:
    """What decides the cost of fine-tuning, for one image."""

    encoder: Stack
    patches: int
    prefix: int
    values: int
    classes: int
    blocks: float | None = None  # trained ones, from the last; None: everything

    def forward(self) -> dict[str, float]:
        """Forward operations by part; the head is one linear layer on one vector."""
        tokens = self.prefix + self.patches
        return {
            "encoder_linear": self.encoder.linear(tokens),
            "encoder_mlp": self.encoder.mlp(tokens),
            "encoder_attention": self.encoder.attention(tokens),
            "patch_embed": 2.0 * self.patches * self.values * self.encoder.width,
            "head": 2.0 * self.encoder.width * self.classes,
        }

    def train(self) -> float:
        """Operations of forward and backward; what is frozen, and below what is trained, has no
        backward pass.
        """
        parts = self.forward()
        everything = sum(parts.values())
        if self.blocks is None:
            return 3 * everything - parts["patch_embed"]
        tokens, one = self.prefix + self.patches, Stack(self.encoder.width, 1, self.encoder.hidden)
        whole = int(self.blocks)
        backward = whole * one.forward(tokens) + parts["head"]
        backward += one.mlp(tokens) if self.blocks % 1 else 0
        return everything + 2 * backward
