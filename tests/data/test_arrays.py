""".npy and .npz as sources: layouts, types, splits, and files that are damaged or hostile."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from openmae.data import arrays
from openmae.data.arrays import MappedArray, layout
from openmae.data.sources import open_source, open_split
from openmae.data.values import Decoding
from openmae.errors import DataError

RNG = np.random.default_rng(0)
NHWC = RNG.integers(0, 256, (10, 20, 24, 3), dtype=np.uint8)


def save(path, array) -> str:
    np.save(path, array)
    return str(path)


def paths(source) -> list[str]:
    return [source.path(i) for i in range(len(source))]


@pytest.mark.parametrize(
    ("shape", "first"),
    [
        ((10, 20, 24, 3), False),
        ((10, 3, 20, 24), True),
        ((10, 20, 24, 16), False),
        ((10, 8, 8, 3), False),  # both may be channels: square images
        ((10, 3, 8, 8), True),
        ((10, 64, 64, 200), False),  # neither
        ((10, 200, 64, 64), True),
        ((1, 17, 16, 16), False),
        ((10, 1, 1, 1), None),
        ((10, 8, 8, 8), None),
        ((10, 4, 6, 3), None),
        ((10, 40, 60, 30), None),
    ],
)
def test_which_axis_holds_the_channels(shape, first):
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    if first is None:
        with pytest.raises(DataError, match="channels first or last"):
            layout(array, "x.npy")
        return
    expected = np.moveaxis(array, 1, -1) if first else array
    np.testing.assert_array_equal(layout(array, "x.npy"), expected)


def test_without_an_axis_of_channels():
    assert layout(np.zeros((5, 8, 9)), "x").shape == (5, 8, 9, 1)
    with pytest.raises(DataError, match=r"x is 480 x 640 x 3: one image\? Save it as images\["):
        layout(np.zeros((480, 640, 3)), "x")


@pytest.mark.parametrize("kind", ["u1", "<u2", ">u2", "i1", "<i4", "i8", "f2", "<f4", ">f8", "?"])
def test_types(tmp_path, kind):
    array = (NHWC > 100 if kind == "?" else NHWC // 2).astype(kind)
    source = open_source(save(tmp_path / "a.npy", array))
    raw = source.raw(3)
    np.testing.assert_array_equal(raw, array[3])
    assert raw.dtype == array.dtype.newbyteorder("=")
    assert source.header(3)[:4] == (20, 24, 3, str(raw.dtype))
    if kind in ("u1", "?"):
        assert source[3]["image"].dtype == np.uint8
        return
    with pytest.raises(DataError, match="where 8-bit ones are read"):
        source[3]
    read = source.decoded(Decoding(3, value_range=(0, 127)))[3]["image"]
    np.testing.assert_allclose(read, array[3].astype(float) / 127, rtol=1e-6)


def test_npy_is_mapped_and_mapped_again_in_another_process(tmp_path):
    source = open_source(save(tmp_path / "a.npy", np.moveaxis(NHWC, 3, 1)))
    assert isinstance(source, MappedArray)
    assert isinstance(source.parts[0], np.memmap)
    text = pickle.dumps(source.subset([7, 2]))  # what a spawned loader process gets
    assert len(text) < 2000
    again = pickle.loads(text)
    np.testing.assert_array_equal(again[0]["image"], NHWC[7])
    assert paths(again) == ["a/00000007", "a/00000002"]
    image = source[0]["image"]
    image[:] = 0  # a copy: the file stays as it is
    np.testing.assert_array_equal(source[0]["image"], NHWC[0])


def test_fortran_order(tmp_path):
    source = open_source(save(tmp_path / "a.npy", np.asfortranarray(NHWC)))
    np.testing.assert_array_equal(source[9]["image"], NHWC[9])


def test_listing_is_of_the_file_not_of_its_values(tmp_path):
    first = list(open_source(save(tmp_path / "a.npy", NHWC)).listing())
    assert first[1] == f"a/00000001\ta.npy\t{NHWC.nbytes + 128}\t(10, 20, 24, 3) |u1"
    (tmp_path / "moved").mkdir()
    assert list(open_source(save(tmp_path / "moved" / "a.npy", NHWC)).listing()) == first
    assert list(open_source(save(tmp_path / "a.npy", NHWC[:9])).listing()) != first[:9]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"),
        ("X", "y"),
        ("arr_0", "arr_1"),
        ("data", "label"),
        ("x_train", "y_train"),
    ],
)
@pytest.mark.parametrize("save_npz", [np.savez, np.savez_compressed])
def test_npz(tmp_path, images, labels, save_npz):
    wanted = np.array([7, 3] * 5)
    save_npz(tmp_path / "a.npz", **{images: NHWC, labels: wanted[:, None], "other": np.ones(3)})
    source = open_source(str(tmp_path / "a.npz"))
    assert (source.classes, source.labels.tolist()) == (["3", "7"], [1, 0] * 5)
    np.testing.assert_array_equal(source[4]["image"], NHWC[4])
    assert source.path(4) == f"{images.lower()}/00000004"
    assert "\t1" in next(source.listing())


def test_npz_without_labels_or_with_words(tmp_path):
    np.savez(tmp_path / "a.npz", NHWC)
    assert open_source(str(tmp_path / "a.npz")).labels.tolist() == [-1] * 10
    np.savez(tmp_path / "a.npz", x=NHWC, y=np.array(["b", "", "a", "b", "a"] * 2))
    source = open_source(str(tmp_path / "a.npz"))
    assert (source.classes, source.labels[:5].tolist()) == (["a", "b"], [1, -1, 0, 1, 0])
    np.savez(tmp_path / "a.npz", x=NHWC, y=np.zeros((10, 14)))  # several labels: not one an image
    assert open_source(str(tmp_path / "a.npz")).classes == []


def test_npz_with_its_own_split(tmp_path):
    parts = {"train_images": NHWC[:6], "val_images": NHWC[6:7], "test_images": NHWC[7:, :18]}
    names = {"train_labels": [0, 1] * 3, "val_labels": [1], "test_labels": [1, 0, 1]}
    np.savez(tmp_path / "a.npz", **parts, **names)
    path = str(tmp_path / "a.npz")
    train, test = open_split(path)
    assert (len(train), len(test), len(open_source(path))) == (6, 3, 6)
    assert test.labels.tolist() == [1, 0, 1]
    assert paths(test)[0] == "test_images/00000000"
    np.testing.assert_array_equal(test[2]["image"], NHWC[9, :18])
    np.savez(
        tmp_path / "b.npz", x_train=NHWC[:6], x_val=NHWC[6:], y_train=[0, 1] * 3, y_val=[0] * 4
    )
    assert [len(p) for p in open_split(str(tmp_path / "b.npz"))] == [6, 4]


# What is refused.


def npy(array, **header) -> bytes:
    out = io.BytesIO()
    if header:
        told = {"descr": "|u1", "fortran_order": False, "shape": array.shape} | header
        np.lib.format.write_array_header_1_0(out, told)
        return out.getvalue() + array.tobytes()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


class Bomb:
    """Would leave a file if anything unpickled it."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def hostile(tmp_path) -> dict[str, tuple[bytes, str]]:
    good = npy(NHWC)
    objects = np.empty(2, dtype=object)
    objects[:] = [Bomb(tmp_path / "ran"), NHWC[0]]
    long = b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b" " * 100
    return {
        "objects": (npy(objects), "holds Python objects .images of different sizes"),
        "pickle": (pickle.dumps(Bomb(tmp_path / "ran")), "is not a NumPy array"),
        "empty": (b"", "is not a NumPy array"),
        "text": (b"1,2,3\n4,5,6\n", "is not a NumPy array"),
        "cut": (good[:-1], "cut short"),
        "cut header": (good[:60], "cannot be read"),
        "long header": (long, "a header of 2,147,483,647 bytes"),
        "huge": (npy(NHWC, shape=(10**9, 10**6, 10**6, 3)), "cut short"),
        "negative": (npy(NHWC, shape=(-1, 20, 24, 3)), "holds no images"),
        "code": (
            good.replace(b"'fortran_order': False", b"'fortran_order': eval('1')"[:22]),
            "cannot be read",
        ),
        "words": (npy(np.array(["a", "b"])), "not numbers of pixels"),
        "record": (npy(np.zeros((3, 8, 8), dtype=[("a", "u1")])), "not numbers of pixels"),
        "complex": (npy(np.zeros((3, 8, 8), dtype="c8")), "complex64 values, not numbers"),
        "vector": (npy(np.zeros(7)), r"is 7; images are \(N, H, W\)"),
        "none": (npy(np.zeros((0, 8, 8))), "holds no images"),
    }


