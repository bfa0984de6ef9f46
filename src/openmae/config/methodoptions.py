"""Settings of the method that pretrains (docs/methods.md)."""

from __future__ import annotations

from collections.abc import Iterator

from openmae.config.base import Settings, setting
from openmae.config.training import MODEL, TRAINING


class MethodOptions(Settings):
    """Which method, and what it alone is told."""

    method: str = setting("mae", "mae, or another method of docs/methods.md", MODEL, "fixed")
    method_args: tuple[str, ...] = setting(
        (), "of the method alone: temperature=0.2 momentum=0.99", MODEL, "fixed"
    )
    weight_decay_end: float | None = setting(
        None, "weight-decay goes to this by half a cosine (DINO: 0.4)", TRAINING, "allow", ge=0
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        for word in self.method_args:
            name, mark, value = word.partition("=")
            if not (name and mark and value):
                yield "method_args", f": {word} should be NAME=VALUE, such as temperature=0.2"
        yield from super().problems()
