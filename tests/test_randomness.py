"""The one stream of randomness: a pure function of (seed, purpose, position), frozen for ever."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from openmae.randomness import Rand, permutation, torch_seed, uniforms, words


def rand(first: int = 0, rows: int = 8, seed: int = 0, step: int = 0) -> Rand:
    return Rand(seed=seed, step=step, progress=0.0, first=first, rows=rows)


# Frozen: a change of any of these numbers changes what every recorded run saw.


def test_frozen_words():
    assert words(0, "mask", 0, 2, 3).tolist() == [
        [9059097167796708808, 14383930509764884501, 12263497257929988950],
        [13335487593426874947, 8419771399717720734, 5068026182414734111],
    ]
    assert words(7, "crop", 123456789, 1, 5).tolist() == [
        [
            1046986798489631018,
            9508604930619799876,
            9975496410457084417,
            7612190027772442679,
            2241002212243760096,
        ]
    ]


def test_frozen_uniforms_permutation_and_seed():
    assert uniforms(0, "mask", 0, 3)[0].tolist() == [
        0.4910946415041235,
        0.7797544353783809,
        0.664805518465886,
    ]
    assert permutation(0, 0, 10).tolist() == [1, 0, 4, 9, 8, 7, 3, 2, 5, 6]
    assert permutation(1, 3, 10).tolist() == [3, 7, 9, 0, 8, 4, 1, 6, 2, 5]
    assert torch_seed(0, "dropout", 5) == 294393281942201022


def test_frozen_rand():
    noise = rand(rows=2).uniform("mask", (2, 3))
    want = [[0.49109464, 0.77975443, 0.66480552], [0.72291821, 0.45643673, 0.27473825]]
    # 2e-7: two roundings to float32 are allowed (53 or 24 bits), another stream is not.
    torch.testing.assert_close(noise, torch.tensor(want), rtol=0, atol=2e-7)


# Rows belong to positions, not to batches.


@pytest.mark.parametrize("width", [1, 3, 4, 24, 197])
def test_row_depends_on_position_only(width):
    whole = uniforms(3, "mask", 100, width, rows=12)
    assert np.array_equal(whole[5:], uniforms(3, "mask", 105, width, rows=7))
    for row in range(12):
        assert np.array_equal(whole[row], uniforms(3, "mask", 100 + row, width)[0])


@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 64, 4)])
def test_slice_is_the_rows_of_the_batch(shape):
    whole = rand(first=30, rows=6).uniform("mask", shape)
    parts = [(0, 1), (1, 4), (4, 6)]
    pieces = [
        rand(first=30, rows=6).slice(a, b).uniform("mask", (b - a, *shape[1:])) for a, b in parts
    ]
    assert torch.equal(torch.cat(pieces), whole)
    assert len(whole.unique()) == whole.numel()


def test_slice_of_slice_keeps_step_and_progress():
    part = Rand(seed=5, step=9, progress=0.25, first=72, rows=8).slice(2, 8).slice(1, 3)
    assert part == Rand(seed=5, step=9, progress=0.25, first=75, rows=2)


def test_overlapping_batches_agree():
    a = rand(first=0, rows=8).uniform("mask", (8, 10))
    b = rand(first=5, rows=8).uniform("mask", (8, 10))
    assert torch.equal(a[5:], b[:3])
    assert not torch.equal(a[:3], b[:3])


def test_step_alone_changes_nothing():
    same = rand(step=7).uniform("mask", (8, 4))
    assert torch.equal(same, rand(step=0).uniform("mask", (8, 4)))


def test_calls_have_no_state():
    source = rand()
    first = source.uniform("mask", (8, 4))
    source.uniform("crop", (8, 9))
    torch.rand(3)
    np.random.random(3)
    assert torch.equal(source.uniform("mask", (8, 4)), first)


def test_far_positions():
    far = 2**40 + 3  # a trillion images into a run
    assert np.array_equal(uniforms(0, "mask", far, 7, 3)[2], uniforms(0, "mask", far + 2, 7)[0])
    assert not np.array_equal(uniforms(0, "mask", far, 7), uniforms(0, "mask", 3, 7))


# Different seeds, purposes and positions are different streams.


def test_seeds_and_purposes_differ():
    streams = [
        uniforms(seed, purpose, 0, 1000)[0]
        for seed in (0, 1, 2, 10)
        for purpose in ("mask", "mask-blocks", "crop", "0/mask")
    ]
    for i, a in enumerate(streams):
        for b in streams[:i]:
            assert not np.isin(a, b).any()
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.15  # about 4.7 standard errors


def test_no_number_repeats_within_a_stream():
    assert len(np.unique(words(0, "mask", 0, 500, 197))) == 500 * 197


def test_torch_seed_fits_torch():
    seeds = {torch_seed(0, "dropout", position) for position in range(1000)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.Generator().manual_seed(max(seeds))


# Permutations.


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_permutation_is_a_permutation(n):
    order = permutation(3, 5, n)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(n))


def test_permutation_depends_on_seed_and_epoch():
    orders = {tuple(permutation(seed, epoch, 50)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_permutations_are_fair():
    first = np.array([permutation(0, epoch, 5)[0] for epoch in range(2000)])
    counts = np.bincount(first, minlength=5)
    assert (abs(counts - 400) < 90).all()  # 5 standard errors of a fair draw


# Uniformity.


def test_uniform_moments_and_distribution():
    n = 200_000
    x = np.sort(uniforms(0, "mask", 0, 200, rows=n // 200).ravel())
    assert x.min() >= 0
    assert x.max() < 1
    assert abs(x.mean() - 0.5) < 5 * (1 / 12 / n) ** 0.5
    assert abs(x.var() - 1 / 12) < 5 * (1 / 180 / n) ** 0.5
    gap = np.abs(x - (np.arange(n) + 0.5) / n).max()  # Kolmogorov-Smirnov
    assert gap < 1.95 / n**0.5  # p = 0.001


def test_neighbours_are_uncorrelated():
    x = uniforms(0, "mask", 0, 100, rows=1000)
    along = np.corrcoef(x[:, :-1].ravel(), x[:, 1:].ravel())[0, 1]
    across = np.corrcoef(x[:-1].ravel(), x[1:].ravel())[0, 1]
    assert max(abs(along), abs(across)) < 5 / 99_000**0.5


@pytest.mark.parametrize(("seed", "position"), [(0, 10100560), (1, 4111488), (2, 1050050)])
def test_float32_noise_stays_below_one(seed, position):
    # At these positions a draw is so close to 1 that rounding it to float32 would give 1 itself.
    noise = rand(first=position, rows=1, seed=seed).uniform("mask", (1, 4))
    assert uniforms(seed, "mask", position, 4).max() > 1 - 2**-25
    assert 0.999 < noise.max() < 1


# The shape.


def test_uniform_is_float32_of_the_shape():
    noise = rand(rows=3).uniform("mask", (3, 4, 5))
    assert noise.dtype == torch.float32
    assert noise.shape == (3, 4, 5)
    assert noise.device.type == "cpu"


def test_uniform_refuses_another_batch():
    with pytest.raises(ValueError, match="not the 8 rows"):
        rand(rows=8).uniform("mask", (7, 4))
