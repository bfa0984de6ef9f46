"""Logits of whole images by a network that sees windows of one size.

K classes, C channels, H and W height and width of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from openmae.models.upernet import resized

Predict = Callable[[Tensor], Tensor]
"""Normalised windows (B, C, h, w) -> logits (B, K, h, w)."""


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side: every `stride`, and the last one at the end."""
    if length <= window:
        return [0]
    return [*range(0, length - window, stride), length - window]


def slide(
    predict: Predict,
    image: Tensor,
    window: tuple[int, int],
    stride: tuple[int, int],
    at_a_time: int = 8,
) -> Tensor:
    """Logits (K, H, W) of a normalised image (C, H, W): the mean over the windows that cover a
    pixel. A side that is smaller than the window is padded with zeros, which is the average value.
    """
    height, width = image.shape[-2:]
    bottom, right = max(window[0] - height, 0), max(window[1] - width, 0)
    image = F.pad(image, (0, right, 0, bottom)) if bottom or right else image
    rows = starts(image.shape[-2], window[0], stride[0])
    columns = starts(image.shape[-1], window[1], stride[1])
    places = [(top, left) for top in rows for left in columns]
    total: Tensor | None = None
    count = image.new_zeros(image.shape[-2:])
    for first in range(0, len(places), at_a_time):
        group = places[first : first + at_a_time]
        parts = [image[:, t : t + window[0], s : s + window[1]] for t, s in group]
        logits = predict(torch.stack(parts)).float()
        if total is None:
            total = logits.new_zeros(logits.shape[1], *image.shape[-2:])
        for (top, left), part in zip(group, logits, strict=True):
            total[:, top : top + window[0], left : left + window[1]] += part
            count[top : top + window[0], left : left + window[1]] += 1
    assert total is not None
    return (total / count.float())[:, :height, :width]


def averaged(
    predict: Predict,
    image: Tensor,
    size: Sequence[int],
    window: tuple[int, int],
    stride: tuple[int, int],
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    at_a_time: int = 8,
) -> Tensor:
    """Scores (K, *size) of a normalised image (C, H, W). One scale without a flip gives logits;
    several views give the mean of their softmax (multi-scale and flip test).
    """
    views = [
        (scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,))
    ]
    total: Tensor | None = None
    for scale, mirrored in views:
        height, width = (max(1, round(side * scale)) for side in image.shape[-2:])
        view = resized(image[None], (height, width))[0]
        view = view.flip(-1) if mirrored else view
        logits = slide(predict, view, window, stride, at_a_time)
        logits = resized((logits.flip(-1) if mirrored else logits)[None], size)[0]
        scores = logits if len(views) == 1 else logits.softmax(dim=0)
        total = scores if total is None else total + scores
    assert total is not None
    return total / len(views)
