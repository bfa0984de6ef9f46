"""Images that grow during a run: their size is a function of the step, and their draws stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openmae.data.growing import GrowingTransform
from openmae.data.loader import TrainBatches, loader
from openmae.data.sources import open_source
from openmae.data.transforms import TrainTransform

FULL = TrainTransform((32, 48), seed=3)
STAGES = [(0, (16, 24)), (2, (24, 32)), (5, (32, 48))]
BATCH = 4


def growing() -> GrowingTransform:
    return GrowingTransform(FULL, STAGES, BATCH)


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def test_the_size_is_a_function_of_the_step():
    grows, sizes = growing(), []
    for step in range(7):
        draws = grows.draws(step * BATCH, BATCH)
        shapes = {tuple(grows(picture(), row).shape[1:]) for row in draws}
        assert len(shapes) == 1
        sizes += shapes
    assert sizes == [(16, 24)] * 2 + [(24, 32)] * 3 + [(32, 48)] * 2


def test_a_draw_belongs_to_its_position_alone():
    grows = growing()
    whole = grows.draws(0, 40)
    for start in (0, 7, 8, 21):
        assert (grows.draws(start, 5) == whole[start : start + 5]).all()
    assert (whole[:, :-1] == FULL.draws(0, 40)).all()


def test_at_full_size_it_is_the_plain_transform():
    grows = growing()
    mine, plain = grows.draws(5 * BATCH, BATCH), FULL.draws(5 * BATCH, BATCH)
    for own, other in zip(mine, plain, strict=True):
        assert torch.equal(grows(picture(), own), FULL(picture(), other))


def test_a_small_image_is_the_same_crop():
    """Of a smooth ramp: the mean of a crop and its sides' difference hardly depend on the size."""
    ramp = np.broadcast_to(np.linspace(0, 255, 80), (60, 80))[..., None].astype(np.uint8)
    row = growing().draws(0, 1)[0]
    small = growing()(ramp, row).float()
    large = FULL(ramp, row[:-1]).float()
    assert small.shape[1:] == (16, 24)
    assert small.mean().item() == pytest.approx(large.mean().item(), abs=1)
    edges = [(x[..., -1].mean() - x[..., 0].mean()).item() for x in (small, large)]
    assert edges[0] == pytest.approx(edges[1], abs=8)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_each_step_its_size(workers):
    batches = TrainBatches(open_source("digits"), growing(), 0, BATCH)
    shapes = [tuple(b["image"].shape[2:]) for b in loader(batches, range(1, 6), workers)]
    assert shapes == [(16, 24), (24, 32), (24, 32), (24, 32), (32, 48)]


def test_a_share_too_small_for_a_step_is_left_out():
    grows = GrowingTransform(FULL, [(0, (16, 24)), (0, (24, 32)), (1, (32, 48))], BATCH)
    assert [tuple(grows(picture(), grows.draws(p, 1)[0]).shape[1:]) for p in (0, 4)] == [
        (24, 32),
        (32, 48),
    ]
