"""Averaged weights: the formula, a step that is skipped, and the exchange with the live ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from openmae.engine.ema import EMA, averaged


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()


@torch.no_grad()
def move(method: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for tensor in method.state_dict().values():
        if tensor.is_floating_point():
            tensor += torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator)


def kept(ema: EMA) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in ema.tensors().items()}


RUNS, SKIPPED = torch.zeros(()), torch.ones(())


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_formula(decay):
    method = network()
    ema = EMA(method, decay)
    want = {n: t.clone() for n, t in method.state_dict().items() if t.is_floating_point()}
    for n in range(20):
        move(method, n)
        ema.update(RUNS)
        beta = min(decay, (1 + n) / (10 + n))
        live = method.state_dict()
        want = {name: beta * want[name] + (1 - beta) * live[name] for name in want}
    found = kept(ema)
    assert found.pop("count").item() == 20
    assert found.keys() == want.keys()
    for name, tensor in found.items():
        # the decay is a float32 number on the device, here and in the sum
        torch.testing.assert_close(tensor, want[name], rtol=1e-6, atol=1e-6)
        assert not torch.equal(tensor, method.state_dict()[name])


def test_starts_as_the_weights():
    method = network()
    ema = EMA(method, 0.99)
    start = {n: t.clone() for n, t in method.state_dict().items()}
    move(method, 0)
    found = kept(ema)
    assert found.pop("count") == 0
    assert all(torch.equal(t, start[n]) for n, t in found.items())
    assert not torch.equal(found["0.weight"], method.state_dict()["0.weight"])


def test_buffers_are_averaged_and_counters_left_alone():
    method = network()
    ema = EMA(method, 0.99)
    assert "1.running_mean" in ema.tensors()
    assert "1.num_batches_tracked" not in ema.tensors()


def test_a_skipped_step_leaves_average_and_counter():
    method = network()
    ema = EMA(method, 0.99)
    for step in range(3):
        move(method, step)
        ema.update(RUNS)
    before = kept(ema)
    move(method, 9)
    ema.update(SKIPPED)
    after = kept(ema)
    assert all(torch.equal(after[n], before[n]) for n in before)
    ema.update(RUNS)
    later = kept(ema)
    assert later["count"] == 4
    assert not any(torch.equal(later[n], before[n]) for n in before)


def test_swap_exchanges_and_twice_restores_every_bit():
    method = network()
    ema = EMA(method, 0.9)
    for step in range(3):
        move(method, step)
        ema.update(RUNS)
    live = {n: t.clone() for n, t in method.state_dict().items()}
    average = kept(ema)
    ema.swap()
    assert all(torch.equal(t, live[n]) for n, t in kept(ema).items() if n != "count")
    swapped = method.state_dict()
    assert all(torch.equal(swapped[n], average[n]) for n in average if n != "count")
    assert not torch.equal(swapped["0.weight"], live["0.weight"])
    ema.swap()
    assert all(torch.equal(t, live[n]) for n, t in method.state_dict().items())
    assert all(torch.equal(t, average[n]) for n, t in kept(ema).items())


def test_averages_are_put_back_after_an_error():
    method = nn.Linear(3, 2)
    average = EMA(method, 0.5)
    before = method.weight.detach().clone()
    with torch.no_grad():
        method.weight += 1
    live = method.weight.detach().clone()
    seen = []

    def measure() -> None:
        with averaged(average):
            seen.append(method.weight.detach().clone())
            raise ValueError("while measuring")

    with pytest.raises(ValueError, match="while measuring"):
        measure()
    assert torch.equal(seen[0], before)
    assert torch.equal(method.weight, live)
    assert torch.equal(average.tensors()["weight"], before)
    with averaged(None):
        assert torch.equal(method.weight, live)
