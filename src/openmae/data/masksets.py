"""Images with masks, opened and looked at: training and test part, classes, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from openmae.data.maskcheck import (
    MaskLook,
    choose_labels,
    look_at_masks,
    require_sound,
    sentences,
    warnings,
)
from openmae.data.maskfile import Labels, read_names, read_palette
from openmae.data.masklayouts import ADE, Pairs, find_pairs
from openmae.data.masks import MaskSource
from openmae.data.sources import hash_split
from openmae.data.values import Decoding
from openmae.errors import DataError


@dataclass
class MaskSets:
    """Training part, and test part where the folders have one or a share was asked for; `lines` and
    `warnings` say what a look at the masks found.
    """

    train: MaskSource
    held_out: MaskSource | None
    names: list[str]
    labels: Labels
    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    looks: list[MaskLook] = field(default_factory=list)


@dataclass(frozen=True)
class Said:
    """What a user says of masks: where they lie, and what their values mean."""

    masks: str | None = None
    classes: str | None = None
    palette: str | None = None
    ignore: int | str | None = "auto"


def open_masks(
    data: str,
    said: Said,
    decoding: Decoding | None = None,
    fraction: float | None = 0.2,
    known: tuple[Sequence[str], Labels] | None = None,
    look: bool = True,
    test_only: bool = False,
) -> MaskSets:
    """Open the images and masks that a user's words name. `fraction` is held out, by hash of the
    path, where the folders do not say what is for testing; None holds out nothing. With `known`
    classes (of a run or a model) masks are only compared with them, and not at all without `look`;
    with `test_only` those of the test part alone, where there is one.

    Raises:
        DataError: images without a mask, masks of another size, values that are no class.
    """
    first, second = find_pairs(data, said.masks)
    names, labels = _named(said, first) if known is None else (list(known[0]), known[1])
    sources = [MaskSource(p, labels, names, decoding) for p in (first, second) if p is not None]
    looked = sources[-1:] if test_only else sources
    looks = [look_at_masks(source) for source in looked] if look or known is None else []
    if known is None and not labels.values:
        names, labels = choose_labels(looks, first.kind, names, _ignored(said, first))
    for source in sources:
        source.pixel_labels, source.names = labels, names
    for found in looks:
        require_sound(found, labels, said.classes is not None)
    train, held_out = sources[0], sources[1] if len(sources) > 1 else None
    if held_out is None and fraction is not None:
        one, other = hash_split(train, fraction)
        assert isinstance(one, MaskSource)
        assert isinstance(other, MaskSource)
        train, held_out = one, other
    made = MaskSets(train, held_out, names, labels, looks=looks)
    for source, found in zip(looked, looks, strict=False):
        made.lines += sentences(found, labels)
        made.warnings += [*source.pairs.notices, *warnings(found, names, labels)]
    return made


def _named(said: Said, pairs: Pairs) -> tuple[list[str], Labels]:
    """Names of classes, where anything says them; labels without values where the masks decide."""
    if said.palette is not None:
        return read_palette(Path(said.palette).expanduser())
    names = read_names(said.classes) if said.classes is not None else list(pairs.names)
    return names, Labels()


def _ignored(said: Said, pairs: Pairs) -> int | str | None:
    if said.ignore == "auto" and pairs.kind != ADE and said.classes is not None:
        if len(read_names(said.classes)) == 2:
            return "auto"  # two classes: 0 and 255 may be they
        return 255
    return said.ignore


def test_part(sets: MaskSets) -> MaskSource:
    """What is scored: the test part where there is one, else everything.

    Raises:
        DataError: it is empty.
    """
    source = sets.train if sets.held_out is None else sets.held_out
    if not len(source):
        raise DataError(f"{source.name} has no images to score")
    return source
