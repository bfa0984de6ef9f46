"""Settings of what is predicted for a hidden patch (docs/targets.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from openmae.config.base import Settings, setting
from openmae.config.training import MODEL

TargetName = Literal["norm_pixels", "pixels", "pca", "hog", "features", "tokens"]


class TargetOptions(Settings):
    """What is predicted, and how."""

    target_args: tuple[str, ...] = setting(
        (),
        "components=96 (pca), cell=8 bins=9 (hog), teacher=RUN (features), tokenizer=RUN (tokens)",
        MODEL,
        "fixed",
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        for word in self.target_args:
            name, mark, value = word.partition("=")
            if not (name and mark and value):
                yield "target_args", f": {word} should be NAME=VALUE, such as components=96"
        yield from super().problems()
