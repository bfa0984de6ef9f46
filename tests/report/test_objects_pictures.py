"""Pictures of objects: which colours lie where, at sizes from small to large."""

from __future__ import annotations

import numpy as np
import pytest

from openmae.report.objects import colour, draw_found

CLASSES = ["cat", "a rather long name of a class"]


def drawn(size, boxes, scores, labels, threshold=0.5, classes=CLASSES):
    image = np.full((*size, 3), 128, dtype=np.uint8)
    record = {"boxes": boxes, "scores": scores, "labels": labels, "masks": None}
    return np.asarray(draw_found(image, record, classes, threshold))


def inked(picture, back) -> int:
    """Black pixels within the hull of a colour's label: the words on it."""
    return int(((picture < 40).all(-1)).sum()) if (picture == back).all(-1).any() else 0


def test_a_name_at_the_right_edge_is_whole():
    """As many dark pixels as where there is room, none cut off."""
    free = drawn((500, 500), [[60, 60, 110, 110]], [0.9], [1])
    edge = drawn((500, 500), [[470, 60, 499, 110]], [0.9], [1])
    assert inked(free, colour(0)) > 100
    assert inked(edge, colour(0)) == inked(free, colour(0))


def test_no_line_goes_through_a_name():
    """The second box's upper line runs through the first one's name, which stays as it was."""
    one = drawn((500, 500), [[60, 60, 200, 200]], [0.9], [0])
    both = drawn((500, 500), [[60, 60, 200, 200], [30, 53, 300, 300]], [0.9, 0.6], [0, 0])
    name = (slice(46, 60), slice(60, 85))
    assert (one[name] == colour(0)).all(-1).any()
    assert (one[name] == both[name]).all()


def test_the_surest_lies_on_top_whatever_the_order():
    boxes, scores = [[50, 50, 200, 200], [50, 50, 200, 200]], [0.6, 0.9]
    sure = drawn((500, 500), boxes, scores, [0, 1])
    assert (sure == drawn((500, 500), boxes[::-1], scores[::-1], [1, 0])).all()
    assert (sure[199, 100] == colour(0)).all()


@pytest.mark.parametrize(("side", "line"), [(64, 2), (256, 2), (640, 2), (2400, 7)])
def test_lines_and_names_grow_with_the_picture(side, line):
    picture = drawn((side, side), [[side / 4, side / 4, side / 2, side / 2]], [0.9], [0])
    assert picture.shape[0] >= 480
    column = picture[picture.shape[0] // 8 * 3, :]
    left = (column[: picture.shape[1] // 3] == colour(0)).all(-1).sum()
    assert left == line


def test_what_is_below_the_threshold_is_not_drawn_and_odd_names_do_no_harm():
    assert (drawn((500, 500), [[50, 50, 200, 200]], [0.4], [0]) == 128).all()
    drawn((500, 500), [[50, 50, 200, 200]], [0.9], [0], classes=["\udc80\u732b", "x"])


def test_colours_of_the_first_twelve_differ_and_black_can_be_read_on_them():
    colours = np.array([colour(i) for i in range(12)]) / 255
    apart = np.abs(colours[:, None] - colours[None]).sum(-1) + 9 * np.eye(12)
    assert apart.min() > 0.15
    light = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    contrast = (light @ [0.2126, 0.7152, 0.0722] + 0.05) / 0.05  # WCAG, against black
    assert contrast.min() > 4.5
