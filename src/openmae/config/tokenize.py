"""Settings of `openmae tokenize`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from openmae.config.base import setting
from openmae.config.images import ImagesConfig
from openmae.config.training import MODEL, TRAINING, Size, pair


class TokenizeConfig(ImagesConfig):
    """Train a tokenizer of patches on a folder of images: its codes are the tokens that
    `pretrain --target tokens` and `--method beit` predict.
    """

    parts_of: ClassVar = {"channels": ("mean", "std"), "kind": ("width", "hidden")}

    kind: Literal["kmeans", "vqvae"] = setting(
        "kmeans",
        "kmeans: nearest of V patches; vqvae: of V features, encoded and decoded",
        MODEL,
        "fixed",
    )
    codes: int = setting(512, "size of the vocabulary, V", MODEL, "fixed", ge=2, le=1_000_000)
    patch_size: Size = setting(16, "pixels: one number, or height and width", MODEL, "fixed")
    width: int = setting(32, "vqvae: numbers of a code", MODEL, "fixed", ge=1)
    hidden: int = setting(128, "vqvae: width of its layers", MODEL, "fixed", ge=1)
    epochs: float | None = setting(5, "passes over the data", TRAINING, "allow", gt=0)
    batch_size: int = setting(
        256, "images of one optimiser step; auto: micro-batch auto", TRAINING, "allow", gt=0
    )
    lr: float = setting(0.03, "base learning rate, per 256 images", TRAINING, "allow", gt=0)
    warmup_epochs: float = setting(0, "linear warm-up from zero", TRAINING, "allow", ge=0)
    weight_decay: float = setting(0, "of AdamW; biases are exempt", TRAINING, "allow", ge=0)
    betas: tuple[float, float] = setting((0.9, 0.99), "of AdamW", TRAINING, "allow")

    @property
    def patch(self) -> tuple[int, int]:
        return pair(self.patch_size)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.parallel in ("fsdp", "hsdp"):
            yield "parallel", ": a tokenizer is too small to be shared out. Leave it out, or ddp"
        if self.ema is not None:
            yield "ema", ": codes that move to other patches have no average. Leave it out"
        yield from super().problems()
