"""One small file of every format and layout that is read, with what it decodes to."""

from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

H, W = 40, 56


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def deep(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 65536, shape, dtype=np.uint16)


def smooth(height: int = H, width: int = W) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 4, y * 6, 255 - x * 2 - y], axis=-1).clip(0, 255).astype(np.uint8)


def by_pillow(image: Image.Image, format: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def by_tifffile(image: np.ndarray, **options: object) -> bytes:
    stream = BytesIO()
    tifffile.imwrite(stream, image, **options)
    return stream.getvalue()


def map_of(kind: str, image: np.ndarray, scale: str) -> bytes:
    """A portable map; PFM's rows are from below."""
    head = f"P{kind}\n# comment\n{image.shape[1]} {image.shape[0]}\n{scale}\n".encode()
    if kind in "23":
        return head + " ".join(str(v) for v in image.ravel()).encode() + b"\n"
    return head + (image[::-1] if kind in "fF" else image).tobytes()


def gif() -> bytes:
    frames = [Image.new("RGB", (W, H), colour) for colour in ("red", "blue", "lime")]
    return by_pillow(frames[0], "GIF", save_all=True, append_images=frames[1:])


SMOOTH, GRAY = Image.fromarray(smooth()), Image.fromarray(smooth()[..., 1])
FLOAT = (deep(H, W, 2) / np.float32(7) - 3000).astype(np.float32)

FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: by_pillow(SMOOTH, "JPEG", quality=95),
    "jpeg-gray": lambda: by_pillow(GRAY, "JPEG"),
    "jpeg-progressive": lambda: by_pillow(SMOOTH, "JPEG", progressive=True),
    "jpeg-cmyk": lambda: by_pillow(SMOOTH.convert("CMYK"), "JPEG"),
    "jpeg-12": lambda: imagecodecs.jpeg_encode(deep(H, W) >> 4, bitspersample=12),
    "mpo": lambda: by_pillow(SMOOTH, "MPO", save_all=True, append_images=[SMOOTH]),
    "png": lambda: by_pillow(SMOOTH, "PNG"),
    "png-palette": lambda: by_pillow(SMOOTH.quantize(16), "PNG"),
    "png-bit": lambda: by_pillow(SMOOTH.convert("1"), "PNG"),
    "png-16": lambda: imagecodecs.png_encode(deep(H, W)),
    "png-rgba-16": lambda: imagecodecs.png_encode(deep(H, W, 4)),
    "webp": lambda: by_pillow(SMOOTH, "WEBP"),
    "webp-alpha": lambda: by_pillow(SMOOTH.convert("RGBA"), "WEBP", lossless=True),
    "bmp": lambda: by_pillow(SMOOTH, "BMP"),
    "gif": gif,
    "avif": lambda: by_pillow(SMOOTH, "AVIF"),
    "avif-10": lambda: imagecodecs.avif_encode(deep(H, W, 3) >> 6, bitspersample=10, level=95),
    "ppm": lambda: by_pillow(SMOOTH, "PPM"),
    "ppm-16": lambda: map_of("6", deep(H, W, 3).astype(">u2"), "65535"),
    "pgm-text": lambda: map_of("2", deep(H, W), "65535"),
    "pfm": lambda: map_of("F", FLOAT[..., [0, 1, 0]].astype("<f4"), "-1.0"),
    "jp2": lambda: by_pillow(SMOOTH, "JPEG2000"),
    "jp2-16": lambda: imagecodecs.jpeg2k_encode(deep(H, W, 3), level=0),
    "tiff": lambda: by_tifffile(smooth(), photometric="rgb"),
    "tiff-lzw": lambda: by_pillow(SMOOTH, "TIFF", compression="tiff_lzw"),
    "tiff-deflate": lambda: by_tifffile(
        deep(H, W, 5), compression="zlib", predictor=2, planarconfig="contig"
    ),
    "tiff-float": lambda: by_tifffile(
        FLOAT, planarconfig="contig", compression="zlib", predictor=3
    ),
    "tiff-zstd": lambda: by_tifffile(
        FLOAT, planarconfig="contig", compression="zstd", tile=(16, 16)
    ),
    "tiff-jpeg": lambda: by_tifffile(smooth(), compression="jpeg", photometric="rgb"),
    "tiff-jp2": lambda: by_tifffile(deep(H, W), compression="jpeg2000"),
    "tiff-fax": lambda: by_pillow(SMOOTH.convert("1"), "TIFF", compression="group4"),
    "tiff-bit": lambda: by_tifffile(smooth()[..., 0] > 99),
    "tiff-palette": lambda: by_pillow(SMOOTH.quantize(16), "TIFF"),
    "tiff-cmyk": lambda: by_pillow(SMOOTH.convert("CMYK"), "TIFF"),
    "tiff-white": lambda: by_tifffile(deep(H, W), photometric="miniswhite"),
    "tiff-big": lambda: by_tifffile(
        deep(H, W, 4), bigtiff=True, byteorder=">", photometric="minisblack", planarconfig="contig"
    ),
    "tiff-planar": lambda: by_tifffile(deep(6, H, W), planarconfig="separate"),
    "tiff-imagej": lambda: by_tifffile(
        deep(2, 3, H, W), imagej=True, metadata={"axes": "ZCYX", "Labels": list("abcdef")}
    ),
    "tiff-ome": lambda: by_tifffile(
        deep(2, 3, H, W), ome=True, metadata={"axes": "TCYX", "Channel": {"Name": list("xyz")}}
    ),
    "tiff-pages": lambda: by_tifffile(
        smooth().transpose(2, 0, 1), metadata=None, photometric="minisblack"
    ),
}
"""Of these, the ones without loss decode to the array that was written."""


def dicom(image: np.ndarray, kind: str = "MONOCHROME2", **elements: object) -> bytes:
    """An uncompressed DICOM file of (H, W), (H, W, 3) or (frames, H, W)."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    found = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    colour = image.ndim == 3 and image.shape[-1] == 3
    frames = image.shape[0] if image.ndim == 3 and not colour else 1
    found.Rows, found.Columns = image.shape[:2] if colour else image.shape[-2:]
    found.SamplesPerPixel, found.PhotometricInterpretation = 3 if colour else 1, kind
    if colour:
        found.PlanarConfiguration = 0
    if frames > 1:
        found.NumberOfFrames = frames
    found.BitsAllocated = found.BitsStored = image.dtype.itemsize * 8
    found.HighBit = found.BitsStored - 1
    found.PixelRepresentation = int(image.dtype.kind == "i")
    found.PixelData = image.tobytes()
    for name, value in elements.items():
        setattr(found, name, value)
    stream = BytesIO()
    pydicom.dcmwrite(stream, found, enforce_file_format=True)
    return stream.getvalue()


def heic(image: Image.Image = SMOOTH, **options: object) -> bytes:
    import pillow_heif

    stream = BytesIO()
    pillow_heif.from_pillow(image).save(stream, quality=-1, **options)
    return stream.getvalue()


def patched(data: bytes, name: str, value: int) -> bytes:
    """A TIFF whose tag says something else; LONG or SHORT."""
    with tifffile.TiffFile(BytesIO(data)) as tiff:
        tag = tiff.pages[0].tags[name]
        size = {3: "<H", 4: "<I"}[int(tag.dtype)]
        at = tag.valueoffset
    return data[:at] + struct.pack(size, value) + data[at + struct.calcsize(size) :]
