"""What the methods that pretrain an encoder share: how it is made, and what the loop, the
evaluation and the files ask of a method.

B batch, C channels, V views.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor, nn

from openmae.errors import UsageError, no_argument
from openmae.models.described import Described
from openmae.models.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, build_vit, create_arguments
from openmae.models.following import follow as follow


class Randomness(Protocol):
    """The step's randomness; `openmae.randomness.Rand` is the one that training uses."""

    @property
    def step(self) -> int: ...
    @property
    def progress(self) -> float: ...
    def uniform(self, purpose: str, shape: tuple[int, ...]) -> Tensor: ...
    def seed_of(self, purpose: str) -> int: ...


class Base(Described, nn.Module):
    """A method on an encoder with frozen sin-cos positions.

    A subclass takes these as `**encoder` beside its own keyword arguments, all with defaults, and
    adds its own to `arguments`, from which files make it again. The last line of its constructor is
    `self.encoder.initialise()`, the paper's initialisation (teachers are copied after that).

    Args:
        encoder: a timm name of a plain ViT.
        image_size: pixels, one number or (height, width); must divide by the patch.
        patch_size: pixels, one number or (height, width); the encoder's own by default.
        in_chans: channels, at least 1.
        encoder_args: further arguments of `timm.create_model`, such as embed_dim, depth, num_heads.
        mean, std: of the channels, on the scale [0, 1]; ImageNet's for 3 channels, 0.5 otherwise.
        value_range, bands: as of `Encoder`.

    Raises:
        UsageError: an unknown name or argument, or sizes that do not fit.
    """

    batch_coupled: bool = False
    """The loss of an image depends on the others of its batch, so that a batch cannot be cut into
    micro-batches. What is shared goes over all ranks (`openmae.models.gathering`)."""

    masked: ClassVar[bool] = False
    """Hidden patches of one crop are predicted: held-out images then have a loss with fixed masks.
    """

    def __new__(cls, *_: Any, **told: Any) -> Self:
        known = [*own_arguments(cls), *inspect.signature(Base.__init__).parameters]
        for name in told:
            if name not in known:
                known.remove("self")
                raise UsageError(no_argument(f"method {cls.__name__}", name, known))
        return super().__new__(cls)

    def __init__(
        self,
        encoder: str = "vit_base_patch16_224",
        image_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] | None = None,
        in_chans: int = 3,
        encoder_args: Mapping[str, Any] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        value_range: Sequence[float] | None = None,
        bands: Sequence[int] = (),
    ) -> None:
        super().__init__()
        mean, std = mean_and_std(in_chans, mean, std)
        self.arguments: dict[str, Any] = {
            k: v for k, v in locals().items() if k not in ("self", "__class__")
        }
        self.encoder = encoder_of(
            encoder, image_size, patch_size, in_chans, encoder_args, mean, std, value_range, bands
        )
        for size, patch in zip(self.encoder.image_size, self.encoder.patch, strict=True):
            if size % patch:
                raise _impossible(f"{size} pixels do not divide into patches of {patch}")

    def views(self) -> list[dict[str, Any]] | None:
        """What a batch holds of each image: None for one random crop, (B, C, H, W); else the
        keyword arguments of an `openmae.data.views.View` for each view. Those of the full size are
        "image" (B, V, C, H, W), smaller ones "local" (B, V, C, h, w).
        """
        return None

    def example(self, images: Tensor) -> dict[str, Tensor]:
        """A batch of the shapes that training has, made of images (B, C, H, W)."""
        views = self.views()
        if views is None:
            return {"image": images}
        own = self.encoder.image_size
        sizes = [own if (size := view.get("size")) is None else tuple(size) for view in views]
        found = {
            "image": images.repeat_interleave(sizes.count(own), 0).unflatten(0, (len(images), -1))
        }
        local = [size for size in sizes if size != own]
        if local:
            cut = images[..., : local[0][0], : local[0][1]]
            found["local"] = cut.repeat_interleave(len(local), 0).unflatten(0, (len(images), -1))
        return found

    def trained_encoder(self) -> Encoder:
        """The encoder that the run leaves: the one whose features are read."""
        return self.encoder

    def blocks(self) -> list[nn.Module]:
        """The units of per-block compile and sharding."""
        return list(self.encoder.vit.blocks)

    def lr_scales(self) -> dict[str, float]:
        """Of parts of the method (first part of the names of their parameters): the multiple of the
        learning rate that they train with. What is not named trains with the rate itself.
        """
        return {}

    def begin(self) -> None:
        """The encoder of a new run has the weights that it begins with: teachers copy them."""

    def after_step(self, rand: Randomness, skipped: Tensor) -> None:
        """Called after each step: moves teachers and centres. `skipped` (a 0-dim tensor on the
        device, never to be read back) is 1 where the step was not finite: nothing may change then.
        """


def mean_and_std(
    in_chans: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float], Sequence[float]]:
    """As given; else ImageNet's for 3 channels and 0.5 otherwise."""
    usual = (IMAGENET_MEAN, IMAGENET_STD) if in_chans == 3 else ((0.5,) * in_chans,) * 2
    return mean or usual[0], std or usual[1]


def encoder_of(
    encoder: str,
    image_size: int | tuple[int, int],
    patch_size: int | tuple[int, int] | None,
    in_chans: int,
    encoder_args: Mapping[str, Any] | None,
    mean: Sequence[float],
    std: Sequence[float],
    value_range: Sequence[float] | None,
    bands: Sequence[int],
) -> Encoder:
    """The encoder of a method, from the arguments of `Base`.

    Raises:
        UsageError: an unknown name, or sizes that do not fit.
    """
    if in_chans < 1 or len(mean) != in_chans or len(std) != in_chans:
        raise _impossible(f"{in_chans} channels, mean of {len(mean)}, std of {len(std)}")
    try:
        create = create_arguments(
            encoder, image_size, patch_size, in_chans, dict(encoder_args or {})
        )
        return Encoder(build_vit(create), mean, std, create, value_range, bands)
    except (ValueError, AssertionError) as error:
        raise _impossible(error) from None


def own_arguments(method: type[nn.Module]) -> dict[str, Any]:
    """The keyword arguments of a method beyond those of `Base`, with their defaults."""
    shared = inspect.signature(Base.__init__).parameters
    found: dict[str, Any] = {}
    for kind in method.__mro__:
        if issubclass(kind, Base) and kind is not Base and "__init__" in kind.__dict__:
            signature = inspect.signature(kind.__dict__["__init__"]).parameters
            kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
            own = {n: p.default for n, p in signature.items() if p.kind not in kinds}
            found = {n: d for n, d in own.items() if n not in shared} | found
    return found


def _impossible(reason: object) -> UsageError:
    return UsageError(f"this model cannot be built: {reason}")
