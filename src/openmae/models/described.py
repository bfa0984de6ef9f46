"""What a model says of itself where Python shows it; torch's own list of layers is
`torch.nn.Module.__repr__(model)`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from openmae.reprs import lines, table


def facts(model: nn.Module) -> dict[str, object]:
    """The sizes of an encoder, or of a method with the encoder within."""
    encoder: Any = model if hasattr(model, "vit") else getattr(model, "encoder", None)
    found: dict[str, object] = {}
    if hasattr(encoder, "vit"):
        (height, width), (rows, columns) = encoder.image_size, encoder.grid
        vit = encoder.vit
        found["encoder"] = encoder.create.get("model_name", type(encoder).__name__)
        channels = f"{encoder.in_chans} channel{'s' if encoder.in_chans > 1 else ''}"
        found["images"] = f"{height} x {width} px, {channels}"
        found["patches"] = f"{rows} x {columns} of {' x '.join(map(str, encoder.patch))} px"
        heads = getattr(vit.blocks[0].attn, "num_heads", "?")
        found["blocks"] = f"{len(vit.blocks)}, width {vit.embed_dim}, {heads} heads"
    told = getattr(model, "arguments", None)
    for name in ("mask", "mask_ratio", "target"):
        value = getattr(model, name, None)
        if told is not None and isinstance(value, str | float):
            found[name] = value
    found["parameters"] = f"{sum(p.numel() for p in model.parameters()):,}"
    return found


class Described:
    """A module that says in a few lines what it is."""

    def __repr__(self) -> str:
        assert isinstance(self, nn.Module)
        return "\n".join([type(self).__name__, *lines(facts(self))])

    def _repr_html_(self) -> str:
        assert isinstance(self, nn.Module)
        return table(facts(self), type(self).__name__)
