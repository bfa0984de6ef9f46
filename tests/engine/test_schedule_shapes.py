"""The shapes of the learning rate beside the cosine."""

from __future__ import annotations

import pytest

from openmae.engine.optim import Schedule


def test_the_steps_of_vitdet():
    """A tenth at 163,889 and again at 177,546 of 184,375 iterations."""
    schedule = Schedule(1.0, 0.5, 250, 184_375, "step")
    assert schedule(0) == 0
    assert schedule(125) == 0.5
    assert schedule(250) == schedule(163_880) == 1
    assert schedule(163_889) == schedule(177_540) == pytest.approx(0.1)
    assert schedule(177_547) == schedule(184_374) == pytest.approx(0.01)


def test_poly_is_a_straight_line():
    schedule = Schedule(1.0, 0.2, 10, 110, "poly")
    assert [schedule(s) for s in (5, 10, 60, 110)] == pytest.approx([0.5, 1.0, 0.6, 0.2])
