"""Formats beyond 8-bit pictures: values exactly as stored, headers that agree, extras that are
missing by name.
"""

from __future__ import annotations

import builtins
import io
import sys

import imagecodecs
import numpy as np
import png as pypng
import pytest
from PIL import Image
from sample_files import (
    FILES,
    FLOAT,
    GRAY,
    SMOOTH,
    H,
    W,
    by_pillow,
    deep,
    dicom,
    heic,
    map_of,
    smooth,
)

from openmae.data.decode import SUFFIXES, read_header, read_image
from openmae.data.orientation import exif_orientation, upright
from openmae.errors import DataError


def same(data: bytes, want: np.ndarray) -> None:
    """Decodes to this array, type and all, and the header says so."""
    got = read_image(data)
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    assert np.array_equal(got, want)
    assert read_header(data)[:4] == (*want.shape, str(want.dtype))


@pytest.mark.parametrize("name", FILES)
def test_every_format_agrees_with_its_header(name, capfd):
    data = FILES[name]()
    image = read_image(data)
    assert read_header(data)[:4] == (*image.shape, str(image.dtype))
    assert image.shape[:2] == (H, W)
    assert image.dtype.isnative
    assert capfd.readouterr() == ("", "")


# PNG of 16 bits.


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("interlaced", [False, True])
def test_sixteen_bit_png(channels, interlaced):
    image = deep(H, W, channels)
    stream = io.BytesIO()
    writer = pypng.Writer(
        W, H, bitdepth=16, greyscale=channels < 3, alpha=channels in (2, 4), interlace=interlaced
    )
    if interlaced:
        writer.write_array(stream, image.ravel().tolist())
    else:
        writer.write(stream, image.reshape(H, -1).tolist())
    same(stream.getvalue(), image[..., : 1 if channels < 3 else 3])  # alpha is dropped


def chunk(name: bytes, body: bytes) -> bytes:
    crc = imagecodecs.zlib_crc32(name + body).to_bytes(4, "big")
    return len(body).to_bytes(4, "big") + name + body + crc


