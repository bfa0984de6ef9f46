"""Parts of tensors: whole ones taken apart as FSDP2 does it, without a second process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from openmae.engine.distributed import World
from openmae.engine.parallel import SHARD_ABOVE, choose_layout
from openmae.engine.sharding import Wholes, clip, fill, local, total_norm, whole


@pytest.fixture(params=[0, 1, 3])
def rank(request) -> Iterator[int]:
    """One of four ranks, whose collectives do nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=request.param, world_size=4)
    yield request.param
    dist.destroy_process_group()


@pytest.mark.parametrize("rows", [8, 10, 3, 1])
def test_a_rank_takes_its_rows_of_a_whole_tensor(rank, rows):
    mesh = init_device_mesh("cpu", (4,))
    full = torch.arange(rows * 5.0).view(rows, 5)
    parts = list(full.chunk(4))
    mine = parts[rank] if rank < len(parts) else full[:0]
    empty = torch.zeros_like(mine)
    own = DTensor.from_local(
        empty, mesh, [Shard(0)], run_check=False, shape=full.shape, stride=full.stride()
    )
    fill(own, full)
    assert torch.equal(local(own), mine)


def test_copies_of_parts(rank):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "parts"))
    full = torch.arange(8.0)
    own = DTensor.from_local(
        torch.zeros(4), mesh, [Replicate(), Shard(0)], run_check=False, shape=(8,), stride=(1,)
    )
    fill(own, full)
    assert torch.equal(local(own), full.chunk(2)[rank % 2])


def test_plain_tensors_are_themselves():
    tensor = torch.arange(3.0)
    assert whole(tensor) is tensor
    assert local(tensor) is tensor
    other = torch.zeros(3)
    fill(other, tensor)
    assert torch.equal(other, tensor)
    names = Wholes([("a", tensor), ("b", other)])
    assert [name for name, _ in names] == ["a", "b"]
    assert len(names) == 2


def test_norm_and_clipping_are_those_of_torch():
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(n)) for n in (3, 50, 7)]
    for limit in (0.1, 100.0):
        for p in parameters:
            p.grad = torch.randn_like(p)
        ours = [p.grad.clone() for p in parameters if p.grad is not None]
        norm = total_norm(ours)
        clip(ours, limit, norm)
        assert torch.equal(torch.nn.utils.clip_grad_norm_(parameters, limit), norm)
        assert all(torch.equal(a, p.grad) for a, p in zip(ours, parameters, strict=True))


@pytest.mark.parametrize(
    ("asked", "parameters", "size", "layout"),
    [
        ("auto", 86_000_000, 8, "ddp"),
        ("auto", SHARD_ABOVE + 1, 8, "fsdp"),
        ("hsdp", 86_000_000, 8, "hsdp"),
        ("fsdp", 86_000_000, 1, "none"),
        ("auto", SHARD_ABOVE + 1, 1, "none"),
    ],
)
def test_the_layout_of_a_run(asked, parameters, size, layout):
    assert choose_layout(asked, parameters, World(0, size)) == layout
