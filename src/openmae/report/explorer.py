"""What the reconstruction explorer answers: pictures, numbers, attention, neighbours. No web here.

C channels, H height, W width, L patches, D width of a vector.
"""

from __future__ import annotations

import secrets
import shlex
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openmae.data.source import Source
from openmae.data.transforms import EvalTransform
from openmae.data.values import Decoding, Pixels
from openmae.errors import DataError, UsageError
from openmae.methods.mae import MAE
from openmae.models.attentionmap import attention_of
from openmae.models.encoder import Encoder
from openmae.randomness import Rand
from openmae.report.display import display_of
from openmae.report.explorerpictures import hidden_pixels, numbers, shown, thumbnail
from openmae.report.hiding import LEAST, MOST, PICTURE_MASKS, grid_ratios, hide, ranges
from openmae.report.pictures import reconstruct
from openmae.weights.steps import Steps

MOST_IMAGES = 32
"""Images of a visitor that are kept; the one that was used longest ago goes first."""

MOST_BYTES = 256_000_000
"""Of these images, at the model's size."""

_OWN = "the run's own"
NEAR = 8  # neighbours that are shown


class NoImageError(Exception):
    """There is no image of this index or id."""


@dataclass(frozen=True)
class Ask:
    """What to hide in which image. `image` is the id of an upload or the index of a sample."""

    image: str | int
    mask: str | None = None
    ratio: float | None = None
    seed: int = 0
    hidden: tuple[int, ...] = ()
    cheat_scale: bool = False
    bands: tuple[int, ...] = ()
    step: int | None = None


@dataclass(frozen=True)
class Embedded:
    """Vectors (N, D) of length one, the names of their images, what was pooled, and where the
    images are: an index of `source` each, -1 for none.
    """

    vectors: NDArray[np.float32]
    names: Sequence[str]
    pool: str
    source: Source | None = None
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


