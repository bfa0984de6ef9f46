"""How every picture looks: one size of letters, margins, heads, plates with words, legends, and how
large an image is shown.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont

from openmae.report.classcolours import ink

GAP, LINE = 8, 18  # pixels: margins, and from one line of words to the next
TEXT, SOFT, BAD = "black", "#555555", "#b00020"
_SIZE = 13  # pixels of the letters
_PLATE = 17  # pixels of a plate's height
_LEAST, _MOST = 480, 1280  # pixels of the longer side of one image that is a picture by itself
_THIN, _LONGEST = 96, 4000  # pixels of its shorter side, and what that may make of the longer one
_PLATE_NAME, _LEGEND_NAME = 220, 150  # pixels of a name
_LONG, _ROOM = 8, 464  # entries of a legend that want more than one column, and pixels for them
MOST_NAMES = 48
"""Entries of a legend."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom; the last two are no longer in it."""


@functools.cache
def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The letters of every picture."""
    return ImageFont.load_default(size=_SIZE)


def wide(text: str) -> int:
    """Pixels of a line of words."""
    return int(font().getlength(text))


def plain(text: str) -> str:
    """One line of what a font can show."""
    return text.encode("utf-8", "replace").decode().replace("\n", " ")


def short_path(text: str, most: int) -> str:
    """The end of a name, in one line."""
    clean = plain(text)
    return clean if len(clean) <= most else "..." + clean[-most + 3 :]


def short_name(text: str, most: int) -> str:
    """Beginning and end of a name, in at most so many pixels: names differ at either."""
    clean = plain(text)
    if wide(clean) <= most:
        return clean
    kept = len(clean)
    while kept > 1 and wide(_both_ends(clean, kept)) > most:
        kept -= 1
    return _both_ends(clean, kept)


def _both_ends(text: str, kept: int) -> str:
    return f"{text[: kept - kept // 2].rstrip()}...{text[len(text) - kept // 2 :].lstrip()}"


def shown_size(width: int, height: int) -> tuple[int, int]:
    """How large one image is shown: small ones a whole number of times larger, and very large ones
    smaller, but never a thin one so that nothing is left of it.
    """
    longer, shorter = max(width, height), max(min(width, height), 1)
    zoom = max(1, -(-_LEAST // longer), min(-(-_THIN // shorter), _MOST // longer))
    factor = min(1.0, max(_MOST / longer, _THIN / shorter), _LONGEST / longer)
    factor = float(zoom) if factor == 1 else factor
    return max(1, round(width * factor)), max(1, round(height * factor))


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Larger without smoothing, so that pixels stay honest; smaller with it."""
    larger = size[0] >= image.width and size[1] >= image.height
    return image.resize(size, Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS)


