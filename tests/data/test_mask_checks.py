"""A look at masks before a run: classes that follow from them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openmae.data.maskfile import Labels
from openmae.data.masksets import MaskSets, Said, open_masks
from openmae.errors import DataError


def write(root: Path, masks: dict[str, np.ndarray], kind: str = "") -> Path:
    images, folder = root / "images" / kind, root / ("annotations" if kind else "masks") / kind
    for at in (images, folder):
        at.mkdir(parents=True, exist_ok=True)
    for name, mask in masks.items():
        Image.fromarray(np.zeros((*mask.shape[:2], 3), np.uint8)).save(images / f"{name}.png")
        Image.fromarray(mask).save(folder / f"{name}.png")
    return root


def many(*values: int, count: int = 12) -> dict[str, np.ndarray]:
    """Masks that hold all of the values."""
    row = np.array(values, dtype=np.uint16 if max(values) > 255 else np.uint8)
    return {f"{i:02d}": np.tile(row, (4, 3)) for i in range(count)}


def opened(root: Path, **more) -> MaskSets:
    return open_masks(str(root), Said(**more))


@pytest.mark.parametrize(
    ("values", "said", "names", "labels"),
    [
        ((0, 1, 2), {}, ["0", "1", "2"], Labels((0, 1, 2), 255)),
        ((0, 2, 255), {}, ["0", "1", "2"], Labels((0, 1, 2), 255)),
        ((0, 255), {}, ["background", "foreground"], Labels((0, 255))),
        ((0, 255), {"classes": "a,b"}, ["a", "b"], Labels((0, 255))),
        ((0, 1, 255), {"classes": "a,b"}, ["a", "b"], Labels((0, 1), 255)),
        ((0, 1, 255), {"ignore": None}, ["0", "1", "255"], Labels((0, 1, 255))),
        ((0, 1, 2, 3), {"ignore": 3}, ["0", "1", "2"], Labels((0, 1, 2), 3)),
        ((0, 1, 2, 3), {"ignore": 0}, ["0", "1", "2"], Labels((1, 2, 3), 0)),
        ((0, 1, 2), {"ignore": 0, "classes": "a,b,c"}, ["a", "b", "c"], Labels((1, 2, 3), 0)),
        ((0, 64, 128), {}, ["0", "64", "128"], Labels((0, 64, 128), 255)),
        ((0, 1000), {}, ["0", "1000"], Labels((0, 1000), 255)),
    ],
)
def test_classes_follow_from_the_values(tmp_path, values, said, names, labels):
    found = opened(write(tmp_path, many(*values)), **said)
    assert (found.names, found.labels) == (names, labels)
    assert found.held_out is not None
    assert len(found.train) + len(found.held_out) == 12
    mask = found.train[0]["mask"]
    expected = [labels.values.index(v) if v in labels.values else -1 for v in values]
    assert mask[0].tolist() == expected * 3


def test_ade20k_is_reduced_by_one(tmp_path):
    for part in ("training", "validation"):
        write(tmp_path, many(0, 1, 5), part)
    found = opened(tmp_path)
    assert (found.names, found.labels) == (list("01234"), Labels((1, 2, 3, 4, 5), 0))
    assert found.train[0]["mask"][0, :3].tolist() == [-1, 0, 4]
    assert "values 0 1 5; 0 means no label (33.3% of pixels)" in found.lines[0]


def test_values_beyond_the_classes_name_the_file(tmp_path):
    masks = many(0, 1) | {"07": np.tile(np.array([0, 12], np.uint8), (4, 3))}
    write(tmp_path, masks)
    with pytest.raises(DataError) as error:
        opened(tmp_path, classes="a,b,c")
    text = str(error.value)
    assert "masks/07.png has the value 12, --classes names 3 classes (0 to 2)" in text
    assert "--ignore-label 12" in text
    assert opened(tmp_path, classes="a,b,c", ignore=12).names == ["a", "b", "c"]


def test_masks_of_another_size_name_the_file(tmp_path):
    write(tmp_path, many(0, 1))
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(tmp_path / "masks/03.png")
    with pytest.raises(DataError) as error:
        opened(tmp_path)
    assert "1 of 12 masks are of another size than their image" in str(error.value)
    assert "masks/03.png is 6x5, its image 6x4" in str(error.value)


def test_one_class_is_none(tmp_path):
    write(tmp_path, many(3))
    with pytest.raises(DataError, match=r"hold the value 3 alone \(first: .*00.png\)"):
        opened(tmp_path)
    with pytest.raises(DataError, match="hold no label alone"):
        opened(tmp_path, ignore=3)


def test_what_is_odd_is_told(tmp_path):
    masks = many(0, 1) | {"05": np.zeros((4, 6), np.uint8)}
    write(tmp_path, masks)
    (tmp_path / "masks/06.png").write_bytes(b"broken")
    found = opened(tmp_path, classes="a,b,c")
    one, two, three = found.warnings
    assert one.startswith("1 masks cannot be read and are left out (first ")
    assert "06.png" in one
    assert two.startswith("1 of 12 masks hold one value only (first ")
    assert three == "no pixel is c: such classes cannot be learnt"


def test_most_masks_broken_is_an_error(tmp_path):
    write(tmp_path, many(0, 1))
    for path in sorted((tmp_path / "masks").iterdir())[:7]:
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"7 of 12 masks cannot be read. First: .*00.png: "):
        opened(tmp_path)


def test_known_classes_are_compared_with(tmp_path):
    write(tmp_path, many(0, 1, 2))
    known = (["a", "b"], Labels((0, 1), 255))
    with pytest.raises(DataError, match="has the value 2, there are 2 classes"):
        open_masks(str(tmp_path), Said(), None, None, known)
    found = open_masks(str(tmp_path), Said(), None, None, known, look=False)
    assert (found.looks, found.held_out, found.names) == ([], None, ["a", "b"])
