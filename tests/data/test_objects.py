"""Objects of every format: the same boxes and masks, the parts, and what is found wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import object_files as files
import pytest
from PIL import Image

from openmae.data.coco import read_coco
from openmae.data.objects import BoxSource, cut_box
from openmae.data.openobjects import open_object_split, open_objects
from openmae.data.rle import counts_of, drawn, filled, packed, polygons_of, runs
from openmae.errors import DataError

pytest.importorskip("faster_coco_eval")


def check(source: BoxSource, index: int, number: int, masks: bool) -> None:
    """Sample `index` holds the objects of image `number`."""
    sample = source[index]
    expected = np.array(files.boxes_of(number), dtype=np.float32)
    np.testing.assert_allclose(sample["boxes"], expected, atol=1e-4)
    assert sample["image"].shape[:2] == files.SIZE
    assert ("masks" in sample) is masks
    if masks:
        for mask, (x1, y1, x2, y2) in zip(sample["masks"], files.boxes_of(number), strict=True):
            inside = mask[y1:y2, x1:x2]
            assert inside.all()
            assert mask.sum() == inside.sum()


def test_coco(tmp_path):
    file = files.coco(tmp_path)
    source = open_objects(str(file))
    assert (source.classes, source.numbers) == (["cat", "dog"], [3, 7])
    assert source.findings.lines() == []
    for i in range(8):
        check(source, i, i, True)
    assert source[0]["labels"].tolist() == [0, 1]
    assert source.counts().tolist() == [8, 8]
    moved = tmp_path / "elsewhere.json"
    moved.write_text(file.read_text())
    check(open_objects(str(moved), str(tmp_path / "train")), 2, 2, True)


def test_coco_folder_has_two_parts(tmp_path):
    files.coco(tmp_path)
    files.coco(tmp_path, 3, "val")
    train, val = open_object_split(str(tmp_path))
    assert (len(train), len(val)) == (8, 3)
    check(val, 1, 1, True)


def test_images_of_another_file_are_near_it_or_where_the_first_ones_are(tmp_path):
    own = files.coco(tmp_path / "a", 8, "train")
    other = files.coco(tmp_path / "a", 3, "val")
    folder = tmp_path / "pictures"
    (tmp_path / "a/train").rename(folder)
    _, val = open_object_split(str(own), str(other), str(folder))
    assert val.root == tmp_path / "a/val"  # though the same names are in the folder that was given
    alone = tmp_path / "b/c/val.json"
    alone.parent.mkdir(parents=True)
    alone.write_text(other.read_text())
    _, val = open_object_split(str(own), str(alone), str(folder))
    assert (len(val), val.root) == (3, folder)


def test_voc(tmp_path):
    train, val = open_object_split(str(files.voc(tmp_path)))
    assert (len(train), len(val), train.classes) == (3, 2, ["cat", "dog"])
    check(val, 0, 3, False)
    assert len(train[0]["boxes"]) == 1, "a difficult object is not trained on"
    assert sum(t.crowd for t in train.picture(0).things) == 1


def test_yolo(tmp_path):
    train, val = open_object_split(str(files.yolo(tmp_path)), masks=False)
    assert (len(train), len(val), train.classes) == (3, 2, ["cat", "dog"])
    check(train, 1, 1, False)
    polygon = train.picture(0).things[1]
    assert polygon.mask(*files.SIZE).sum() == 20 * 18


def test_instance_masks(tmp_path):
    for root in (tmp_path / "stage1_train", tmp_path):
        files.instances(tmp_path / "stage1_train") if root != tmp_path else None
        source = open_objects(str(root))
        assert source.classes == ["object"]
        check(source, 3, 3, True)


def test_a_share_is_held_out_where_nothing_says_which(tmp_path):
    train, val = open_object_split(str(files.instances(tmp_path, 20)), fraction=0.3)
    assert len(train) + len(val) == 20
    assert 2 <= len(val) <= 10
    assert not {train.path(i) for i in range(len(train))} & {val.path(i) for i in range(len(val))}


def broken(tmp_path: Path, change) -> BoxSource:
    file = files.coco(tmp_path)
    values = json.loads(file.read_text())
    change(values)
    files.write(file, values)
    return open_objects(str(file))


def set_of(index: int, **more):
    return lambda values: values["annotations"][index].update(more)


@pytest.mark.parametrize(
    ("change", "words", "left"),
    [
        (set_of(4, bbox=[3, 3, 0, 5]), "zero width or height: dropped (first: annotation 104", 15),
        (set_of(4, bbox=[100, 3, 5, 5]), "outside of their image: dropped", 15),
        (set_of(4, bbox=[40, 3, 30, 5]), "over the edge of their image: cut", 16),
        (set_of(4, bbox=[1, 2, 3]), "not four numbers: dropped", 15),
        (set_of(4, bbox=[1, 2, float("nan"), 4]), "not four numbers: dropped", 15),
        (set_of(4, category_id=91), "of category 91, which has no name: dropped", 15),
        (set_of(4, image_id=5), "belong to no image that is there: dropped", 15),
        (set_of(4, segmentation=[[1, 2, 3]]), "odd count of numbers: box kept", 15),
        (set_of(4, segmentation={"size": [3, 3], "counts": [9]}), "size is not 48x32", 15),
        (set_of(4, segmentation={"size": [32, 48], "counts": [9]}), "do not fill 48x32", 15),
        (lambda v: v["annotations"].append(dict(v["annotations"][0])), "there twice", 16),
        (lambda v: v["images"].append(dict(v["images"][0])), "image ids are there twice", 16),
        (lambda v: v["images"][1].update(file_name="../x.png"), "lead out of the folder", 14),
        (lambda v: v["images"][1].update(file_name="no.png"), "images are not in", 14),
        (lambda v: v["images"][1].pop("file_name"), "no file_name or no id", 14),
    ],
)
def test_what_is_found_wrong_is_counted_and_named(tmp_path, change, words, left):
    source = broken(tmp_path, change)
    assert any(words in line for line in source.findings.lines()), source.findings.lines()
    assert source.counts().sum() == left
    for i in range(len(source)):
        source[i]


def test_counts_and_the_first(tmp_path):
    def change(values):
        for i in (3, 6, 7):
            values["annotations"][i]["bbox"][2] = 0

    lines = broken(tmp_path, change).findings.lines()
    assert lines == [
        "3 boxes have zero width or height: dropped (first: annotation 103 of 001.png)"
    ]


def test_a_crowd_is_not_trained_on_and_a_size_is_read_where_it_is_missing(tmp_path):
    def change(values):
        values["annotations"][0].update(iscrowd=1)
        values["images"][0].pop("height")

    source = broken(tmp_path, change)
    assert len(source[0]["boxes"]) == 1
    assert source.findings.lines() == []


def test_another_size_than_the_annotations_say_is_told_when_it_is_read(tmp_path):
    source = broken(tmp_path, lambda v: v["images"][0].update(height=33))
    with pytest.raises(DataError, match="is 48x32, its annotations say 48x33"):
        source[0]


def test_other_annotations_are_other_data(tmp_path):
    a = list(broken(tmp_path / "a", lambda v: None).listing())
    b = list(broken(tmp_path / "b", set_of(2, bbox=[1, 1, 9, 9])).listing())
    assert [x == y for x, y in zip(a, b, strict=True)] == [True, False] + [True] * 6


def test_masks_of_instances_that_do_not_fit(tmp_path):
    root = files.instances(tmp_path)
    Image.new("L", (9, 9), 255).save(root / "id1" / "masks" / "0.png")
    Image.new("L", (48, 32), 0).save(root / "id2" / "masks" / "0.png")
    (root / "id3" / "masks" / "0.png").write_bytes(b"nothing")
    (root / "other").mkdir()
    text = "\n".join(open_objects(str(root)).findings.lines())
    for words in ("of another size", "masks are empty", "cannot be read", "no images/ and masks/"):
        assert words in text


@pytest.mark.parametrize("values", [[], {}, {"images": []}, 3, None])
def test_what_is_no_coco_file(tmp_path, values):
    file = tmp_path / "x.json"
    files.write(file, values)
    with pytest.raises(DataError, match="no COCO file"):
        read_coco(file)


def test_run_lengths_and_cocos_own_text_agree():
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for _ in range(60):
        mask = rng.random((rng.integers(1, 40), rng.integers(1, 40))) < rng.random()
        text = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert packed(mask) == text
        assert np.array_equal(counts_of(text, *mask.shape), runs(mask))
        assert np.array_equal(filled(runs(mask), *mask.shape), mask)
        points = (rng.random((2, 10)) * 60 - 10).tolist()
        expected = coco.decode(coco.merge(coco.frPyObjects(points, 40, 30))).astype(bool)
        assert np.array_equal(drawn(polygons_of(points, 40, 30), 40, 30), expected)


@pytest.mark.parametrize("text", ["`", "0" * 40, "zzzz", "\x00", "P", "é"])
def test_damaged_text_of_run_lengths(text):
    with pytest.raises(ValueError, match=r"damaged|early|fill"):
        counts_of(text, 5, 7)


def test_a_box_that_fits_is_left_alone():
    assert cut_box([0, 0, 48, 32], 32, 48) == ((0, 0, 48, 32), "")
    assert cut_box([-0.5, 0, 48.5, 32], 32, 48) == ((0, 0, 48, 32), "")
    assert cut_box([True, 0, 1, 1], 32, 48)[0] is None