class Explorer:
    """A model with images to look at. One call at a time: it keeps images and a second checkpoint.

    Args:
        steps: of a MAE that predicts pixels.
        words: what the model is called in a command.
        what: what it is, for people.
        decoding: how files are read for it.
        source: images that are there to choose from, by index.
        commands: the word for each of these in a command, where it has one.
    """

    def __init__(
        self,
        steps: Steps,
        words: str,
        what: str,
        decoding: Decoding,
        source: Source | None = None,
        about_source: str = "",
        commands: Any = None,
        embedded: Embedded | None = None,
    ) -> None:
        self.steps, self.words, self.what, self.decoding = steps, words, what, decoding
        self.source, self.about_source, self.embedded = source, about_source, embedded
        self.commands = commands or (lambda index: None)
        self.method = self._at(None)
        self.transform = EvalTransform(self.method.encoder.image_size)
        self._uploads: OrderedDict[str, tuple[str, Tensor]] = OrderedDict()

    def _at(self, step: int | None) -> MAE:
        found = self.steps.at(step)
        assert isinstance(found, MAE)
        return found

    def own(self, mask: str | None) -> str | None:
        """A mask that a page has chosen; None for the model's own function."""
        return None if mask == _OWN else mask

    def about(self) -> dict[str, Any]:
        """What a page needs to know of the model, before any image."""
        method, encoder = self.method, self.method.encoder
        own = method.mask if isinstance(method.mask, str) else _OWN
        grids = grid_ratios(encoder.grid)
        masks = [m for m in dict.fromkeys((own, *PICTURE_MASKS)) if m != "grid" or grids]
        display = display_of(encoder)
        return {
            "what": self.what,
            "size": encoder.image_size,
            "patch": encoder.patch,
            "grid": encoder.grid,
            "channels": encoder.in_chans,
            "bands": [b + 1 for b in encoder.bands] or list(range(1, encoder.in_chans + 1)),
            "shown": display.numbers,
            "target": method.target,
            "normalised": method.target == "norm_pixels",
            "mask": own,
            "masks": masks,
            "ratio": method.mask_ratio,
            "ratios": [LEAST, MOST],
            "grid_ratios": grids,
            "steps": self.steps.listed(),
            "heads": encoder.vit.blocks[-1].attn.num_heads,
            "blocks": len(encoder.vit.blocks),
            "samples": 0 if self.source is None else len(self.source),
            "about_samples": self.about_source,
            "neighbours": 0 if self.embedded is None else len(self.embedded.names),
        }

    # Images.

    def add(self, name: str, pixels: Pixels) -> dict[str, Any]:
        """Keep an image of a visitor as the model sees it; returns its id.

        Raises:
            DataError: other channels or values than the model reads.
        """
        image = self.transform(self.decoding(pixels))
        key = secrets.token_hex(8)
        self._uploads[key] = (name, image)
        while len(self._uploads) > MOST_IMAGES or self._bytes() > MOST_BYTES:
            if len(self._uploads) == 1:
                break
            self._uploads.popitem(last=False)
        height, width = pixels.shape[:2]
        return {"id": key, "name": name, "height": height, "width": width}

    def _bytes(self) -> int:
        return sum(t.numel() * t.element_size() for _, t in self._uploads.values())

    def image(self, which: str | int) -> tuple[str, Tensor, str | None]:
        """(name, (C, H, W), its word in a command) of an upload or a sample.

        Raises:
            NoImageError: there is none.
            DataError: a sample cannot be read.
        """
        if isinstance(which, str):
            if which not in self._uploads:
                raise NoImageError(which)
            name, image = self._uploads[which]
            self._uploads.move_to_end(which)
            return name, image, name
        if self.source is None or not 0 <= which < len(self.source):
            raise NoImageError(f"sample {which}")
        name = self.source.path(which)
        return name, self.transform(self.source[which]["image"]), self.commands(which)

    def sample(self, index: int) -> bytes:
        """A small PNG of a sample."""
        _, image, _ = self.image(index)
        return thumbnail(image.numpy(), self.method.encoder)

    # Answers.

    def reconstruct(self, ask: Ask) -> dict[str, Any]:
        """Pictures and numbers, those of `openmae reconstruct` for this image, mask and seed."""
        name, image, word = self.image(ask.image)
        method = self._at(ask.step)
        rand = Rand(ask.seed, 0, 0.0, 0, 1)
        how = hide(method, rand, self.own(ask.mask), ask.ratio, ask.hidden)
        images = image[None].to(self.steps.device)
        (row,) = reconstruct(
            method, images, rand, [name], cheat_scale=ask.cheat_scale, bands=ask.bands, **how
        )
        p, q = method.encoder.patch
        hidden = np.flatnonzero(hidden_pixels(row)[::p, ::q]).tolist()
        return {
            "name": name,
            "hidden": hidden,
            "command": self._command(ask, word, hidden),
            **numbers(row),
            **shown(row),
        }

    def _command(self, ask: Ask, word: str | None, hidden: Sequence[int]) -> str | None:
        """The words that give the same picture; None for an image that no word names."""
        if word is None:
            return None
        words = ["openmae", "reconstruct", self.words, word if word[:1] != "-" else f"./{word}"]
        method = self.method
        if ask.hidden:
            words += ["--hide", ranges(hidden)]
        else:
            words += [] if ask.mask in (None, _OWN, method.mask) else ["--mask", str(ask.mask)]
            ratio = method.mask_ratio if ask.ratio is None else ask.ratio
            words += ["--mask-ratio", f"{ratio:g}", "--seed", str(ask.seed)]
        words += ["--bands", *map(str, ask.bands)] if ask.bands else []
        words += ["--cheat-scale"] if ask.cheat_scale else []
        words += [] if ask.step is None else ["--step", str(ask.step)]
        return shlex.join([*words, "-o", "reconstruction.png"])

    def attention(self, which: str | int, patch: int, step: int | None = None) -> dict[str, Any]:
        """Where a patch looks in the last block, for each head; of the whole image.

        Raises:
            UsageError: there is no such patch.
        """
        encoder = self._at(step).encoder
        length = encoder.grid[0] * encoder.grid[1]
        if not 0 <= patch < length:
            raise UsageError(f"patch {patch}: there are patches 0 to {length - 1}")
        _, image, _ = self.image(which)
        weights, prefix = attention_of(encoder, image[None].to(self.steps.device), patch)
        heads = weights[0].float().cpu().numpy()
        return {
            "patch": patch,
            "heads": np.round(heads, 6).tolist(),
            "prefix": np.round(prefix[0].float().cpu().numpy(), 6).tolist(),
        }

    @torch.inference_mode()
    def neighbours(self, which: str | int) -> list[dict[str, Any]]:
        """The nearest of the embedded images by cosine, of the model that made their vectors.

        Raises:
            UsageError: no vectors are there.
        """
        if self.embedded is None:
            raise UsageError("no embeddings are loaded (--embeddings)")
        _, image, _ = self.image(which)
        query = vector_of(self.method.encoder, image.to(self.steps.device), self.embedded.pool)
        similar = self.embedded.vectors @ query
        order = np.argsort(-similar, kind="stable")[:NEAR].tolist()
        rows = self.embedded.rows
        return [
            {
                "index": i,
                "name": self.embedded.names[i],
                "similarity": float(similar[i]),
                "picture": bool(len(rows) and rows[i] >= 0),
            }
            for i in order
        ]

    def neighbour(self, index: int) -> bytes:
        """A small PNG of an embedded image.

        Raises:
            NoImageError: there is none.
        """
        found = self.embedded
        if found is None or found.source is None or not 0 <= index < len(found.rows):
            raise NoImageError(f"neighbour {index}")
        if found.rows[index] < 0:
            raise NoImageError(f"neighbour {index}")
        image = self.transform(found.source[int(found.rows[index])]["image"])
        return thumbnail(image.numpy(), self.method.encoder)


def vector_of(encoder: Encoder, image: Tensor, pool: str) -> NDArray[np.float32]:
    """The vector (D,) of length one of an image (C, H, W), as `openmae embed` makes it."""
    tokens = encoder(image[None])[0]
    at = encoder.num_prefix_tokens
    if pool == "cls" and not at:
        raise DataError("this encoder has no class token, the embeddings are of one")
    vector = (tokens[0] if pool == "cls" else tokens[at:].mean(dim=0)).float().cpu().numpy()
    out: NDArray[np.float32] = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return out
