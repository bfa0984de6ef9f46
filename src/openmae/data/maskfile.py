"""Files of masks: a class number for each pixel, as it is in the file or by its colour.

H and W height and width in pixels.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from openmae.data import tiff
from openmae.data.decode import read_bytes, read_image
from openmae.data.header import MAX_PIXELS
from openmae.data.names import shown
from openmae.errors import DataError

FORMATS = ("PNG", "BMP", "PPM")  # TIFF has its own reader; GIF programs renumber the values
SUFFIXES = (".png", ".bmp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff")
_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "RGB", "RGBA", "LA")
_UNKNOWN, IGNORED = -2, -1
_LARGEST = 65_535
_SAMPLE = 7  # colours that are counted in a message


class ColourMaskError(DataError):
    """A mask is in colour, and nothing says what its colours mean."""


@dataclass(frozen=True)
class Labels:
    """What the numbers of a mask mean: `values[k]` stands for class k, `ignore` for no label. With
    `colours` masks are in colour, and class k is `colours[k]`.
    """

    values: tuple[int, ...] = ()
    ignore: int | None = None
    colours: tuple[tuple[int, int, int], ...] = ()
    ignored_colours: tuple[tuple[int, int, int], ...] = ()

    def record(self) -> dict[str, Any]:
        """As JSON, for a run that goes on and for the model's file."""
        return {k: v for k, v in asdict(self).items() if v or k in ("values", "ignore")}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Labels:
        """From `record`, where tuples have become lists."""
        colours, ignored = (
            tuple((c[0], c[1], c[2]) for c in record.get(name) or ())
            for name in ("colours", "ignored_colours")
        )
        return cls(tuple(record["values"]), record["ignore"], colours, ignored)

    def classes(self, mask: NDArray[np.int64]) -> NDArray[np.int16]:
        """Values (H, W) of a file -> classes, -1 for no label.

        Raises:
            DataError: a value that is neither.
        """
        table = np.full(_LARGEST + 1, _UNKNOWN, dtype=np.int16)
        table[list(self.values)] = np.arange(len(self.values), dtype=np.int16)
        if self.ignore is not None:
            table[self.ignore] = IGNORED
        if mask.size and (mask.min() < 0 or mask.max() > _LARGEST):
            raise DataError(f"mask has the value {int(mask.max())}, more than {_LARGEST}")
        found: NDArray[np.int16] = table[mask]
        if (odd := found == _UNKNOWN).any():
            raise DataError(f"mask has the value {int(mask[odd][0])}, which is no class")
        return found


def read_mask(path: Path, labels: Labels | None = None) -> NDArray[np.int64]:
    """The numbers (H, W) of a mask file: of a palette picture its indices, of gray in three equal
    channels one of them; of a colour picture the values that the palette of `labels` gives.

    Raises:
        DataError: it cannot be read, is in colour without a palette, or holds another colour.
    """
    data = read_bytes(path)
    values = _decoded(data)
    if values.ndim == 2:
        if values.dtype.kind not in "uib" and not _is_whole(values):
            raise DataError("mask holds fractions, not class numbers")
        return values.astype(np.int64)
    if labels is not None and labels.colours:
        return _by_colour(values, labels)
    first = values[..., 0]
    if (values[..., 1] == first).all() and (values[..., 2] == first).all():
        return first.astype(np.int64)
    count = len(np.unique(_packed(values)))
    raise ColourMaskError(
        f"mask is RGB with {count} colours: give --palette FILE (a line a class: R G B NAME), or"
        " convert it to class ids"
    )


def _is_whole(values: NDArray[Any]) -> bool:
    return bool(values.dtype.kind == "f" and (np.isfinite(values) & (values % 1 == 0)).all())


def _decoded(data: bytes) -> NDArray[Any]:
    """(H, W), or (H, W, 3) of a colour picture."""
    if data[:3] == b"\xff\xd8\xff":
        raise DataError("mask is a JPEG, whose values are not exact. Save masks as PNG")
    if data[:4] in tiff.MAGIC:
        image = read_image(data)
        return image[..., 0] if image.shape[2] < 3 else image[..., :3]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as found:
                if found.width * found.height > MAX_PIXELS:
                    raise DataError(f"more than {MAX_PIXELS:,} pixels")
                if found.mode not in _MODES:
                    raise DataError(f"mask with values of mode {found.mode} is not read")
                found.load()
                gray = found.mode in ("1", "L", "P", "I", "I;16", "I;16B")
                values = np.asarray(found if gray else found.convert("RGB"))
                return values[..., 0] if found.mode == "LA" else values
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError("mask cannot be read: no PNG, BMP, PPM or TIFF file") from None
    except Image.DecompressionBombError:
        raise DataError(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # whatever a decoder raises must name the file, not end the run
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"mask cannot be read: {reason or type(error).__name__}") from None


