"""Masks as they are in files, what their values mean, and where they lie."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from openmae.data.maskfile import ColourMaskError, Labels, read_mask, read_names, read_palette
from openmae.data.masklayouts import ADE, INSTANCES, find_pairs
from openmae.data.masks import MaskSource
from openmae.errors import DataError

VALUES = np.array([[0, 1, 2], [3, 255, 7]], dtype=np.uint8)


def save(path: Path, array=VALUES, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array), mode=mode).save(path)
    return path


def pairs_of(root: Path, *names: str, images: str = "images", masks: str = "masks") -> Path:
    """Images of noise with masks of 0 and 1."""
    rng = np.random.default_rng(0)
    for name in names:
        save(root / images / f"{name}.jpg", rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
        save(root / masks / f"{name}.png", rng.integers(0, 2, (8, 10), dtype=np.uint8))
    return root


# Files.


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".pgm", ".tif"])
def test_gray_values_are_the_numbers(tmp_path, suffix):
    assert np.array_equal(read_mask(save(tmp_path / f"m{suffix}")), VALUES)


def test_a_palette_picture_gives_its_indices(tmp_path):
    picture = Image.fromarray(VALUES, mode="P")
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    picture.save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png"), VALUES)


def test_deep_one_bit_and_gray_in_rgb(tmp_path):
    deep = VALUES.astype(np.uint16) * 200
    assert np.array_equal(read_mask(save(tmp_path / "16.png", deep)), deep)
    tifffile.imwrite(tmp_path / "16.tif", deep)
    assert np.array_equal(read_mask(tmp_path / "16.tif"), deep)
    assert read_mask(save(tmp_path / "1.png", VALUES > 2)).max() == 1
    assert np.array_equal(
        read_mask(save(tmp_path / "g.png", VALUES[..., None].repeat(3, 2))), VALUES
    )


def test_colours_need_a_palette_and_get_its_classes(tmp_path):
    colours = np.array([[1, 2, 3], [9, 9, 9], [200, 0, 7]], dtype=np.uint8)
    which = np.array([[0, 1], [2, 1]])
    path = save(tmp_path / "m.png", colours[which])
    with pytest.raises(ColourMaskError, match=r"RGB with 3 colours: give --palette FILE"):
        read_mask(path)
    (tmp_path / "p.txt").write_text("R G B NAME\n1 2 3 sky blue\n9,9,9,void\n# x\n200\t0\t7\tcar\n")
    names, labels = read_palette(tmp_path / "p.txt")
    assert names == ["sky blue", "car"]
    assert labels.classes(read_mask(path, labels)).tolist() == [[0, -1], [1, -1]]
    assert Labels.of(labels.record()) == labels
    with pytest.raises(DataError, match=r"has the colour 0 1 2, which the palette lacks"):
        read_mask(save(tmp_path / "n.png", np.array([[[0, 1, 2], [1, 2, 3]]], np.uint8)), labels)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 2 3 a\n", "1 classes"),
        ("1 2 3 a\n1 2 3 b\n", "line 2: the colour 1 2 3 stands twice"),
        ("1 2 3 a\n1 2 b\n", "line 2"),
        ("1 2 300 a\n1 2 b\n", "line 1"),
        ("\0\0", "line 1"),
    ],
)
def test_palettes_that_are_none(tmp_path, text, says):
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(DataError, match=says):
        read_palette(tmp_path / "p.txt")


def test_values_become_classes():
    labels = Labels((1, 2, 7), 255)
    assert labels.classes(np.array([[1, 7], [255, 2]])).tolist() == [[0, 2], [-1, 1]]
    for odd in (0, 3, -1, 70_000):
        with pytest.raises(DataError, match="value"):
            labels.classes(np.array([[1, odd]]))


def test_names_of_classes(tmp_path):
    assert read_names("road, car ,sky") == ["road", "car", "sky"]
    (tmp_path / "n.txt").write_text("# classes\nroad\n\ncar\n")
    assert read_names(str(tmp_path / "n.txt")) == ["road", "car"]
    for words, says in (("a,a", "stands twice"), ("a,", "1 names"), ("nowhere.txt", "cannot be")):
        with pytest.raises(DataError, match=says):
            read_names(words)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.png", b"", "cannot be read"),
        ("b.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "cannot be read"),
        ("c.png", b"not an image", "cannot be read"),
        ("d.tif", b"II*\0" + b"\0" * 20, "."),
    ],
)
def test_files_that_are_no_mask(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=says):
        read_mask(tmp_path / name)


def test_jpeg_and_fractions_are_no_masks(tmp_path):
    with pytest.raises(DataError, match="JPEG"):
        read_mask(save(tmp_path / "m.jpg"))
    tifffile.imwrite(tmp_path / "m.tif", np.array([[0.5, 1.0]], dtype=np.float32))
    with pytest.raises(DataError, match="fractions"):
        read_mask(tmp_path / "m.tif")


def test_damaged_files_are_errors_of_data_or_masks(tmp_path):
    """Any bytes changed, cut or added: an array or a DataError, nothing else."""
    rng, outcomes = random.Random(0), set()
    deep = np.arange(300, dtype=np.uint16).reshape(15, 20)
    files = [save(tmp_path / "a.png", np.tile(VALUES, (9, 9))), save(tmp_path / "b.png", deep)]
    files += [save(tmp_path / "c.bmp"), save(tmp_path / "d.pgm"), save(tmp_path / "e.tif", deep)]
    for number in range(300):
        data = bytearray(files[number % len(files)].read_bytes())
        for _ in range(rng.choice((1, 3, 20))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        data = data[: rng.randrange(len(data))] if number % 3 == 0 else data
        path = tmp_path / "broken.png"
        path.write_bytes(data)
        try:
            outcomes.add(read_mask(path, Labels((0, 1), 255)).ndim)
        except DataError as error:
            outcomes.add(len(str(error).splitlines()))
    assert outcomes == {2, 1}  # an array of two dimensions, or one line


# Layouts.


def test_images_and_masks_side_by_side(tmp_path):
    train, test = find_pairs(str(pairs_of(tmp_path, "b", "a/x")))
    assert (train.files, train.of, test) == (["a/x.jpg", "b.jpg"], [["a/x.png"], ["b.png"]], None)


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (("images/train", "images/val"), ("masks/train", "masks/val")),
        (("train/images", "test/images"), ("train/masks", "test/masks")),
        (("train", "test"), ("trainannot", "testannot")),
        (("train", "val"), ("train_labels", "val_labels")),
        (
            ("images/train2017", "images/val2017"),
            ("stuffthingmaps/train2017", "stuffthingmaps/val2017"),
        ),
    ],
)
def test_parts_as_folders(tmp_path, images, masks):
    for number in (0, 1):
        pairs_of(tmp_path, f"x{number}", images=images[number], masks=masks[number])
    train, test = find_pairs(str(tmp_path))
    assert test is not None
    assert (train.files, train.of) == (["x0.jpg"], [["x0.png"]])
    assert (test.files, test.masks) == (["x1.jpg"], tmp_path / masks[1])


def test_cityscapes(tmp_path):
    for part in ("train", "val"):
        pairs_of(tmp_path, "a_0", images=f"leftImg8bit/{part}/a", masks=f"gtFine/{part}/a")
        image, mask = (tmp_path / folder / part / "a" for folder in ("leftImg8bit", "gtFine"))
        (image / "a_0.jpg").rename(image / "a_0_leftImg8bit.jpg")
        (mask / "a_0.png").rename(mask / "a_0_gtFine_labelTrainIds.png")
        save(mask / "a_0_gtFine_color.png")
    train, _ = find_pairs(str(tmp_path))
    assert train.of == [["a/a_0_gtFine_labelTrainIds.png"]]
    assert "1 masks have no image" in train.notices[0]


def test_ade20k(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    for part in ("training", "validation"):
        pairs_of(root, "x", images=f"images/{part}", masks=f"annotations/{part}")
    (root / "objectInfo150.txt").write_text("Idx\tName\n1\twall\n2\tbuilding, edifice\n")
    train, test = find_pairs(str(tmp_path))
    assert test is not None
    assert (train.kind, test.kind, train.names) == (ADE, ADE, ["wall", "building"])


def test_one_mask_an_object(tmp_path):
    for name in ("s1", "s2"):
        save(tmp_path / name / "images" / f"{name}.png", np.zeros((4, 5, 3), np.uint8))
        for i in range(2 if name == "s1" else 0):
            one = np.zeros((4, 5), np.uint8)
            one[i] = 255
            save(tmp_path / name / "masks" / f"{i}.png", one)
        (tmp_path / name / "masks").mkdir(exist_ok=True)
    found, test = find_pairs(str(tmp_path))
    assert (found.kind, test) == (INSTANCES, None)
    source = MaskSource(found, Labels((0, 255)), ["background", "object"])
    assert source[0]["mask"].tolist() == [[1] * 5, [1] * 5, [0] * 5, [0] * 5]
    assert source[1]["mask"].max() == 0


def test_a_folder_of_masks_with_endings_and_spare_ones(tmp_path):
    pairs_of(tmp_path, "a", "b")
    for path in list((tmp_path / "masks").iterdir()):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    save(tmp_path / "masks/c.png")
    found, _ = find_pairs(str(tmp_path / "images"), str(tmp_path / "masks"))
    assert found.of == [["a_mask.png"], ["b_mask.png"]]
    assert found.notices == ["1 masks have no image and are not used (first: c.png)"]


def test_what_is_missing_is_named(tmp_path):
    pairs_of(tmp_path, "a", "b")
    (tmp_path / "masks/b.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images have no mask \(first: b.jpg; no .*b.png\)"):
        find_pairs(str(tmp_path))
    with pytest.raises(DataError, match="does not exist"):
        find_pairs(str(tmp_path), str(tmp_path / "maskz"))
    with pytest.raises(DataError, match=r"no images beside masks \(found no folders\)"):
        find_pairs(str(tmp_path / "images"))
    with pytest.raises(DataError, match="does not exist"):
        find_pairs(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="is a file"):
        find_pairs(str(tmp_path / "images/a.jpg"))


def test_a_source_and_its_parts(tmp_path):
    found, _ = find_pairs(str(pairs_of(tmp_path, "a", "b", "c")))
    source = MaskSource(found, Labels((0, 1), 255), ["x", "y"])
    part = source.subset([2, 0])
    assert [part[i]["path"] for i in (0, 1)] == ["c.jpg", "a.jpg"]
    assert np.array_equal(part[0]["mask"], read_mask(tmp_path / "masks/c.png"))
    before = list(source.listing())
    save(tmp_path / "masks/c.png", np.ones((8, 10), np.uint8))
    assert [a == b for a, b in zip(before, source.listing(), strict=True)] == [True, True, False]
    save(tmp_path / "masks/c.png", np.ones((10, 8), np.uint8))
    with pytest.raises(DataError, match=r"mask is 8x10, its image 10x8 \(turned"):
        source[2]