@pytest.mark.parametrize("name", list(hostile(Path())))
def test_hostile_arrays(tmp_path, name):
    data, text = hostile(tmp_path)[name]
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(DataError, match=text) as error:
        open_source(str(tmp_path / "a.npy"))
    assert "a.npy" in str(error.value)
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("images.npy", data)
    with pytest.raises(DataError) as error:
        open_source(str(tmp_path / "b.npz"))
    assert "b.npz" in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_damaged_and_hostile_archives(tmp_path):
    path = tmp_path / "a.npz"

    def said(text: str) -> None:
        with pytest.raises(DataError, match=text) as error:
            open_source(str(path))
        assert str(path) in str(error.value)

    path.write_bytes(b"PK no")
    said("cannot be read: File is not a zip file")
    np.savez(path, pictures=NHWC)
    said("no images under a known name .images, x, .* it has: pictures")
    np.savez(path, x=np.zeros((3, 100, 100, 8), dtype=np.uint8))
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    said("Bad CRC-32")
    np.savez(path, x=NHWC, y=np.array([{}] * 10))
    said("y.npy holds Python objects")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", npy(NHWC) + b"more")
    said("is not as long as it says")


def test_bombs(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((100, 100, 100), dtype=np.uint8))
    monkeypatch.setattr(arrays, "_SMALL", 100_000)
    with pytest.raises(DataError, match=r"x.npy unpacks to over 200 times its size: not read"):
        open_source(str(path))
    monkeypatch.setattr(arrays, "_UNPACKED", 100_000)
    with pytest.raises(DataError, match=r"unpacks to 0.0 GiB. Save it as .npy"):
        open_source(str(path))