def test_other_chunks_of_a_deep_png_do_not_matter(capfd):
    data = imagecodecs.png_encode(deep(H, W))
    broken = chunk(b"iCCP", b"name\0\0garbage")[:-1] + b"\0"
    turned = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    same(data[:33] + broken + data[33:], deep(H, W)[..., None])
    same(data[:33] + turned + data[33:], np.rot90(deep(H, W), -1)[..., None])
    same(data[:-12] + turned + data[-12:], np.rot90(deep(H, W), -1)[..., None])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_damaged_deep_png(share, capfd):
    data = bytearray(imagecodecs.png_encode(deep(H, W)))
    with pytest.raises(DataError, match=r"truncated|header is missing"):
        read_image(bytes(data[: int(share * len(data))]))
    data[len(data) // 2] ^= 4
    with pytest.raises(DataError, match="the checksum of IDAT does not agree"):
        read_image(bytes(data))
    assert capfd.readouterr() == ("", "")


# Portable maps.


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("highest", [256, 1023, 65535])
def test_deep_maps(channels, highest):
    image = np.minimum(deep(H, W, channels), np.uint16(highest))
    binary, text = ("5", "2") if channels == 1 else ("6", "3")
    same(map_of(binary, image.astype(">u2"), str(highest)), image)
    same(map_of(text, image, str(highest)), image)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", "<>")
def test_float_maps(channels, order):
    image = FLOAT[..., [0, 1, 0]][..., :channels].copy()
    kind = "f" if channels == 1 else "F"
    same(map_of(kind, image.astype(f"{order}f4"), "-1.0" if order == "<" else "1.0"), image)


def test_maps_that_lie():
    whole = map_of("5", deep(H, W).astype(">u2"), "65535")
    for data in (whole[:-1], map_of("2", deep(H, W), "65535")[:-9]):
        with pytest.raises(DataError, match=r"truncated|of 2,240 values"):
            read_image(data)
    with pytest.raises(DataError, match="more than 89,478,485 pixels"):
        read_image(b"P5 100000 100000 65535\n")
    flat = b"P6 2 1 255\n" + bytes(range(6))
    same(flat, np.arange(6, dtype=np.uint8).reshape(1, 2, 3))


# JPEG of 12 bits, JPEG 2000, AVIF.


def test_twelve_bit_jpeg():
    image = np.repeat(np.arange(W, dtype=np.uint16)[None] * 70, H, axis=0)
    data = imagecodecs.jpeg_encode(image, bitspersample=12, level=98)
    got = read_image(data)
    assert got.dtype == np.uint16
    assert np.abs(got[..., 0].astype(int) - image).max() < 40
    assert read_header(data)[:4] == (H, W, 1, "uint16")


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("codec", ["jp2", "j2k"])
def test_deep_jpeg2000(kind, channels, codec):
    image = deep(H, W, channels).astype(kind)
    plain = image[..., 0] if channels == 1 else image
    same(imagecodecs.jpeg2k_encode(plain, level=0, codecformat=codec), image)


def test_jpeg2000_of_eight_bits():
    same(by_pillow(SMOOTH, "JPEG2000", irreversible=False), smooth())
    same(by_pillow(GRAY, "JPEG2000"), smooth()[..., 1:2])
    same(by_pillow(SMOOTH.convert("RGBA"), "JPEG2000"), smooth())  # alpha is dropped


def test_ten_bit_avif():
    data = imagecodecs.avif_encode(smooth().astype(np.uint16) * 4, bitspersample=10, level=100)
    got = read_image(data)
    assert got.dtype == np.uint16
    assert np.abs(got.astype(int) - smooth().astype(int) * 4).max() <= 8
    assert got.shape == (H, W, 3)
    moving = imagecodecs.avif_encode(deep(3, H, W, 3) >> 6, bitspersample=10)
    with pytest.raises(DataError, match="a moving AVIF of more than 8 bits is not read"):
        read_image(moving)


def test_a_jpeg_of_too_many_scans():
    whole = by_pillow(SMOOTH.resize((2000, 2000)), "JPEG", progressive=True)
    with pytest.raises(DataError, match=r"scans over 4,000,000 pixels"):
        read_image(whole[:-2] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0\0\0" * 1000 + whole[-2:])


# Orientation.


@pytest.mark.parametrize("format", ["AVIF", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_pillows(format, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    assert exif_orientation(exif.tobytes()) == orientation
    data = by_pillow(SMOOTH, format, exif=exif)
    with Image.open(io.BytesIO(data)) as stored:
        want = np.array(ImageOps.exif_transpose(stored).convert("RGB"))
    got = read_image(data)
    assert got.shape == want.shape == read_header(data)[:3]
    assert np.abs(got.astype(int) - want).max() <= 2
    assert upright(got, 1) is got


# The extras.


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16])
def test_dicom(kind):
    image = deep(H, W).astype(kind)
    same(dicom(image), image[..., None])
    same(dicom(np.stack([image, image[::-1]])), image[..., None])  # the first frame
    scaled = dicom(image, RescaleSlope=0.5, RescaleIntercept=-1024)
    same(scaled, (image * 0.5 - 1024).astype(np.float32)[..., None])
    same(dicom(image, RescaleSlope=1, RescaleIntercept=0), image[..., None])
    inverted = -1 - image if kind is np.int16 else np.iinfo(kind).max - image
    same(dicom(image, "MONOCHROME1"), inverted.astype(kind)[..., None])


def test_dicom_in_colour_and_refused():
    same(dicom(smooth(), "RGB"), smooth())
    with pytest.raises(DataError, match="more than 89,478,485 pixels"):
        read_image(dicom(deep(H, W), Rows=60000, Columns=60000))
    with pytest.raises(DataError, match="less than expected"):
        read_image(dicom(deep(H, W))[:700])
    with pytest.raises(DataError, match="a DICOM file without its Rows"):
        read_header(dicom(deep(H, W), Rows=None))


def test_dicom_of_either_byte_order_and_over_a_tiff():
    import pydicom

    image = deep(H, W)
    whole = dicom(image)
    same(b"II*\0" + whole[4:], image[..., None])  # the preamble may be a TIFF's
    found = pydicom.dcmread(io.BytesIO(whole))
    found.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    found.PixelData = image.astype(">u2").tobytes()
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, found, little_endian=False, implicit_vr=False)
    same(stream.getvalue(), image[..., None])


def test_a_small_dicom_that_holds_a_large_jpeg():
    import pydicom

    found = pydicom.dcmread(io.BytesIO(dicom(smooth(), "RGB")))
    for side, bound in (
        (2000, "a frame of 4,000,000 pixels where 56x40 are announced"),
        (40, None),
    ):
        part = by_pillow(SMOOTH.resize((side, side)), "JPEG") if bound else FILES["jpeg"]()
        found.PixelData = pydicom.encaps.encapsulate([part])
        found["PixelData"].VR = "OB"
        found.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
        found.PhotometricInterpretation = "YBR_FULL_422"
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, found)
        if bound is None:
            assert np.abs(read_image(stream.getvalue()).astype(int) - smooth()).mean() < 3
        else:
            with pytest.raises(DataError, match=bound):
                read_image(stream.getvalue())


def test_heic():
    got = read_image(heic())
    assert np.abs(got.astype(int) - smooth()).mean() < 3
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = heic(exif=exif.tobytes())
    assert read_image(turned).shape == read_header(turned)[:3]


@pytest.mark.parametrize(("name", "package"), [("heic", "pillow_heif"), ("dicom", "pydicom")])
def test_a_missing_extra_is_named(name, package, monkeypatch):
    data = heic() if name == "heic" else dicom(deep(H, W))
    real = builtins.__import__

    def without(wanted, *args, **kwargs):
        if wanted.split(".")[0] == package:
            raise ImportError(wanted)
        return real(wanted, *args, **kwargs)

    for module in [m for m in sys.modules if m.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    for read in (read_image, read_header):
        with pytest.raises(DataError, match=rf'pip install "openmae\[{name}\]"$'):
            read(data)


def test_suffixes_are_lower_case_and_cover_the_formats():
    assert {s.lower() for s in SUFFIXES} == SUFFIXES
    wanted = {".jpg", ".png", ".tif", ".dcm", ".heic", ".heif", ".avif", ".pfm", ".jp2", ".webp"}
    assert wanted <= SUFFIXES
