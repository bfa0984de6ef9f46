"""Windows, data sheets, the search for a batch, the bottleneck: with clocks that the test sets."""

from __future__ import annotations

import pytest
import torch

from openmae.engine import measure
from openmae.engine.measure import Trial, best, bottleneck, data_sheet, search

GPUS = {
    ("NVIDIA H200", "bf16"): 989e12,
    ("NVIDIA H200 NVL", "bf16"): 835e12,
    ("NVIDIA H100 80GB HBM3", "bf16"): 989e12,
    ("NVIDIA H100 PCIe", "bf16"): 756e12,
    ("NVIDIA H100 NVL", "bf16"): 835e12,
    ("NVIDIA A100-SXM4-40GB", "bf16"): 312e12,
    ("NVIDIA A100 80GB PCIe", "fp32"): 19.5e12,
    ("NVIDIA L40S", "bf16"): 362e12,
    ("NVIDIA GeForce RTX 4090", "bf16"): 165.2e12,
    ("NVIDIA GeForce RTX 3090", "bf16"): 71e12,
    ("Tesla V100-SXM2-16GB", "bf16"): None,
    ("Tesla V100-SXM2-16GB", "fp32"): 15.7e12,
    ("Tesla T4", "fp32"): 8.1e12,
    ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16"): None,
    ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16"): None,
    ("NVIDIA GeForce RTX 4090 D", "bf16"): None,
    ("NVIDIA GeForce RTX 3090 Ti", "bf16"): None,
    ("NVIDIA GeForce GTX 1080", "fp32"): None,
    ("", "fp32"): None,
}


@pytest.mark.parametrize(("name", "precision"), GPUS)
def test_data_sheets(name, precision):
    assert data_sheet(name, precision) == GPUS[name, precision]


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    return now


def test_windows_do_not_count_the_first_step(clock):
    calls = []

    def step():
        calls.append(None)
        clock[0] += 100.0 if len(calls) == 1 else 2.0

    found = measure.windows(step, torch.device("cpu"), 3, 4, seconds=1000)
    assert found == [2.0, 2.0, 2.0]
    assert len(calls) == 13


def test_windows_end_in_time_but_never_without_one(clock):
    def step():
        clock[0] += 2.0

    assert len(measure.windows(step, torch.device("cpu"), 9, 2, seconds=10)) == 3
    assert len(measure.windows(step, torch.device("cpu"), 9, 2, seconds=0)) == 1


def test_the_matmul(clock, monkeypatch):
    real = torch.mm

    def mm(*args, **more):
        clock[0] += next(times)
        return real(*args, **more)

    times = iter([9.0, 0.5, 0.25] + [0.5] * 50)
    monkeypatch.setattr(measure, "_CPU_SIZE", 512)
    monkeypatch.setattr(torch, "mm", mm)
    state = torch.get_rng_state()
    found = measure.matmul_rate(torch.device("cpu"), "fp32", seconds=2.0)
    assert found == 2 * 512**3 / 0.25  # the best window: others share the machine
    assert torch.equal(torch.get_rng_state(), state)


def _search(rates, room=None, longest=100.0, most=4096, each=10):
    """Trials of a machine with these images a second, by batch; beyond them, out of memory."""

    def one(batch):
        return Trial(batch, batch / rates[batch], 1000 + each * batch) if batch in rates else None

    return list(search(8, one, most, longest, room))


def test_a_search_ends_out_of_memory():
    found = _search({8: 100.0, 16: 150.0, 32: 200.0})
    assert [t.batch for t in found] == [8, 16, 32]
    assert best(found).batch == 32


def test_a_search_ends_without_gain():
    found = _search({8: 100.0, 16: 150.0, 32: 152.0, 64: 300.0})
    assert [t.batch for t in found] == [8, 16, 32]
    assert best(found).batch == 16
    assert best(_search({8: 100.0, 16: 60.0})).batch == 8


def test_a_search_stays_below_the_memory_it_may_take():
    rates = {8 * 2**i: 100.0 * 2**i for i in range(6)}
    assert [t.batch for t in _search(rates, room=1000 + 10 * 64)] == [8, 16, 32, 64]
    assert [t.batch for t in _search(rates, room=1000 + 10 * 63)] == [8, 16, 32]


def test_a_search_stops_where_steps_get_long_or_batches_large():
    rates = {8 * 2**i: 100.0 * 1.1**i for i in range(10)}
    assert [t.batch for t in _search(rates, longest=0.5)] == [8, 16, 32]
    assert [t.batch for t in _search(rates, most=32)] == [8, 16, 32]
    assert _search({}) == []


def test_the_bottleneck():
    assert bottleneck(100.0, 250.0) == ("step", 0.0)
    assert bottleneck(100.0, 100.0) == ("step", 0.0)
    name, waiting = bottleneck(100.0, 25.0)
    assert (name, waiting) == ("loader", 0.75)
