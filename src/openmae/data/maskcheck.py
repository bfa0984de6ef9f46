"""A look at the masks before a run: which values they hold, what fits their images, what does not.

The classes of a data set follow from it where nobody names them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from openmae.data.maskfile import ColourMaskError, Labels
from openmae.data.masklayouts import ADE, INSTANCES
from openmae.data.masks import MaskSource
from openmae.errors import DataError

LOOK = 2000  # masks that are read, evenly spaced
_MANY_BAD = 0.5  # of the masks: then they are the problem, and not some of them
_SHOWN = 12  # values in a line


@dataclass
class MaskLook:
    """What was found: pixels of each value, and paths of what is odd with the reason."""

    count: int
    looked: int = 0
    pixels: Counter[int] = field(default_factory=Counter)
    bad: list[tuple[str, str]] = field(default_factory=list)
    unlike: list[tuple[str, str]] = field(default_factory=list)  # of another size than the image
    constant: list[str] = field(default_factory=list)
    first: dict[int, str] = field(default_factory=dict)  # the first mask with a value

    def values(self) -> str:
        """The values that occur, in words."""
        found = sorted(self.pixels)
        more = f" ... {found[-1]}" if len(found) > _SHOWN else ""
        return " ".join(map(str, found[:_SHOWN])) + more


def look_at_masks(source: MaskSource, most: int = LOOK) -> MaskLook:
    """Read up to `most` masks, and the headers of their images.

    Raises:
        DataError: masks in colour without a palette, or most masks cannot be used.
    """
    picked = sorted({int(i) for i in np.linspace(0, len(source) - 1, min(most, len(source)))})
    found = MaskLook(len(source), len(picked))
    for index in picked:
        _one(source, int(source.rows[index]), found)
    if len(found.bad) > _MANY_BAD * found.looked:
        path, reason = found.bad[0]
        raise DataError(
            f"{len(found.bad)} of {found.looked} masks cannot be read. First: {path}: {reason}"
        )
    return found


def _one(source: MaskSource, row: int, found: MaskLook) -> None:
    path = source.mask_path(row)
    try:
        mask = source.row_values(row)
    except ColourMaskError:
        raise
    except DataError as error:
        found.bad.append((path, str(error).removeprefix(f"{path}: ")))
        return
    try:
        header = source.row_header(row)
    except DataError:  # the look at the images says so
        header = None
    if header is not None and mask.shape != (header.height, header.width):
        (h, w), turned = mask.shape, mask.shape == (header.width, header.height)
        why = " (turned?)" if turned else ""
        found.unlike.append((path, f"is {w}x{h}, its image {header.width}x{header.height}{why}"))
        return
    values, counts = np.unique(mask, return_counts=True)
    if len(values) == 1:
        found.constant.append(path)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        found.pixels[value] += count
        found.first.setdefault(value, path)


def choose_labels(
    looks: Sequence[MaskLook], kind: str, names: Sequence[str], ignore: int | str | None
) -> tuple[list[str], Labels]:
    """Names and labels of a data set. `names` may be empty; `ignore` "auto" is 0 in ADE20K's
    layout and else 255, unless the masks hold 0 and 255 alone: those are two classes.

    Raises:
        DataError: fewer than two classes.
    """
    found = {value for look in looks for value in look.pixels}
    where = next((path for look in looks for path in look.first.values()), "the masks")
    if kind == INSTANCES or (ignore == "auto" and kind != ADE and found == {0, 255}):
        usual = ["background", "object" if kind == INSTANCES else "foreground"]
        if len(names) not in (0, 2):
            raise DataError(f"the masks show 2 classes (0 and 255), --classes names {len(names)}")
        return list(names) or usual, Labels((0, 255))
    if ignore == "auto":
        ignore = 0 if kind == ADE else 255
    assert ignore is None or isinstance(ignore, int)
    seen = sorted(found - {ignore})
    if names:
        start = 1 if ignore == 0 else 0
        return list(names), Labels(tuple(range(start, start + len(names))), ignore)
    if len(seen) < 2:
        only = f"the value {seen[0]}" if seen else "no label"
        raise DataError(
            f"the masks hold {only} alone (first: {where}); segment needs >= 2 classes. Which value"
            " means no label: --ignore-label N, or none"
        )
    start = 1 if ignore == 0 else 0
    dense = [v for v in range(start, seen[-1] + 1) if v != ignore]
    values = dense if kind == ADE or 2 * len(seen) >= len(dense) else seen
    return [str(v - start) for v in values], Labels(tuple(values), ignore)


def require_sound(look: MaskLook, labels: Labels, typed: bool) -> None:
    """Refuse masks that do not fit their images, and values that are no class; `typed`: the classes
    were named.

    Raises:
        DataError: with how many there are, and the first of them.
    """
    if look.unlike:
        path, what = look.unlike[0]
        raise DataError(
            f"{len(look.unlike)} of {look.looked} masks are of another size than their image."
            f" First: {path} {what}. Resize them with nearest neighbours"
        )
    odd = sorted(set(look.pixels) - set(labels.values) - {labels.ignore})
    if not odd:
        return
    low, high = min(labels.values), max(labels.values)
    which = f"{low} to {high}" if len(labels.values) == high - low + 1 else "those of the run"
    source = "--classes names" if typed else "there are"
    raise DataError(
        f"{look.first[odd[0]]} has the value {odd[0]}, {source} {len(labels.values)} classes"
        f" ({which}). Name them all, or --ignore-label {odd[0]}"
    )


def sentences(look: MaskLook, labels: Labels) -> list[str]:
    """What the look found, one line each."""
    ignored = look.pixels.get(labels.ignore, 0) if labels.ignore is not None else 0
    share = (
        f"; {labels.ignore} means no label ({ignored / max(look.pixels.total(), 1):.1%} of pixels)"
    )
    few = "" if look.looked == look.count else f" ({look.looked:,} looked at)"
    lines = [
        f"{look.count:,} masks match their images{few}; values {look.values()}"
        + (share if labels.ignore is not None and ignored else "")
    ]
    return lines


def warnings(look: MaskLook, names: Sequence[str], labels: Labels) -> list[str]:
    """What a run can go on with, and should not without a word."""
    lines = []
    if look.bad:
        path, reason = look.bad[0]
        lines.append(
            f"{len(look.bad)} masks cannot be read and are left out (first {path}: {reason})"
        )
    if look.constant:
        lines.append(
            f"{len(look.constant)} of {look.looked:,} masks hold one value only (first"
            f" {look.constant[0]})"
        )
    absent = [n for n, v in zip(names, labels.values, strict=True) if not look.pixels.get(v)]
    if absent and look.looked == look.count:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        lines.append(f"no pixel is {', '.join(absent[:3])}{more}: such classes cannot be learnt")
    return lines
