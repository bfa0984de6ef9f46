"""TIFF: layouts, types, bands, stacks and names."""

from __future__ import annotations

import struct
import warnings
from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image
from sample_files import by_pillow, by_tifffile, deep, noise, patched, smooth

from openmae.data.decode import decode, read_band_names, read_header, read_image


def check(path, shape: tuple[int, int, int]) -> np.ndarray:
    """Decode an 8-bit file, and require the shape, the header's word and that nothing warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        array = decode(path)
        found = read_header(path.read_bytes())
    assert array.shape == shape
    assert array.dtype == np.uint8
    assert found[:4] == (*shape, "uint8")
    return array


def same(data: bytes, want: np.ndarray) -> None:
    """Decodes to this array, type and all, and the header says so."""
    got = read_image(data)
    assert got.dtype == want.dtype
    assert got.dtype.isnative
    assert got.shape == want.shape
    assert np.array_equal(got, want, equal_nan=want.dtype.kind == "f")
    assert read_header(data)[:4] == (*want.shape, str(want.dtype))


# Pixels and layouts.


@pytest.mark.parametrize("bands", [1, 3, 5])
@pytest.mark.parametrize("layout", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_bands(tmp_path, bands, layout, compression):
    image = noise(9, 13, bands)
    data = image if layout == "contig" else np.moveaxis(image, -1, 0)
    kind = {"photometric": "rgb"} if bands == 3 else {"photometric": "minisblack"}
    kind |= {"planarconfig": layout} if bands > 1 else {}
    data = image[..., 0] if bands == 1 else data
    tifffile.imwrite(tmp_path / "x.tif", data, compression=compression, **kind)
    assert np.array_equal(check(tmp_path / "x.tif", (9, 13, bands)), image)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_deflate"])
def test_tiff_compressions(tmp_path, compression):
    Image.fromarray(noise(9, 13, 3)).save(tmp_path / "x.tif", compression=compression)
    assert np.array_equal(check(tmp_path / "x.tif", (9, 13, 3)), noise(9, 13, 3))


def test_tiff_inverted_and_one_bit(tmp_path):
    tifffile.imwrite(tmp_path / "white.tif", noise(9, 13), photometric="miniswhite")
    tifffile.imwrite(tmp_path / "bit.tif", noise(9, 13) > 127, photometric="minisblack")
    assert np.array_equal(check(tmp_path / "white.tif", (9, 13, 1))[..., 0], 255 - noise(9, 13))
    bits = check(tmp_path / "bit.tif", (9, 13, 1))[..., 0]
    assert np.array_equal(bits, (noise(9, 13) > 127) * np.uint8(255))


def test_tiff_with_a_wrong_suffix(tmp_path):
    tifffile.imwrite(tmp_path / "x.png", noise(9, 13, 3), photometric="rgb")
    assert np.array_equal(check(tmp_path / "x.png", (9, 13, 3)), noise(9, 13, 3))


TYPES = ["int8", "int16", "int32", "uint16", "uint32", "float16", "float32", "float64"]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("layout", ["contig", "separate"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_values_are_as_in_the_file(kind, layout, order):
    image = (deep(9, 13, 5).astype(np.float64) - 20000).astype(kind)
    data = image if layout == "contig" else np.moveaxis(image, -1, 0)
    options = {"photometric": "minisblack", "planarconfig": layout, "byteorder": order}
    same(by_tifffile(data, **options), image)
    same(by_tifffile(data, bigtiff=True, tile=(16, 16), **options), image)


@pytest.mark.parametrize("codec", ["lzw", "zlib", "zstd", "lzma", "packbits", "jpeg2000"])
@pytest.mark.parametrize("layout", [{"tile": (16, 16)}, {"rowsperstrip": 4}])
def test_deep_compressions(codec, layout):
    same(by_tifffile(deep(37, 45), compression=codec, **layout), deep(37, 45)[..., None])


@pytest.mark.parametrize(("kind", "predictor"), [("uint16", 2), ("float32", 3), ("float64", 3)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_predictors(kind, predictor, order):
    image = deep(37, 45, 3).astype(kind) / (7 if kind != "uint16" else 1)
    image = image.astype(kind)
    options = {"photometric": "minisblack", "planarconfig": "contig", "byteorder": order}
    same(by_tifffile(image, compression="zlib", predictor=predictor, **options), image)


@pytest.mark.parametrize("bits", [2, 4, 12])
def test_few_bits_become_0_to_255_and_twelve_stay(bits):
    image = deep(9, 16) >> (16 - bits)
    single = (image[..., None] >> np.arange(bits - 1, -1, -1) & 1).reshape(9, -1)
    data = by_tifffile(np.packbits(single, axis=1), metadata=None, photometric="minisblack")
    data = patched(patched(data, "BitsPerSample", bits), "ImageWidth", 16)
    scaled = (image * (255 // (2**bits - 1))).astype(np.uint8) if bits < 8 else image
    same(data, scaled[..., None])


def test_deep_white_is_zero():
    same(by_tifffile(deep(9, 13), photometric="miniswhite"), 65535 - deep(9, 13)[..., None])
    floats = deep(9, 13).astype(np.float32)
    same(by_tifffile(floats, photometric="miniswhite"), floats[..., None])  # no largest value


def test_fax_and_deep_cmyk_and_palette():
    bits = smooth()[..., 0] > 99
    same(
        by_pillow(Image.fromarray(bits), "TIFF", compression="group4"),
        bits[..., None] * np.uint8(255),
    )
    inks = deep(9, 13, 4)
    got = read_image(by_tifffile(inks, photometric="separated", planarconfig="contig"))
    light = 1 - inks.astype(np.float64) / 65535
    assert got.dtype == np.uint16
    assert np.abs(got - light[..., :3] * light[..., 3:] * 65535).max() <= 0.5
    colours = deep(3, 256)
    data = by_tifffile(noise(9, 13), photometric="palette", colormap=colours)
    same(data, (colours.T >> 8).astype(np.uint8)[noise(9, 13)])


def test_jpeg_tiles_equal_jpeg():
    image = smooth(64, 64)
    options = {"photometric": "rgb", "compression": "jpeg", "tile": (64, 64)}
    options["compressionargs"] = {"level": 95}
    got = read_image(by_tifffile(image, **options)).astype(int)
    assert np.abs(got - image).mean() < 2


# Alpha and bands.


@pytest.mark.parametrize(
    ("extra", "kept"), [("unassalpha", 3), ("assocalpha", 3), ("unspecified", 4)]
)
def test_a_fourth_sample_is_a_band_unless_it_is_declared_as_alpha(extra, kept):
    data = by_tifffile(noise(9, 13, 4), photometric="rgb", extrasamples=[extra])
    same(data, noise(9, 13, 4)[..., :kept])


def test_gray_with_alpha_and_four_gray_bands():
    alpha = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]}
    same(by_tifffile(noise(9, 13, 2), **alpha), noise(9, 13, 2)[..., :1])
    bands = {"photometric": "minisblack", "planarconfig": "contig"}
    same(by_tifffile(deep(9, 13, 4), **bands), deep(9, 13, 4))


def test_declared_no_data_of_floats_is_nan():
    image = noise(9, 13).astype(np.float32)
    image[2, 3] = -9999
    data = by_tifffile(image, extratags=[(42113, "s", 0, "-9999", True)])
    want = image.copy()
    want[2, 3] = np.nan
    same(data, want[..., None])


# Pages.


STACKS = {
    "CYX": (3, lambda a: np.moveaxis(a, 0, -1)),
    "TYX": (1, lambda a: a[0][..., None]),
    "ZCYX": (3, lambda a: np.moveaxis(a[0], 0, -1)),
    "TZCYX": (3, lambda a: np.moveaxis(a[0, 0], 0, -1)),
    "CZYX": (2, lambda a: np.moveaxis(a[:, 0], 0, -1)),
}


SHAPES = {"TYX": (3,), "CYX": (3,), "ZCYX": (2, 3), "CZYX": (2, 3), "TZCYX": (2, 2, 3)}
KINDS = [(k, c) for k in ("ome", "shaped") for c in (None, "zlib")] + [("imagej", None)]


@pytest.mark.parametrize("axes", STACKS)
@pytest.mark.parametrize(("kind", "compression"), KINDS)
def test_stacks(axes, kind, compression):
    if kind == "imagej" and axes == "CZYX":
        axes = "ZCYX"  # the one order of ImageJ
    image = deep(*SHAPES[axes], 9, 13)
    options = {} if kind == "shaped" else {kind: True}
    data = by_tifffile(
        image, photometric="minisblack", metadata={"axes": axes}, compression=compression, **options
    )
    bands, expect = STACKS[axes]
    want = expect(image)
    assert want.shape[2] == bands
    same(data, want)


def test_a_stack_in_one_page():
    """ImageJ writes large stacks as one page with the rest behind it."""
    data = by_tifffile(deep(2, 3, 9, 13), imagej=True, metadata={"axes": "ZCYX"})
    with tifffile.TiffFile(BytesIO(data)) as tiff:
        last = tiff.pages[0]
        next_page = struct.pack("<I", tiff.pages[1].offset)
        assert data.count(next_page) == 1
        assert len(last.dataoffsets) == 1
    same(data.replace(next_page, bytes(4)), np.moveaxis(deep(2, 3, 9, 13)[0], 0, -1))


def test_undeclared_pages_are_not_bands():
    data = by_tifffile(noise(3, 9, 13), metadata=None, photometric="minisblack")
    same(data, noise(3, 9, 13)[0][..., None])


def test_broken_metadata_give_the_first_page():
    data = by_tifffile(deep(3, 9, 13), ome=True, metadata={"axes": "CYX"}, photometric="minisblack")
    same(data.replace(b"<Pixels", b"<Pixelz"), deep(3, 9, 13)[0][..., None])


def test_no_other_file_is_opened(tmp_path, monkeypatch):
    """OME metadata may name files beside this one."""
    monkeypatch.chdir(tmp_path)
    secret = by_tifffile(np.full((9, 13), 7, np.uint8), photometric="minisblack")
    (tmp_path / "secret.tif").write_bytes(secret)
    data = by_tifffile(
        noise(2, 9, 13), ome=True, metadata={"axes": "CYX"}, photometric="minisblack"
    )
    other = b'<TiffData IFD="0" FirstC="1"><UUID FileName="secret.tif">urn:uuid:1</UUID></TiffData>'
    with tifffile.TiffFile(BytesIO(data)) as tiff:
        text = tiff.ome_metadata.encode()
    start, end = text.index(b"<TiffData"), text.index(b"</Pixels>")
    named = text[:start] + other + text[end:]
    data = by_tifffile(
        noise(9, 13), description=named.decode(), metadata=None, photometric="minisblack"
    )
    (tmp_path / "x.ome.tif").write_bytes(data)
    assert not (decode(tmp_path / "x.ome.tif") == 7).all()


# Names.


def test_band_names():
    channels = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP", "actin"]}}
    gray = {"photometric": "minisblack"}
    assert read_band_names(by_tifffile(deep(3, 9, 13), ome=True, metadata=channels, **gray)) == [
        "DAPI",
        "GFP",
        "actin",
    ]
    labels = {"axes": "ZCYX", "Labels": ["a", "b", "c", "d"]}
    stack = by_tifffile(deep(2, 2, 9, 13), imagej=True, metadata=labels)
    assert read_band_names(stack) == ["a", "b"]
    items = "".join(
        f'<Item name="DESCRIPTION" sample="{i}" role="description">{n}</Item>'
        for i, n in enumerate(["B02 (blue)", "B8A"])
    )
    text = f"<GDALMetadata>{items}</GDALMetadata>"
    tag = [(42112, "s", 0, text, True)]
    gray["planarconfig"] = "contig"
    assert read_band_names(by_tifffile(deep(9, 13, 2), extratags=tag, **gray)) == [
        "B02 (blue)",
        "B8A",
    ]
    assert read_band_names(by_tifffile(deep(9, 13, 3), extratags=tag, **gray)) == []
    assert read_band_names(by_tifffile(deep(9, 13, 2), **gray)) == []


@pytest.mark.parametrize("data", [b"", b"II*\0", b"II*\0" + bytes(60), b"\xff\xd8\xff"])
def test_no_names_without_a_file(data):
    assert read_band_names(data) == []
