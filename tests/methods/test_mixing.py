"""Mixup and CutMix: one mixture a step, neighbours are pairs, and the rest is timm's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup
from torch import Tensor

from openmae.errors import UsageError
from openmae.methods.mixing import Mixing
from openmae.randomness import Rand

ROWS = 8


def rand(step: int = 3, rows: int = ROWS) -> Rand:
    return Rand(0, step, 0.5, step * rows, rows)


def flat(rows: int = ROWS, side: int = 8) -> Tensor:
    """Image i has the value i everywhere."""
    return torch.arange(float(rows)).view(rows, 1, 1, 1).expand(rows, 3, side, side).contiguous()


def noisy(rows: int = ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(rows, 3, 8, 8, dtype=torch.float64, generator=generator)
    return images, torch.arange(rows) % 4


# Pairs.


@pytest.mark.parametrize("step", range(4))
def test_a_step_has_one_coefficient_and_neighbours_are_pairs(step):
    mixed, targets = Mixing(ROWS, mixup=0.8)(flat().double(), torch.arange(ROWS), rand(step))
    share = 1 - float(mixed[0, 0, 0, 0])  # of itself: row 0 is 0, its partner 1
    assert 0 < share < 1
    for low in range(0, ROWS, 2):
        high = low + 1
        assert mixed[low].unique().item() == pytest.approx(share * low + (1 - share) * high)
        assert mixed[high].unique().item() == pytest.approx(share * high + (1 - share) * low)
        for own, other in ((low, high), (high, low)):
            assert targets[own].nonzero().flatten().tolist() == [low, high]
            assert float(targets[own, own]) == pytest.approx(share, abs=1e-6)
            assert float(targets[own, other]) == pytest.approx(1 - share, abs=1e-6)


def test_another_step_has_another_coefficient():
    shares = {
        round(float(Mixing(ROWS, mixup=0.8)(flat(), torch.arange(ROWS), rand(s))[0][0].mean()), 6)
        for s in range(20)
    }
    assert len(shares) == 20


@pytest.mark.parametrize("size", [2, 4, 6])
@pytest.mark.parametrize("step", range(4))
def test_micro_batches_are_mixed_as_the_whole(step, size):
    (images, labels), mixing = noisy(12), Mixing(4, 0.1, 0.8, 1.0)
    whole = mixing(images, labels, rand(step, 12))
    parts = [
        mixing(images[i : i + size], labels[i : i + size], rand(step, 12).slice(i, i + size))
        for i in range(0, 12, size)
    ]
    assert torch.equal(torch.cat([p[0] for p in parts]), whole[0])
    assert torch.equal(torch.cat([p[1] for p in parts]), whole[1])


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_timms_but_for_the_pairs(step, smoothing):
    """timm pairs row i with row B - 1 - i."""
    images, labels = noisy()
    order = [0, 2, 4, 6, 7, 5, 3, 1]
    state = np.random.get_state()
    np.random.seed(rand(step).seed_of("mixup") % 2**32)
    theirs = Mixup(0.8, 1.0, None, 1.0, 0.5, "batch", True, smoothing, 4)
    want, targets = theirs(images[order], labels[order])
    np.random.set_state(state)
    mixed, found = Mixing(4, smoothing, 0.8, 1.0)(images, labels, rand(step))
    assert torch.equal(mixed[order], want)
    assert torch.equal(found[order], targets)
    assert not torch.equal(mixed, images)


# CutMix.


def test_cutmix_pastes_the_same_box_of_the_neighbour():
    boxes = set()
    for step in range(8):
        images, _ = noisy()
        mixed, targets = Mixing(ROWS, cutmix=1.0)(images, torch.arange(ROWS), rand(step))
        swapped = images.view(4, 2, 3, 8, 8).flip(1).view(8, 3, 8, 8)
        pasted = (mixed == swapped).all(1)
        assert torch.equal(torch.where(pasted[:, None], swapped, images), mixed)
        assert (pasted == pasted[0]).all()  # one box for the whole batch
        rows, columns = pasted[0].any(1).sum(), pasted[0].any(0).sum()
        assert pasted[0].sum() == rows * columns  # and it is a box
        share = float(pasted[0].float().mean())  # what is really pasted, not what was drawn
        assert float(targets[0, 1]) == pytest.approx(share, abs=1e-6)
        assert float(targets[0, 0]) == pytest.approx(1 - share, abs=1e-6)
        boxes.add((int(rows), int(columns)))
    assert len(boxes) > 3


def test_half_of_the_steps_are_mixup_and_half_cutmix():
    mixing, kinds = Mixing(ROWS, 0.0, 0.8, 1.0), []
    for step in range(400):
        mixed, _ = mixing(flat(), torch.arange(ROWS), rand(step))
        kinds.append(bool(((mixed[0] == 0) | (mixed[0] == 1)).all()))
    assert sum(kinds) == pytest.approx(200, abs=40)  # four deviations


def test_a_share_of_the_batches_is_mixed():
    mixing, unmixed = Mixing(ROWS, 0.1, 0.8, 0.0, prob=0.3), 0
    for step in range(400):
        mixed, targets = mixing(flat(), torch.arange(ROWS), rand(step))
        if torch.equal(mixed, flat()):
            unmixed += 1
            torch.testing.assert_close(targets, mixing.targets(torch.arange(ROWS)))
    assert unmixed == pytest.approx(280, abs=37)  # four deviations


# Targets.


def test_smoothed_targets_by_hand():
    found = Mixing(4, smoothing=0.1).targets(torch.tensor([2, 0]))
    want = [[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]]
    torch.testing.assert_close(found, torch.tensor(want))


def test_mixed_targets_by_hand():
    """Both labels are smoothed, then mixed; two of one class are that class."""
    mixed, targets = Mixing(4, 0.1, 0.8)(flat(4), torch.tensor([0, 1, 3, 3]), rand(rows=4))
    share = 1 - float(mixed[0, 0, 0, 0])
    want = [0.925 * share + 0.025 * (1 - share), 0.025 * share + 0.925 * (1 - share), 0.025, 0.025]
    torch.testing.assert_close(targets[0], torch.tensor(want))
    torch.testing.assert_close(targets[2:], torch.tensor([[0.025, 0.025, 0.025, 0.925]] * 2))


def test_targets_of_several_labels_are_the_labels():
    labels = torch.tensor([[1, 0, 1], [0, 0, 0]])
    assert torch.equal(Mixing(3, multi_label=True).targets(labels), labels.float())


# State, and what is refused.


def test_inputs_and_global_generators_are_untouched():
    images, labels = noisy()
    before, state = images.clone(), torch.get_rng_state()
    np.random.seed(5)
    want = np.random.rand(3)
    np.random.seed(5)
    Mixing(4, 0.1, 0.8, 1.0)(images, labels, rand())
    assert np.array_equal(np.random.rand(3), want)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("given", "on"),
    [
        ({}, False),
        ({"mixup": 0.8}, True),
        ({"cutmix": 1.0}, True),
        ({"mixup": 0.8, "cutmix": 1.0, "prob": 0.0}, False),
        ({"smoothing": 0.1}, False),
    ],
)
def test_on(given, on):
    assert Mixing(4, **given).on is on


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_an_odd_number_cannot_be_paired(rows):
    labels = torch.zeros(rows, dtype=torch.long)
    with pytest.raises(UsageError, match=f"even number of images at a time, not {rows}"):
        Mixing(4, mixup=0.8)(flat(rows), labels, rand(rows=rows))


def test_several_labels_cannot_be_mixed():
    with pytest.raises(UsageError, match="--mixup 0 --cutmix 0"):
        Mixing(4, mixup=0.8, multi_label=True)
