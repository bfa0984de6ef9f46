"""Bytes that a run needs, against what torch keeps; and the choice of a micro-batch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from tiny_options import TINY_MAE

from openmae.engine import memory
from openmae.engine.memory import Need, largest_fitting, parts, smaller
from openmae.methods.classify import Classifier
from openmae.methods.mae import MAE
from openmae.tasks.account import need_of


def _kept(run) -> int:
    """Bytes of distinct tensors that the backward pass keeps, parameters left out."""
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run()
    assert out["loss"].requires_grad  # alive until here, so no address is used twice
    return sum(seen.values())


LARGER = {
    **TINY_MAE, "image_size": (64, 96), "decoder_depth": 4,
    "encoder_args": {"embed_dim": 96, "depth": 6, "num_heads": 3},
}  # fmt: skip


def test_activations_of_pretraining():
    method = MAE(**LARGER)
    images = torch.randint(0, 256, (8, 3, 64, 96), dtype=torch.uint8)
    kept, need = _kept(lambda: method(images)), need_of(method, "fp32", ema=False)
    assert kept == pytest.approx(8 * need.image, rel=0.25)
    assert need.image < MAE_IN_BF16 * need_of(method, "bf16", ema=False).image


MAE_IN_BF16 = 2.0


def test_activations_of_a_classifier():
    sizes = {k: LARGER[k] for k in ("encoder", "image_size", "patch_size", "encoder_args")}
    method = Classifier(classes=("a", "b"), **sizes)
    batch = {
        "image": torch.randint(0, 256, (8, 3, 64, 96), dtype=torch.uint8),
        "label": torch.zeros(8, dtype=torch.long),
    }
    kept, need = _kept(lambda: method(batch)), need_of(method, "fp32", ema=False)
    assert kept == pytest.approx(8 * need.image, rel=0.25)


def test_weights_gradients_and_moments():
    method = MAE(**TINY_MAE)
    count = sum(p.numel() for p in method.parameters())
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    need = need_of(method, "fp32", ema=True)
    assert trained < count  # positions are frozen
    assert (need.weights, need.gradients) == (4 * count, 4 * trained)
    assert (need.optimizer, need.averages) == (8 * trained, 4 * count)
    assert need.fixed == 8 * count + 12 * trained
    assert need.total(3) == need.fixed + 3 * need.image


def test_the_published_activations():
    """Reference values, MB an image in bf16: B 41, L 65, H 119; norms' inputs are bf16 there."""
    for name, expected in {"vit_base_patch16_224": 41, "vit_large_patch16_224": 65}.items():
        with torch.device("meta"):
            method = MAE(name)
        assert need_of(method, "bf16", False).image / 1e6 == pytest.approx(expected, rel=0.25)


def test_parts_of_a_batch():
    assert parts(12) == [12, 6, 4, 3, 2, 1]
    assert parts(12, even=True) == [12, 6, 4, 2]
    assert parts(7) == [7, 1]
    assert parts(7, even=True) == []
    assert parts(1) == [1]


@pytest.mark.parametrize(
    ("batch", "now", "even", "expected"),
    [(256, 256, False, 128), (250, 250, False, 125), (250, 125, False, 50), (6, 3, False, 1),
     (12, 12, True, 6), (12, 6, True, 2), (2, 2, True, None), (5, 1, False, None)],
)  # fmt: skip
def test_the_next_smaller_part(batch, now, even, expected):
    assert smaller(batch, now, even) == expected


@pytest.mark.parametrize("room", range(0, 40))
def test_the_largest_that_fits(room):
    sizes, asked = parts(36), []

    def fits(size: int) -> bool:
        asked.append(size)
        return size <= room

    found = largest_fitting(sizes, fits)
    assert found == max((s for s in sizes if s <= room), default=None)
    assert len(asked) <= 4
    assert len(set(asked)) == len(asked)


def test_what_is_out_of_memory():
    assert memory.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert memory.is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't"))
    assert memory.is_out_of_memory(MemoryError())
    assert not memory.is_out_of_memory(RuntimeError("mat1 and mat2"))


def test_the_least_of_machine_and_container(monkeypatch):
    monkeypatch.setattr(memory, "_machine_free", lambda: 500)
    monkeypatch.setattr(memory, "_group_free", lambda *_: None)
    assert memory.available(torch.device("cpu")) == 500
    monkeypatch.setattr(memory, "_group_free", lambda *_: 300)
    assert memory.available(torch.device("cpu")) == 300
    monkeypatch.setattr(memory, "_machine_free", lambda: None)
    monkeypatch.setattr(memory, "_group_free", lambda *_: None)
    assert memory.available(torch.device("cpu")) is None
    assert memory.available(torch.device("mps")) is None


def test_a_container_without_a_limit(tmp_path):
    limit, used = tmp_path / "max", tmp_path / "current"
    limit.write_text("max\n")
    used.write_text("100\n")
    assert memory._group_free(str(limit), str(used)) is None
    limit.write_text("1000\n")
    assert memory._group_free(str(limit), str(used)) == 900
    assert memory._group_free(str(limit), str(tmp_path / "nowhere")) is None


def test_what_is_there_once():
    assert Need(1, 2, 3, 4, 5).fixed == 10


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the system never forgets a peak"
)
def test_the_peak_of_a_process_can_be_watched():
    """In a process of its own: this one may give memory of earlier tests back meanwhile, and then
    the block lies below the peak."""
    code = """
import torch
from openmae.engine import memory

cpu = torch.device("cpu")
large = torch.ones(40_000_000)
del large
high = memory.peak(cpu)
memory.reset_peak(cpu)
before = memory.peak(cpu)
block = torch.ones(20_000_000)
print(high - before, memory.peak(cpu) - before, block.nbytes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    forgotten, risen, size = map(int, done.stdout.split())
    assert risen == pytest.approx(size, rel=0.1)
    assert forgotten == pytest.approx(2 * size, rel=0.1)
