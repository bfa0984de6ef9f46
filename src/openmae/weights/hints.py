"""What the configuration beside a checkpoint tells: Hugging Face's, timm's, or our own metadata.

Anybody may have written it: whatever is not of the right kind counts as not told.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MOST = 4096  # heads, or patches of a side


@dataclass(frozen=True)
class Hints:
    """None, or nothing, where it is not told. Mean and std are of pixels in [0, 1]."""

    heads: int | None = None
    decoder_heads: int | None = None
    image_size: tuple[int, int] | None = None
    eps: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] = ()
    multi_label: bool = False
    norm_pixels: bool | None = None
    mask_ratio: float | None = None
    activation: str = ""


def hints(config: object, metadata: Mapping[str, str]) -> Hints:
    """Read config.json (with preprocessor_config.json below "preprocessor"), and the metadata of a
    safetensors file of ours.
    """
    own = _table(config)
    timm = _table(own.get("pretrained_cfg")) or own  # older files of timm have it all at the top
    arguments = _table(own.get("model_args")) | _ours(metadata)
    preprocessor = _table(own.get("preprocessor"))
    target = own.get("norm_pix_loss")
    mean, std = _pixels(preprocessor) if preprocessor else (timm.get("mean"), timm.get("std"))
    sides = (arguments.get("img_size"), own.get("image_size"), timm.get("input_size"))
    return Hints(
        heads=_whole(own.get("num_attention_heads") or arguments.get("num_heads")),
        decoder_heads=_whole(own.get("decoder_num_attention_heads")),
        image_size=next((s for s in map(_side, sides) if s), None),
        eps=next(iter(_numbers([own.get("layer_norm_eps")], 0.0, 0.1) or ()), None),
        mean=_numbers(mean, -1e6, 1e6),
        std=_numbers(std, 1e-6, 1e6),
        classes=_classes(own, timm),
        multi_label=own.get("problem_type") == "multi_label_classification",
        norm_pixels=target if isinstance(target, bool) else None,
        mask_ratio=next(iter(_numbers([own.get("mask_ratio")], 0.01, 0.99) or ()), None),
        activation=own["hidden_act"] if isinstance(own.get("hidden_act"), str) else "",
    )


def _table(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _ours(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The timm call in the metadata of a file of ours."""
    found: dict[str, Any] = {}
    for name in ("timm", "heads"):
        try:
            value = json.loads(metadata.get(name, ""))
        except ValueError:
            continue
        found |= _table(value) if name == "timm" else {"num_heads": value}
    return found


def _whole(value: object) -> int | None:
    real = isinstance(value, int) and not isinstance(value, bool)
    return value if real and 0 < value <= _MOST else None  # type: ignore[operator, return-value]


def _numbers(values: object, low: float, high: float) -> tuple[float, ...] | None:
    """Finite numbers from `low` to `high`, or None."""
    if not isinstance(values, list | tuple) or not values:
        return None
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if not math.isfinite(value) or not low <= value <= high:
            return None
    return tuple(float(v) for v in values)


def _side(value: object) -> tuple[int, int] | None:
    """Height and width from one number, two, or (channels, height, width)."""
    both = _numbers([value, value] if isinstance(value, int) else value, 1, 1e6)
    return (int(both[-2]), int(both[-1])) if both and len(both) in (2, 3) else None


def _pixels(preprocessor: Mapping[str, Any]) -> tuple[object, object]:
    """Mean and std that an image processor of Hugging Face subtracts and divides by, for pixels in
    [0, 1]: it may scale them otherwise, or not at all.
    """
    mean, std = preprocessor.get("image_mean"), preprocessor.get("image_std")
    if preprocessor.get("do_normalize") is False:
        mean, std = [0.0] * 3, [1.0] * 3
    factor = _numbers([preprocessor.get("rescale_factor", 1 / 255)], 1e-9, 1e3) or (1 / 255,)
    scale = 255 * (1.0 if preprocessor.get("do_rescale") is False else factor[0])
    if math.isclose(scale, 1.0):
        return mean, std
    both = _numbers(mean, -1e6, 1e6), _numbers(std, 1e-6, 1e6)
    return tuple(None if part is None else [v / scale for v in part] for part in both)  # type: ignore[return-value]


def _classes(own: Mapping[str, Any], timm: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the outputs in their order."""
    named = timm.get("label_names")
    if isinstance(named, list | tuple):
        return tuple(map(str, named))
    names = {str(k): str(v) for k, v in _table(own.get("id2label")).items()}
    if names.keys() != {str(i) for i in range(len(names))}:
        return ()
    return tuple(names[str(i)] for i in range(len(names)))