def _packed(values: NDArray[Any]) -> NDArray[np.int64]:
    v = values[..., :3].astype(np.int64)
    packed: NDArray[np.int64] = (v[..., 0] * 65_536 + v[..., 1]) * 65_536 + v[..., 2]
    return packed


def _by_colour(values: NDArray[Any], labels: Labels) -> NDArray[np.int64]:
    ignore = -1 if labels.ignore is None else labels.ignore
    known = dict(zip(labels.colours, labels.values, strict=True))
    known |= dict.fromkeys(labels.ignored_colours, ignore)
    keys = np.array(sorted(_packed(np.array(c)[None])[0] for c in known), dtype=np.int64)
    by_key = {int(_packed(np.array(c)[None])[0]): value for c, value in known.items()}
    packed = _packed(values)
    at = np.searchsorted(keys, packed).clip(max=len(keys) - 1)
    odd = keys[at] != packed
    if odd.any():
        row, column = (int(i[0]) for i in np.nonzero(odd))
        colour = " ".join(str(int(v)) for v in values[row, column, :3])
        raise DataError(f"mask has the colour {colour}, which the palette lacks")
    table = np.array([by_key[int(key)] for key in keys], dtype=np.int64)
    found: NDArray[np.int64] = table[at]
    return found


def read_palette(path: Path) -> tuple[list[str], Labels]:
    """Names and labels of a palette file: a line for each class, R G B and a name, with spaces,
    tabs or commas between. A class called ignore, void or unlabeled is no class.

    Raises:
        DataError: it cannot be read, or a line is of another form.
    """
    names: list[str] = []
    colours: list[tuple[int, int, int]] = []
    ignored: list[tuple[int, int, int]] = []
    for number, line in enumerate(read_lines(path), 1):
        words = line.replace(",", " ").split(None, 3)
        if not words or words[0].startswith("#"):
            continue
        if words[0].lower() in ("r", "red"):
            continue
        numbers = words[:3]
        if len(numbers) < 3 or not all(
            w.isascii() and w.isdigit() and int(w) < 256 for w in numbers
        ):
            raise DataError(f"{path}, line {number}: {shown(line)}: a line is R G B NAME, 0 to 255")
        colour = (int(words[0]), int(words[1]), int(words[2]))
        if colour in colours or colour in ignored:
            raise DataError(f"{path}, line {number}: the colour {' '.join(words[:3])} stands twice")
        name = words[3].strip() if len(words) > 3 else str(len(names))
        if name.lower() in ("ignore", "void", "unlabeled", "unlabelled"):
            ignored.append(colour)
        else:
            names.append(name)
            colours.append(colour)
    if len(colours) < 2:
        raise DataError(
            f"{path} has {len(colours)} classes, a palette needs >= 2: lines R G B NAME"
        )
    values = tuple(range(len(names)))
    return names, Labels(
        values, 255 if len(names) < 255 else _LARGEST, tuple(colours), tuple(ignored)
    )


def read_lines(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        DataError: it cannot be read as text.
    """
    try:
        if path.stat().st_size > 10_000_000:
            raise DataError(f"{path} is too large for a list of classes")
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise DataError(f"{path} cannot be read: {reason}") from None


def read_names(words: str) -> list[str]:
    """Names of classes: a file with one a line, or the names themselves with commas between.

    Raises:
        DataError: fewer than two, or one that stands twice.
    """
    path = Path(words).expanduser()
    is_file = "," not in words
    names = [n.strip() for n in (read_lines(path) if is_file else words.split(","))]
    names = [n for n in names if n and not n.startswith("#")]
    if len(names) < 2:
        raise DataError(f"--classes {words}: {len(names)} names, a segmenter needs >= 2")
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise DataError(f"--classes {words}: {shown(twice[0])} stands twice")
    return names
