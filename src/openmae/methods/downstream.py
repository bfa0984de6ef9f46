"""What the methods on a pretrained encoder share: stochastic depth whose draws are given, and the
rates and the weight decay of their parameters.

B batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from openmae.methods.base import Randomness
from openmae.models.droppath import DropPath
from openmae.models.encoder import Encoder
from openmae.models.masking import moved


class Downstream(nn.Module):
    """A method with an `encoder`, and `paths`: its branches that may be dropped."""

    encoder: Encoder
    paths: list[DropPath]

    def draw_paths(self, rows: int, rand: Randomness | None, device: torch.device) -> None:
        """Draw which residual branches of each row are dropped: by `rand`, or by torch's global
        generator.
        """
        shape = (rows, len(self.paths))
        draw = rand.uniform("drop-path", shape) if rand is not None else torch.rand(shape)
        for path, column in zip(self.paths, moved(draw, device).unbind(1), strict=True):
            path.draw = column

    def param_groups(self, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
        """Groups of (name, parameter) with `weight_decay` and `lr_scale` = decay^(depth + 1 - id).

        Ids as published: 0 for patch embedding, class token and positions, i + 1 for block i, depth
        + 1 for norms and heads. Vectors, biases, positions (absolute and relative) and class token
        are not decayed.
        """
        depth = len(self.encoder.vit.blocks)
        groups: dict[tuple[int, bool], dict[str, Any]] = {}
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            own = name.startswith("encoder.")
            layer = layer_id(name.removeprefix("encoder.vit."), depth) if own else depth + 1
            decayed = parameter.ndim > 1 and not name.endswith(("pos_embed", "_token"))
            decayed = decayed and not name.startswith("relative.")
            group = groups.setdefault((layer, decayed), {"params": []})
            group["params"].append((name, parameter))
            group["weight_decay"] = weight_decay if decayed else 0.0
            group["lr_scale"] = layer_decay ** (depth + 1 - layer)
        return [groups[key] for key in sorted(groups)]

    def blocks(self) -> list[nn.Module]:
        """The units of per-block compile and sharding."""
        return list(self.encoder.vit.blocks)


def layer_id(name: str, depth: int) -> int:
    """The layer of a timm parameter: 0 embedding, 1 .. depth blocks, depth + 1 norms and head."""
    if name.startswith(("patch_embed.", "norm_pre.")) or name in ("cls_token", "reg_token"):
        return 0
    if name == "pos_embed":
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else depth + 1