def canvas_of(
    heads: Sequence[str], width: int, height: int, bad: Iterable[str] = ()
) -> tuple[Image.Image, int]:
    """A white picture with lines of words above, the first in black and those of `bad` in red;
    returns where the rest begins. It is as wide as what it shows or as its words.
    """
    width = max([width, *(wide(line) for line in heads)]) + 2 * GAP
    top = GAP + len(heads) * LINE + (GAP if heads else 0)
    canvas = Image.new("RGB", (width, top + height + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(heads):
        fill = BAD if line in bad else TEXT if i == 0 else SOFT
        draw.text((GAP, GAP + i * LINE), line, fill=fill, font=font())
    return canvas, top


@dataclass(frozen=True)
class Legend:
    """Colours, names and numbers of what a picture shows, in columns."""

    entries: Sequence[tuple[Sequence[int], str, str]]
    more: str = ""

    @classmethod
    def of(
        cls,
        amounts: dict[int, float],
        names: Sequence[str],
        colours: Sequence[Sequence[int]],
        words: Callable[[int], str],
    ) -> Legend:
        """The classes that appear (amount above 0), most first, each with `words` of it."""
        there = sorted((k for k, v in amounts.items() if v > 0), key=lambda k: (-amounts[k], k))
        kept, left = there[:MOST_NAMES], there[MOST_NAMES:]
        entries = [(colours[k], short_name(names[k], _LEGEND_NAME), words(k)) for k in kept]
        return cls(entries, f"and {len(left)} more classes with less" if left else "")

    def size(self, width: int) -> tuple[int, int]:
        """(entries in a row, height) where so many pixels are there."""
        columns = max(1, width // max(self._column, 1))
        rows = -(-len(self.entries) // columns) + bool(self.more)
        return columns, rows * LINE

    def least(self) -> int:
        """The pixels that it wants across: its widest entry, of a long one some columns."""
        columns = _ROOM if len(self.entries) > _LONG else 0
        return max(self._column, wide(self.more), columns)

    @property
    def _column(self) -> int:
        return max((18 + wide(f"{name} {value}") + 2 * GAP for _, name, value in self.entries),
                   default=0)  # fmt: skip

    def draw(self, draw: ImageDraw.ImageDraw, at: tuple[int, int], width: int) -> None:
        """Draw it with its corner at `at`."""
        columns, height = self.size(width)
        for i, (colour, name, value) in enumerate(self.entries):
            left, top = at[0] + i % columns * self._column, at[1] + i // columns * LINE
            swatch = (left, top + 2, left + 12, top + 14)
            draw.rectangle(swatch, fill=tuple(int(v) for v in colour), outline=SOFT)
            draw.text((left + 18, top), name, fill=TEXT, font=font())
            draw.text((left + 18 + wide(f"{name} "), top), value, fill=SOFT, font=font())
        if self.more:
            draw.text((at[0], at[1] + height - LINE), self.more, fill=SOFT, font=font())


def framed(
    picture: Image.Image, heads: Sequence[str], below: Sequence[str], legend: Legend
) -> Image.Image:
    """A picture by itself: words above it and below it, and its legend."""
    width = max(picture.width, legend.least(), *(wide(line) for line in below))
    high = legend.size(width)[1]
    height = picture.height + GAP // 2 + len(below) * LINE + high
    canvas, top = canvas_of(heads, width, height)
    canvas.paste(picture, (GAP, top))
    draw, y = ImageDraw.Draw(canvas), top + picture.height + GAP // 2
    for i, line in enumerate(below):
        fill = SOFT if i else TEXT
        draw.text((GAP, y + i * LINE), line, fill=fill, font=font())
    legend.draw(draw, (GAP, y + len(below) * LINE), canvas.width - 2 * GAP)
    return canvas


@dataclass
class Plates:
    """Words on plates in the colours of what they name: inside of the picture, and never one over
    the other. What finds no room is counted.
    """

    image: Image.Image
    boxes: list[Box] = field(default_factory=list)
    lost: int = 0

    def put(self, text: str, colour: Sequence[int], corners: Sequence[tuple[float, float]]) -> bool:
        """Draw a plate with its left upper corner at the first of `corners` that has room, moved
        into the picture; whether there was one.
        """
        text = short_name(text, max(24, min(_PLATE_NAME, self.image.width - 8)))
        size = plate_size(text)
        for corner in corners:
            left = max(0, min(round(corner[0]), self.image.width - size[0]))
            top = max(0, min(round(corner[1]), self.image.height - size[1]))
            box = (left, top, left + size[0], top + size[1])
            inside = box[2] <= self.image.width and box[3] <= self.image.height
            if inside and not any(_meet(box, other) for other in self.boxes):
                self.boxes.append(box)
                _plate(ImageDraw.Draw(self.image), box, text, colour)
                return True
        self.lost += 1
        return False


def plate_size(text: str) -> tuple[int, int]:
    """Width and height of a plate with these words."""
    return wide(text) + 7, _PLATE


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _plate(draw: ImageDraw.ImageDraw, box: Box, text: str, colour: Sequence[int]) -> None:
    back = (int(colour[0]), int(colour[1]), int(colour[2]))
    draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=back, outline="black")
    middle = (box[1] + box[3]) // 2
    draw.text((box[0] + 3, middle), text, fill=ink(back), font=font(), anchor="lm")
