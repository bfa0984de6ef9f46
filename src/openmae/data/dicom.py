"""DICOM by pydicom, an extra: the first frame, in the units of its rescale slope and intercept."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

from openmae.data import jpeg, jpeg2000
from openmae.data.header import Header, limit
from openmae.data.values import Pixels
from openmae.errors import DataError

_KINDS = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB")
_NEEDED = ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation")
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def is_dicom(data: bytes) -> bool:
    """By the letters behind the preamble."""
    return data[128:132] == b"DICM"


def read(data: bytes, gray: bool | None = None) -> Pixels:
    """(H, W, 1) or (H, W, 3). float32 where the file has a rescale slope and intercept other than
    1 and 0, otherwise its own type; MONOCHROME1 inverted; a palette as RGB.

    Raises:
        DataError: no image, too large, a compression that is not installed, or pydicom is missing.
        Exception: whatever pydicom raises.
    """
    pydicom = _pydicom()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pydicom.dcmread(io.BytesIO(data))
        _require_image(found, len(data))
        image = _frame(pydicom, found)
        colours = str(found.PhotometricInterpretation)
        if colours == "MONOCHROME1":
            image = _inverted(image, found)
        if colours == "PALETTE COLOR":
            image = pydicom.pixels.apply_color_lut(image, found)
        elif image.ndim == 2 and _rescaled(found):
            image = pydicom.pixels.apply_modality_lut(image, found).astype(np.float32)
    if int(found.BitsAllocated) == 1:
        image = image * np.uint8(255)
    image = image.reshape(*image.shape[:2], -1)
    image = image[..., :3] if image.shape[2] > 3 else image
    kind = np.float32 if image.dtype.kind == "f" else image.dtype.newbyteorder("=")
    return image.astype(kind, copy=False)


def header(data: bytes) -> Header:
    """Of the elements before the pixels.

    Raises:
        DataError: as for `read`.
    """
    pydicom = _pydicom()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pydicom.dcmread(io.BytesIO(data))
        _require_image(found, len(data))
        bits, kind = int(found.BitsAllocated), str(found.PhotometricInterpretation)
        colour = kind == "PALETTE COLOR" or int(found.SamplesPerPixel) > 1
        name = f"{'u' if not int(found.get('PixelRepresentation', 0)) else ''}int{max(bits, 8)}"
        if not colour and (_rescaled(found) or "PixelData" not in found):
            name = "float32"
        if kind == "PALETTE COLOR":
            name = f"uint{int(found.RedPaletteColorLookupTableDescriptor[2])}"
        return Header(int(found.Rows), int(found.Columns), 3 if colour else 1, name, "DICOM")


def _pydicom() -> Any:
    try:
        import pydicom
        import pydicom.encaps
        import pydicom.pixels
    except ImportError:
        raise DataError('DICOM needs pydicom: pip install "openmae[dicom]"') from None
    return pydicom


def _require_image(found: Any, length: int) -> None:
    if not any(name in found for name in _PIXELS):
        raise DataError("a DICOM file without an image")
    missing = [name for name in _NEEDED if found.get(name) in (None, "")]
    if missing:
        raise DataError(f"a DICOM file without its {missing[0]}")
    kind = str(found.PhotometricInterpretation)
    if kind not in _KINDS and not kind.startswith("YBR"):
        raise DataError(f"DICOM whose colours are {kind[:40]} is not read")
    pixel = max(1, int(found.BitsAllocated) // 8) * int(found.SamplesPerPixel)
    # pydicom rescales in float64
    limit(int(found.Rows), int(found.Columns), 2 * pixel + (8 if _rescaled(found) else 0), length)


def _frame(pydicom: Any, found: Any) -> Pixels:
    """The first frame; only that one is decoded."""
    syntax = found.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_encapsulated and "PixelData" in found:
        frames = int(found.get("NumberOfFrames") or 1)
        part = pydicom.encaps.get_frame(found.PixelData, 0, number_of_frames=frames)
        _require_size(part, int(found.Rows), int(found.Columns))
    try:
        return pydicom.pixels.pixel_array(found, index=0)
    except (RuntimeError, NotImplementedError) as error:
        if "missing" not in str(error) and "plugin" not in str(error):
            raise
        name = getattr(syntax, "name", "an unknown way")
        text = "damaged, or needs pip install python-gdcm"
        raise DataError(f"DICOM compressed by {name}: {text}") from None


def _require_size(part: bytes, rows: int, columns: int) -> None:
    """A frame that is itself a JPEG names its own size, which nothing else bounds."""
    if part[:3] == jpeg.MAGIC:
        about = jpeg.frame(part)
        pixels = 0 if about is None else about.height * about.width
        jpeg.require_few_scans(part, pixels)
    elif part.startswith(jpeg2000.MAGIC):
        size = jpeg2000.size(part)
        pixels = size.height * size.width
    else:
        return
    if pixels > max(4 * rows * columns, 65536):
        raise DataError(f"a frame of {pixels:,} pixels where {columns}x{rows} are announced")


def _inverted(image: Pixels, found: Any) -> Pixels:
    """White is zero: the stored value v becomes (lowest + highest that can be stored) - v."""
    bits = int(found.get("BitsStored", found.BitsAllocated))
    if image.dtype.kind == "f":
        return -image
    if image.dtype.kind == "i":
        return image.dtype.type(-1) - image
    return image.dtype.type(2**bits - 1) - image


def _rescaled(found: Any) -> bool:
    if "ModalityLUTSequence" in found:
        return True
    slope, intercept = found.get("RescaleSlope"), found.get("RescaleIntercept")
    return (slope is not None and float(slope) != 1) or (
        intercept is not None and float(intercept) != 0
    )
