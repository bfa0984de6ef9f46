"""Compiled blocks are compiled once: one graph for each form of a block, whatever comes later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from parts import run_folder
from torch import nn
from torch._dynamo.utils import counters

from openmae.engine import checkpoint
from openmae.engine.loop import Plan, State, train
from openmae.engine.optim import Schedule, adamw
from openmae.engine.parallel import parallelize, uncompiled
from openmae.engine.signals import StopRequest
from openmae.methods import MAE, Classifier
from openmae.models.attention import use
from openmae.randomness import Rand

ROWS, STEPS = 6, 20
SIZES = {"embed_dim": 16, "depth": 3, "num_heads": 2}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How often each graph ran; compiled in Python, which is quick."""
    runs: list[int] = []
    lower = torch._dynamo.lookup_backend("eager")

    def backend(graph: Any, inputs: Any) -> Any:
        compiled, number = lower(graph, inputs), len(runs)
        runs.append(0)

        def run(*args: Any) -> Any:
            runs[number] += 1
            return compiled(*args)

        return run

    real = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda m, **kw: real(m, backend=backend, **kw))
    limit = torch._dynamo.config.recompile_limit
    torch.compiler.reset()
    counters.clear()
    yield runs
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = limit


def mae(depth: int, learned: bool = False) -> MAE:
    torch.manual_seed(0)
    made = MAE("vit_tiny_patch16_224", 16, 4, 1, SIZES, 16, depth, 2)
    made.encoder.vit.pos_embed.requires_grad_(learned)
    return made.train()


def batches(steps: int = STEPS) -> Iterator[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        image = torch.randint(0, 256, (ROWS, 1, 16, 16), dtype=torch.uint8, generator=generator)
        label = torch.arange(ROWS) % 2
        yield {"image": image, "label": label, "path": [f"{step}"] * ROWS, "bad": []}


def run(made: nn.Module, folder: Path, evaluate: Any = None, monkeypatch: Any = None) -> list[Any]:
    """Twenty steps of three micro-batches, evaluated on the way; the rows of metrics."""
    plan = Plan(
        STEPS, ROWS, 2, Schedule(1e-3, 0.0, 2, STEPS), 0, torch.device("cpu"), "fp32", 40,
        log_every=5, record={},
    )  # fmt: skip
    state = State(made, adamw(made, 1e-3, (0.9, 0.95), 0.05), None)
    monkeypatch.setattr(checkpoint, "save", lambda *_: None)
    with StopRequest() as stop:
        points = frozenset({5, 10, 20})
        train(state, batches(), plan, run_folder(folder), stop, evaluate, points)
    return [p.detach().clone() for p in made.parameters()]


def evaluation(state: State) -> dict[str, float]:
    """Held-out images in batches of 4, 4 and 1, and features of all tokens, as tasks do it."""
    made = state.method.eval()
    with torch.no_grad():
        for rows in (4, 4, 1):
            images = torch.rand(rows, 1, 16, 16)
            made(images, Rand(1, 0, 0.0, 0, rows))
            made.encoder(images)
    made.train()
    return {"val_loss": 0.0}


@pytest.mark.parametrize(("depth", "forms"), [(1, 1), (2, 2), (5, 3)])
def test_one_graph_for_each_form_of_a_block(
    graphs: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int, forms: int
) -> None:
    """Encoder, and the decoder's first, middle and last block: over 60 micro-batches and three
    evaluations with a short last batch. No break in a graph.
    """
    want = run(mae(depth), tmp_path / "plain", evaluation, monkeypatch)
    assert graphs == []
    made = parallelize(mae(depth), True)
    got = run(made, tmp_path / "compiled", evaluation, monkeypatch)
    calls = STEPS * ROWS // 2
    encoder, decoder = 3 * calls, [calls] * min(forms, 2) + [(depth - 2) * calls] * (forms == 3)
    assert sorted(graphs) == sorted([encoder, *decoder])
    assert sum(counters["graph_break"].values()) == 0
    for ours, plain in zip(got, want, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_blocks_with_another_attention(
    graphs: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = mae(3)
    use(made, {"encoder": "eager", "decoder.blocks": "flash", "decoder.blocks.2": "math"})
    run(parallelize(made, True), tmp_path, evaluation, monkeypatch)
    assert len(graphs) == 4
    assert sum(counters["graph_break"].values()) == 0


def test_blocks_of_a_classifier(
    graphs: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block has its own rate of drop path, a number that is part of its graph: more graphs
    than torch's limit of eight, after which blocks would silently not be compiled.
    """
    torch.manual_seed(0)
    made = Classifier(
        encoder="vit_tiny_patch16_224", classes=["a", "b"], image_size=16, patch_size=4,
        in_chans=1, encoder_args=SIZES | {"depth": 12}, drop_path=0.3,
    ).train()  # fmt: skip
    run(parallelize(made, True), tmp_path, None, monkeypatch)
    assert sum(graphs) == 12 * STEPS * ROWS // 2
    assert len(graphs) <= 12
    assert sum(counters["graph_break"].values()) == 0


def test_a_break_is_an_error(graphs: list[int]) -> None:
    made = parallelize(mae(1), True)
    block = made.encoder.vit.blocks[0]
    block.register_forward_hook(lambda *_: print(end="") or torch._dynamo.graph_break())
    with pytest.raises(RuntimeError, match=r"(?i)graph[_ ]break"):
        made(torch.rand(2, 1, 16, 16), Rand(1, 0, 0.0, 0, 2))


def test_nothing_compiled_needs_no_compiler() -> None:
    with uncompiled(mae(1)), uncompiled(nn.Linear(1, 1)):
        pass
