"""The palette of classes: far apart for everyone, and with words that can be read on it."""

from __future__ import annotations

import numpy as np

from openmae.report.classcolours import PALETTE, class_colours, ink

EYES = {  # Machado et al. 2009, severity 1, on linear RGB
    "all cones": np.eye(3),
    "no long": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                         [-0.003882, -0.048116, 1.051998]]),
    "no middle": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                           [-0.011820, 0.042940, 0.968881]]),
    "no short": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                          [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip


def linear(colours) -> np.ndarray:
    part = np.asarray(colours) / 255
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    x, y, z = (light @ XYZ.T / [0.95047, 1, 1.08883]).T
    f = [np.where(v > 0.008856, np.cbrt(v), 7.787 * v + 16 / 116) for v in (x, y, z)]
    return np.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])], axis=-1)


def least(eye: str, count: int) -> float:
    """The least distance (CIE 1976) of two of the first colours, as an eye sees them."""
    seen = lab(np.clip(linear(PALETTE[:count]) @ EYES[eye].T, 0, 1))
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    return float(apart[~np.eye(count, dtype=bool)].min())


def test_colours_differ_for_every_eye():
    """2.3 is what can just be told apart."""
    for eye in EYES:
        assert least(eye, 7) > 9
        assert least(eye, 24) > 9
        assert least(eye, 80) > 4
        assert least(eye, 120) > 2.3


def test_no_two_are_the_same_and_the_table_begins_again():
    assert len(set(PALETTE)) == len(PALETTE) >= 150
    many = class_colours(400)
    assert (many[: len(PALETTE)] == many[len(PALETTE) : 2 * len(PALETTE)]).all()
    assert class_colours(2, ((1, 2, 3), (4, 5, 6))).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_words_can_be_read_on_each():
    for colour, light in zip(PALETTE, linear(PALETTE) @ XYZ[1], strict=True):
        contrast = (light + 0.05) / 0.05 if ink(colour) == "black" else 1.05 / (light + 0.05)
        assert contrast > 4.5
