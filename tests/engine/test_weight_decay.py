"""A weight decay that changes over the run: the steps, the groups, continuation, and no change
where none is asked for.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from parts import ROWS, plan, state

from openmae.engine.loop import State, training_step
from openmae.engine.optim import Schedule, adamw, param_groups, set_rates

TOTAL = 12


def batch(step: int) -> dict[str, Any]:
    made = torch.Generator().manual_seed(step)
    return {"image": torch.randn(ROWS, 4, generator=made), "path": [""] * ROWS}


def steps(made: State, first: int, last: int, decay: Schedule | None) -> list[list[float]]:
    """What the groups were decayed with at each step."""
    told = plan(total=TOTAL, decay=decay)
    found = []
    for step in range(first, last):
        training_step(made, batch(step), told)
        found.append([g["weight_decay"] for g in made.optimizer.param_groups])
    return found


def test_half_a_cosine_over_the_run():
    """As published: end + (start - end) (1 + cos(pi i / steps)) / 2 at step i."""
    at = np.arange(TOTAL)
    wanted = 0.4 + 0.5 * (0.04 - 0.4) * (1 + np.cos(np.pi * at / TOTAL))
    found = steps(state(), 0, TOTAL, Schedule(0.04, 0.4, 0, TOTAL))
    assert [decayed for decayed, _ in found] == pytest.approx(wanted.tolist(), rel=1e-12)
    assert all(exempt == 0 for _, exempt in found)


def test_each_group_is_decayed_by_what_the_step_says():
    """A decoupled decay: p (1 - lr wd), before a step whose gradient is zero."""
    layer = torch.nn.Linear(3, 2)
    optimizer = adamw(layer, 0.1, (0.9, 0.95), 0.0)
    before = copy.deepcopy(layer)
    set_rates(optimizer, 6, Schedule(0.1, 0.1, 0, TOTAL), Schedule(0.0, 0.4, 0, TOTAL))
    layer.weight.grad, layer.bias.grad = torch.zeros(2, 3), torch.zeros(2)
    optimizer.step()
    assert torch.allclose(layer.weight, before.weight * (1 - 0.1 * 0.2), rtol=1e-6)
    assert torch.equal(layer.bias, before.bias)


def test_groups_of_other_tasks_have_none():
    """Those that are not marked keep theirs, and their share of the rate."""
    layer = torch.nn.Linear(3, 2)
    groups = [{"params": list(layer.named_parameters()), "weight_decay": 0.3, "lr_scale": 0.5}]
    optimizer = adamw(layer, 0.1, (0.9, 0.95), 0.0, groups)
    set_rates(optimizer, 0, Schedule(0.2, 0.0, 0, 9), Schedule(0.1, 0.4, 0, 9))
    assert (optimizer.param_groups[0]["weight_decay"], optimizer.param_groups[0]["lr"]) == (
        0.3,
        0.1,
    )


def weights(made: State) -> list[torch.Tensor]:
    return [p.detach().clone() for p in made.method.parameters()]


def test_going_on_is_exact():
    decay = Schedule(0.04, 0.4, 0, TOTAL)
    whole, half = state(), state()
    steps(whole, 0, TOTAL, decay)
    steps(half, 0, 5, decay)
    again = state(seed=1)
    again.method.load_state_dict(half.method.state_dict())
    for old, new in zip(half.method.parameters(), again.method.parameters(), strict=True):
        again.optimizer.state[new] = copy.deepcopy(half.optimizer.state[old])
    again.step = 5
    steps(again, 5, TOTAL, decay)
    pairs = zip(weights(whole), weights(again), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_by_default_it_stays():
    """To the bit what a plain AdamW of fixed decay makes; and a schedule makes something else."""
    found, moved = state(), state()
    assert steps(found, 0, TOTAL, None) == [[0.05, 0.0]] * TOTAL
    flat = state()
    steps(flat, 0, TOTAL, Schedule(0.05, 0.05, 0, TOTAL))
    steps(moved, 0, TOTAL, Schedule(0.05, 0.4, 0, TOTAL))
    assert all(torch.equal(a, b) for a, b in zip(weights(found), weights(flat), strict=True))
    assert not torch.equal(found.method.linear.weight, moved.method.linear.weight)
    assert [g.get("decays", False) for g in param_groups(found.method, 0.05)] == [True, False]
    assert math.isclose(
        found.optimizer.param_groups[0]["lr"], plan(total=TOTAL).schedule(TOTAL - 1)
    )
