"""What a training step costs, against a table: a saving that is lost or a copy that is new turns
this red, on any machine and under any load.

When a change is meant to cost more, or torch counts in another way, run `python
tests/engine/test_step_cost.py`, put what it prints into TABLE, and say why in the commit. What
became cheaper belongs into the table too, so that it cannot be lost again.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from costs import of_step

from openmae.engine.loop import Plan, State, training_step
from openmae.engine.optim import Schedule, adamw
from openmae.methods import MAE
from openmae.models import products
from openmae.models.attention import use

ROWS, PIXELS, PATCH = 4, 32, 4
WIDE, DEPTH, DECODER, DECODER_DEPTH = 48, 3, 32, 4
PREFIX, LENGTH = 1, (PIXELS // PATCH) ** 2
KEPT = LENGTH // 4

TABLE = {
    "matrix products": 140, "softmax": 7, "LayerNorm": 17, "GELU": 7, "row lookups": 6, "sorts": 1,
    "put together": 17, "copies": 46, "optimiser": 2, "bytes": 11_828_983, "moved bytes": 1_801_268,
}  # fmt: skip


class Whole(torch.nn.Module):
    """The published formulation as a method."""

    def __init__(self, model: MAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any, rand: Any) -> Any:
        return self.model(batch, rand, full=True)


def costs(full: bool = False, backend: str = "eager", change: Any = None) -> dict[str, int]:
    """Costs of one step of a small model, optimiser included."""
    torch.manual_seed(0)
    sizes = {"embed_dim": WIDE, "depth": DEPTH, "num_heads": 2}
    made = MAE("vit_tiny_patch16_224", PIXELS, PATCH, 3, sizes, DECODER, DECODER_DEPTH, 2).train()
    use(made, {"encoder": backend, "decoder.blocks": backend})
    if change is not None:
        change(made)
    method = Whole(made) if full else made
    schedule = Schedule(1e-3, 0.0, 0, 9)
    plan = Plan(9, ROWS, ROWS, schedule, 0, torch.device("cpu"), "fp32", 40)
    state = State(method, adamw(method, 1e-3, (0.9, 0.95), 0.05), None)
    batch = {"image": torch.zeros(ROWS, 3, PIXELS, PIXELS, dtype=torch.uint8)}
    training_step(state, batch, plan)  # the optimiser makes its state
    return of_step(lambda: training_step(state, batch, plan))


def arithmetic(full: bool) -> int:
    """FLOPs of a step: 2 for each multiplication, backward twice forward, but for the patch
    embedding, whose input has no gradient.
    """
    seen, tokens, hidden = PREFIX + KEPT, PREFIX + LENGTH, LENGTH - KEPT
    values = 3 * PATCH**2
    embed = ROWS * (LENGTH if full else KEPT) * values * WIDE
    encoder = DEPTH * ROWS * (12 * WIDE**2 * seen + 2 * WIDE * seen**2)
    into = ROWS * seen * WIDE * DECODER
    block = 12 * DECODER**2 * tokens + 2 * DECODER * tokens**2
    if full:
        decoder = DECODER_DEPTH * ROWS * block
    else:
        first = 3 * DECODER**2 * (ROWS * seen + LENGTH)
        first += ROWS * (9 * DECODER**2 * tokens + 2 * DECODER * tokens**2)
        last = 2 * DECODER**2 * tokens + 10 * DECODER**2 * hidden + 2 * DECODER * hidden * tokens
        decoder = first + (DECODER_DEPTH - 2) * ROWS * block + ROWS * last
    head = ROWS * (LENGTH if full else hidden) * DECODER * values
    return 2 * (2 * embed + 3 * (encoder + into + decoder + head))


@pytest.mark.parametrize("full", [False, True])
def test_arithmetic_is_what_the_account_says(full: bool) -> None:
    """To the last one, but for the convolution of the published formulation, whose backward pass
    torch counts by another formula.
    """
    found = costs(full)["FLOPs"]
    assert found == (pytest.approx(arithmetic(True), rel=5e-4) if full else arithmetic(False))


def test_nothing_costs_more_than_the_table() -> None:
    found = costs()
    more = {name: (found[name], most) for name, most in TABLE.items() if found[name] > most * 1.01}
    assert more == {}, "cost more than TABLE says (found, most); see the top of this file"


def test_the_table_is_not_loose() -> None:
    found = costs()
    loose = {name: (found[name], most) for name, most in TABLE.items() if found[name] < most * 0.7}
    assert loose == {}, "cost much less than TABLE says (found, most); see the top of this file"


def test_the_training_path_saves_what_it_should() -> None:
    ours, plain = costs(), costs(full=True)
    share = arithmetic(False) / arithmetic(True)
    assert share < 0.93
    assert ours["FLOPs"] / plain["FLOPs"] == pytest.approx(share, rel=5e-4)
    assert ours["bytes"] < 0.96 * plain["bytes"]  # gradients of weights are the same
    assert (ours["sorts"], plain["sorts"]) == (1, 2)  # the second one restores the order


def test_fused_attention_runs_once_for_each_block() -> None:
    found = costs(backend="flash")
    assert found["fused attention"] == DEPTH + DECODER_DEPTH
    assert found["softmax"] == 0


def test_products_by_onednn_are_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no copy more. What is inside of one, nobody counts: its FLOPs are not there."""
    monkeypatch.setattr(products, "LEAST", 0)
    found, usual = costs(change=lambda made: products.use(made, "onednn")), costs()
    assert found["FLOPs"] < 0.5 * usual["FLOPs"]
    assert found["bytes"] <= usual["bytes"]
    counted = TABLE.keys() - {"bytes"}
    assert {n: found[n] for n in counted} == {n: usual[n] for n in counted}


def _every_token(made: MAE) -> None:
    """The last block runs on all tokens."""
    last = made.decoder.blocks[-1]
    forward = last.forward
    last.forward = lambda x, *_, num_queries=None: forward(x)[:, -num_queries:]


def _copies(made: MAE) -> None:
    """A block copies its input."""
    made.decoder.blocks[1].register_forward_pre_hook(lambda _, args: (args[0].clone(), *args[1:]))


@pytest.mark.parametrize(
    ("worse", "names"), [(_every_token, {"bytes"}), (_copies, {"copies", "moved bytes"})]
)
def test_a_lost_saving_and_a_new_copy_are_seen(worse: Any, names: set[str]) -> None:
    found = costs(change=worse)
    assert names <= {name for name, most in TABLE.items() if found[name] > most * 1.01}
    if worse is _every_token:
        assert found["FLOPs"] > arithmetic(False)


if __name__ == "__main__":
    print({name: value for name, value in costs().items() if name in TABLE})
