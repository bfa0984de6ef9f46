"""Pictures of objects: which colours lie where, at sizes from small to large."""

from __future__ import annotations

import numpy as np
import pytest

from openmae.data.rle import packed
from openmae.report.classcolours import PALETTE
from openmae.report.objects import draw_found
from openmae.report.picturestyle import GAP, LINE, Legend, Plates, shown_size, wide

CLASSES = ["cat", "a rather long name of a class"]
GRAY = 128


def record(size, boxes, scores, labels, masks=None):
    return {"path": "a.png", "size": list(size), "boxes": boxes, "scores": scores,
            "labels": labels, "masks": masks}  # fmt: skip


def drawn(size, boxes, scores, labels, threshold=0.5, classes=CLASSES, masks=None):
    """The image within the picture, without the words around it."""
    image = np.full((*size, 3), GRAY, dtype=np.uint8)
    found = draw_found(image, record(size, boxes, scores, labels, masks), classes, threshold)
    width, height = shown_size(size[1], size[0])
    return np.asarray(found)[GAP : GAP + height, GAP : GAP + width]


def where(picture, colour):
    return (picture == np.array(colour)).all(-1)


def legend_of(monkeypatch):
    """What stands in the legends that are made."""
    told = []
    monkeypatch.setattr(Legend, "draw", lambda self, *_: told.append(self.entries))
    return told


def test_a_name_at_the_right_edge_is_whole():
    """Its plate has the size that it has where there is room, and ends within the picture."""
    free = drawn((500, 500), [[60, 60, 110, 110]], [0.9], [1])
    edge = drawn((500, 500), [[470, 60, 499, 110]], [0.9], [1])

    def plate(picture):  # the line above its words
        row = where(picture, PALETTE[1]).sum(1)[:59].max()
        return int(row)

    assert plate(edge) == plate(free) > wide("a rather long name")


def test_no_line_goes_through_a_name():
    """The second box's upper line runs through the first one's name, which stays as it was."""
    one = drawn((500, 500), [[60, 60, 200, 200]], [0.9], [0])
    both = drawn((500, 500), [[60, 60, 200, 200], [30, 53, 300, 300]], [0.9, 0.6], [0, 0])
    name = (slice(45, 58), slice(60, 85))
    assert where(one[name], PALETTE[0]).any()
    assert (one[name] == both[name]).all()


def test_the_surest_lies_on_top_whatever_the_order():
    boxes, scores = [[50, 50, 200, 200], [50, 50, 200, 200]], [0.6, 0.9]
    sure = drawn((500, 500), boxes, scores, [0, 1])
    assert (sure == drawn((500, 500), boxes[::-1], scores[::-1], [1, 0])).all()
    assert (sure[199, 100] == PALETTE[1]).all()


def test_a_class_has_one_colour_in_every_picture():
    """Whatever else is there, and whichever is the surest."""
    first = drawn((500, 500), [[50, 300, 200, 400]], [0.9], [1])
    second = drawn((500, 500), [[50, 50, 200, 150], [50, 300, 200, 400]], [0.99, 0.6], [0, 1])
    assert where(first, PALETTE[1]).any()
    assert not where(first, PALETTE[0]).any()
    assert (first[350, 49:53] == second[350, 49:53]).all()


def test_pixels_under_a_mask_are_blended_and_others_as_they_were():
    mask = np.zeros((500, 500), dtype=np.bool_)
    mask[100:200, 100:300] = True
    found = drawn((500, 500), [[100, 100, 300, 200]], [0.9], [0], masks=[packed(mask)])
    expected = np.rint(0.6 * GRAY + 0.4 * np.array(PALETTE[0]))
    assert (found[110:190, 110:290] == expected).all()
    assert (found[250:, :] == GRAY).all()
    assert (found[:, :90][210:] == GRAY).all()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_frames_differ_from_every_ground(level):
    """Across a frame there are two colours of which one is far from the ground."""
    for label in range(12):
        image = np.full((500, 500, 3), level, dtype=np.uint8)
        found = draw_found(image, record((500, 500), [[50, 300, 200, 400]], [0.9], [label]),
                           [f"c{i}" for i in range(12)], 0.5)  # fmt: skip
        line = np.asarray(found).astype(int)[GAP + 350, GAP + 46 : GAP + 56]
        assert np.abs(line - level).sum(-1).max() > 200


@pytest.mark.parametrize("size", [(1, 1), (9, 40), (64, 64), (480, 640), (30, 900), (2400, 1800)])
def test_names_lie_within_images_of_any_size(size, monkeypatch):
    made = []
    put = Plates.put
    monkeypatch.setattr(
        Plates, "put", lambda self, *a: made.append((self, put(self, *a))) or made[-1][1]
    )
    h, w = size
    boxes = [[0, 0, w, h], [w * 0.9, h * 0.9, w, h], [0, 0, w * 0.1, h * 0.1]]
    found = draw_found(np.full((h, w, 3), GRAY, np.uint8),
                       record(size, boxes, [0.9, 0.8, 0.7], [0, 1, 1]), CLASSES, 0.5)  # fmt: skip
    width, height = shown_size(w, h)
    assert max(width, height) >= 480
    assert found.width >= width + 2 * GAP
    plates = made[0][0]
    assert plates.image.size == (width, height)
    for left, top, right, bottom in plates.boxes:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    assert len(plates.boxes) + plates.lost == 3
    assert size in [(9, 40), (30, 900)] or len(plates.boxes) >= 2


def test_names_never_lie_over_each_other():
    rng = np.random.default_rng(0)
    plates = Plates(draw_found(np.zeros((300, 300, 3), np.uint8), record((300, 300), [], [], []),
                               CLASSES, 0.5))  # fmt: skip
    for _ in range(60):
        plates.put("a name", (255, 0, 0), [tuple(rng.integers(-50, 500, 2))])
    boxes = np.array(plates.boxes)
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    assert (high > low).all(-1).sum() == len(boxes)
    assert plates.lost > 0


def test_the_legend_names_what_is_there_and_how_often(monkeypatch):
    told = legend_of(monkeypatch)
    names = [f"class {i}" for i in range(90)]
    boxes = [[10 * i, 10, 10 * i + 8, 30] for i in range(5)]
    drawn((300, 300), boxes, [0.9, 0.8, 0.7, 0.6, 0.3], [80, 4, 80, 80, 7], classes=names)
    (entries,) = told
    assert [(tuple(c), n, v) for c, n, v in entries] == [
        (PALETTE[80], "class 80", "3"), (PALETTE[4], "class 4", "1")
    ]  # fmt: skip


def test_what_is_below_the_threshold_is_not_drawn_and_odd_names_do_no_harm():
    assert (drawn((500, 500), [[50, 50, 200, 200]], [0.4], [0]) == GRAY).all()
    drawn((500, 500), [[50, 50, 200, 200]], [0.9], [0], classes=["\udc80\u732b", "x"])
    drawn((500, 500), [[50, 50, 200, 200]], [0.9], [0], classes=["word " * 90, "x"])


def test_a_legend_of_many_classes_fits_and_says_what_it_leaves_out():
    names = [f"{'long ' * (k % 30)}class {k}" for k in range(200)]
    legend = Legend.of({k: k + 1 for k in range(200)}, names, [PALETTE[0]] * 200, str)
    assert legend.entries[0][1].startswith("long")
    assert len(legend.entries) == 48
    assert "152 more" in legend.more
    columns, height = legend.size(legend.least())
    assert columns >= 2
    assert height == (-(-48 // columns) + 1) * LINE
    assert max(wide(name) for _, name, _ in legend.entries) <= 150
    assert legend.size(1)[0] == 1
