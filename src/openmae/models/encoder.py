"""The encoder: a timm vision transformer, run on all patches or only on the kept ones.

B batch, L patches, K kept patches, P prefix tokens (class and registers), D width.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from openmae.errors import UsageError
from openmae.models.attention import kernel
from openmae.models.described import Described
from openmae.models.groups import Groups, group, group_table
from openmae.models.initialise import token, xavier_conv, xavier_linear
from openmae.models.products import multiply

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Fuse = Callable[[Sequence[Tensor]], Tensor]

_PLAIN = ("vision_transformer", "deit")  # timm's modules of plain ViTs


class Encoder(Described, nn.Module):
    """A timm ViT with the mean and standard deviation of its input.

    Args:
        vit: a timm VisionTransformer with absolute positions.
        mean, std: one value a channel, on the scale of images in [0, 1].
        create: the keyword arguments of the `timm.create_model` call that makes `vit`, recorded in
        files.
        value_range: (low, high) of the values that images on the scale [0, 1] had in their files;
            None for 8-bit images. Recorded for those who read images.
        bands: which channels of a file the images have, counted from 0; empty for all.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        vit: VisionTransformer,
        mean: Sequence[float],
        std: Sequence[float],
        create: dict[str, Any],
        value_range: Sequence[float] | None = None,
        bands: Sequence[int] = (),
    ) -> None:
        super().__init__()
        channels = vit.patch_embed.proj.weight.shape[1]
        if len(mean) != channels or len(std) != channels:
            raise ValueError(f"{channels} channels, mean of {len(mean)}, std of {len(std)}")
        self.vit = vit
        self.create = create
        self.attention = "sdpa"  # the kernel of training; `openmae.models.attention.use` sets it
        self.products = "torch"  # and `openmae.models.products.use` this, of the patch embedding
        self.value_range = None if value_range is None else (value_range[0], value_range[1])
        self.bands = tuple(bands)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.vit.patch_embed.img_size)

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return tuple(self.vit.patch_embed.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return tuple(self.vit.patch_embed.grid_size)

    @property
    def in_chans(self) -> int:
        """Channels of the input."""
        return self.vit.patch_embed.proj.weight.shape[1]

    @property
    def num_prefix_tokens(self) -> int:
        """Class and register tokens, in front of the patches."""
        return self.vit.num_prefix_tokens

    @property
    def num_prefix_rows(self) -> int:
        """Rows of the position table that belong to prefix tokens, if it has any."""
        return self.vit.pos_embed.shape[1] - self.vit.patch_embed.num_patches

    @property
    def groups(self) -> Groups:
        """Channels of each group, each of which has its own tokens; one group of a plain ViT."""
        plain = (tuple(range(self.in_chans)),)
        return getattr(self.vit.patch_embed, "groups", plain)

    def normalize(self, images: Tensor) -> Tensor:
        """8-bit images become normalised floats; floating-point images are normalised already."""
        if images.is_floating_point():
            return images
        if images.dtype != torch.uint8:
            raise TypeError(f"images must be uint8 or floating point, not {images.dtype}")
        return (images.to(self.mean.dtype) / 255 - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> tokens (B, P + L, D) after the final norm; timm's
        `forward_features` to the bit.
        """
        return self.vit.forward_features(self.normalize(images))

    def tokens(self, images: Tensor, layer: int | None = None, norm: bool = True) -> Tensor:
        """As `forward`, but after block `layer` (1 is the first; the last by default), with or
        without the final norm.
        """
        vit = self.vit
        depth = len(vit.blocks)
        if layer is not None and not 1 <= layer <= depth:
            raise UsageError(f"--layer {layer}: this encoder has blocks 1 to {depth}")
        x = vit.norm_pre(vit._pos_embed(vit.patch_embed(self.normalize(images))))
        for block in vit.blocks[: depth if layer is None else layer]:
            x = block(x)
        return vit.norm(x) if norm else x

    def encode_kept(
        self,
        patches: Tensor,
        ids: Tensor,
        positions: Tensor | None = None,
        fuse: Fuse | None = None,
    ) -> Tensor:
        """Kept patch vectors (B, K, p*q*C) at positions ids (B, K) -> tokens (B, P + K, D).

        The patch embedding is timm's convolution written as the linear layer that it is.
        `positions` (rows of prefix tokens + L, D) stand in for the encoder's own at another grid.
        `fuse` makes one tensor (..., D) of what all blocks gave; it goes through the final norm in
        the place of the last one's.
        """
        vit = self.vit
        conv = vit.patch_embed.proj
        weight = conv.weight.permute(0, 2, 3, 1).flatten(
            1
        )  # (D, C, p, q) -> (D, p*q*C), channel last
        x = vit.patch_embed.norm(multiply(patches, weight, conv.bias, self.products))
        return self._transform(x, ids, positions, fuse)

    def encode_plain(
        self, images: Tensor, ids: Tensor, positions: Tensor | None = None, fuse: Fuse | None = None
    ) -> Tensor:
        """The published formulation of `encode_kept`: embed every patch of the images, then keep
        `ids`.
        """
        embed, images = self.vit.patch_embed, self.normalize(images)
        if positions is None:
            x = embed(images)
        else:  # as timm embeds, which refuses another size
            x = embed.norm(embed.proj(images).flatten(2).transpose(1, 2))
        kept = x.gather(1, ids[..., None].expand(-1, -1, x.shape[-1]))
        return self._transform(kept, ids, positions, fuse)

    def _transform(
        self, x: Tensor, ids: Tensor, positions: Tensor | None, fuse: Fuse | None
    ) -> Tensor:
        vit = self.vit
        prefix = [t.expand(len(x), -1, -1) for t in (vit.cls_token, vit.reg_token) if t is not None]
        table = vit.pos_embed[0] if positions is None else positions
        at = self.num_prefix_rows
        x = x + F.embedding(ids, table[at:])
        if prefix:
            tokens = torch.cat(prefix, dim=1)
            x = torch.cat([tokens + table[:at] if at else tokens, x], dim=1)
        x = vit.norm_pre(x)
        outputs = []
        with kernel(self.attention):
            for block in vit.blocks:
                x = block(x)
                outputs.append(x)
        return vit.norm(x if fuse is None else fuse(outputs))

    @torch.no_grad()
    def initialise(self) -> None:
        """The paper's initialisation, with frozen sin-cos positions."""
        vit = self.vit
        xavier_linear(vit.blocks)
        xavier_linear(vit.norm)
        xavier_conv(vit.patch_embed.proj, self.groups)
        for parameter in (vit.cls_token, vit.reg_token):
            if parameter is not None:
                token(parameter)
        rows = self.num_prefix_rows
        vit.pos_embed.copy_(group_table(vit.embed_dim, self.grid, rows, len(self.groups)))
        vit.pos_embed.requires_grad_(False)


def create_arguments(
    name: str,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    in_chans: int = 3,
    encoder_args: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The keyword arguments of the `timm.create_model` call for an encoder without a head."""
    known_model(name)
    given = dict(encoder_args or {})
    without = "_gap_" in name or "_map_" in name  # timm's names of models without a class token
    pool = (
        {"global_pool": "token"}
        if given.get("class_token", not without)
        else {"global_pool": "avg", "fc_norm": False}
    )
    create = {"model_name": name, "num_classes": 0, "in_chans": in_chans, **pool, **given}
    if image_size is not None:
        create["img_size"] = (
            [image_size, image_size] if isinstance(image_size, int) else list(image_size)
        )
    if patch_size is not None:
        create["patch_size"] = patch_size if isinstance(patch_size, int) else list(patch_size)
    return create


def method_arguments(create: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `MAE` and `Classifier` that make the encoder of a `timm.create_model` call,
    size and head aside.
    """
    own = ("model_name", "img_size", "patch_size", "in_chans", "num_classes", "global_pool")
    patch = create.get("patch_size")
    return {
        "encoder": create["model_name"],
        "patch_size": tuple(patch) if isinstance(patch, list) else patch,
        "in_chans": create["in_chans"],
        "encoder_args": {k: v for k, v in create.items() if k not in (*own, "fc_norm")},
    }


def build_vit(create: dict[str, Any], pretrained: bool = False) -> VisionTransformer:
    """Call timm; refuse what is not a plain ViT with absolute positions."""
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in create.items()}
    groups = arguments.pop("channel_groups", None)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # timm warns of its own deprecations, which no user can act on
        try:
            vit = timm.create_model(**arguments, pretrained=pretrained)
        except TypeError as error:  # an argument that this architecture does not take
            raise UsageError(f"timm cannot build {create['model_name']}: {error}") from None
        except AssertionError as error:
            base = create["model_name"].split(".")[0]
            if any(base in timm.list_models(module=module) for module in _PLAIN):
                raise UsageError(f"this model cannot be built: {error}") from None
            vit = None
    if type(vit) is not VisionTransformer or vit.pos_embed is None:
        raise UsageError(
            f"{create['model_name']} is not a plain vision transformer with absolute positions,"
            " which MAE needs.\n`openmae models` lists those that work."
        )
    if groups is not None:
        group(vit, groups)
    return vit


def known_model(name: str) -> None:
    """Raise UsageError, with the five closest names, if timm does not know `name`."""
    base = name.split(".")[0]
    if timm.is_model(base):
        return
    vits = list_models()
    near = difflib.get_close_matches(base, vits, n=5, cutoff=0.0)
    raise UsageError(
        f"{name} is not a model that timm knows. Closest: {', '.join(near)}\n`openmae models` lists"
        " them all."
    )


def list_models(pattern: str = "") -> list[str]:
    """Names of timm's plain vision transformers that contain `pattern`."""
    names: list[str] = timm.list_models(module="vision_transformer")
    outside = ("_rpn", "_siglip", "_clip", "flexivit", "_dlittle", "_xp", "beit", "test_")
    return [
        n
        for n in names
        if pattern in n and n.startswith(("vit_", "deit")) and not any(o in n for o in outside)
    ]
