"""What couples the images of a batch is the same over several ranks as in one."""

from __future__ import annotations

import pytest
import torch
from gloo import in_ranks
from torch import Tensor, nn
from twoview_models import TWO_VIEWS, pairs, tiny

from openmae.models.batchnorm import BatchNorm
from openmae.models.gathering import all_max, all_mean, all_rows, all_sum, rank, ranks
from openmae.randomness import Rand

ROWS = 8


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


def averaged(found: list[dict[str, Tensor]], name: str) -> Tensor:
    """As DDP does with the gradients of all ranks."""
    return torch.stack([one[name] for one in found]).mean(0)


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).norm() <= 1e-12 * b.norm() + 1e-13)


def test_without_ranks_nothing_is_shared():
    x = torch.randn(3, 2, requires_grad=True)
    assert (ranks(), rank()) == (1, 0)
    for shared in (all_sum, all_mean, all_max, all_rows):
        assert torch.equal(shared(x), x)


def test_sums_and_rows_have_the_gradients_of_one_process(tmp_path):
    x = torch.linspace(-1, 2, ROWS * 3, dtype=torch.float64).view(ROWS, 3)

    def loss(own: Tensor) -> Tensor:
        """Each row against all, and against the mean of all."""
        everyone = all_rows(own)
        middle = all_mean(own.mean(0))
        return ((own @ everyone.T).exp().sum(1) + (own - middle).pow(4).sum(1)).mean()

    def of_rank(r: int) -> dict[str, Tensor]:
        own = x.chunk(2)[r].clone().requires_grad_()
        value = loss(own)
        value.backward()
        total = all_sum(torch.tensor([r + 1.0]))
        return {"loss": value.detach(), "grad": own.grad, "rows": all_rows(own.detach())} | {
            "sum": total,
            "max": all_max(torch.tensor([r, -r])),
        }

    found = in_ranks(2, of_rank, tmp_path)
    whole = x.clone().requires_grad_()
    value = loss(whole)
    value.backward()
    assert close(averaged(found, "loss"), value.detach())
    assert close(torch.cat([one["grad"] for one in found]) / 2, whole.grad)
    for one in found:
        assert torch.equal(one["rows"], x)
        assert one["sum"].item() == 3
        assert one["max"].tolist() == [1, 0]


def test_batch_norm_over_ranks_is_that_of_the_whole_batch(tmp_path):
    x = torch.linspace(-1, 3, ROWS * 5, dtype=torch.float64).view(ROWS, 5).sin() + 2
    weights = torch.arange(ROWS * 5, dtype=torch.float64).view(ROWS, 5).cos()

    def passed(norm: nn.Module, own: Tensor, factor: Tensor) -> dict[str, Tensor]:
        own = own.clone().requires_grad_()
        out = norm(own)
        (out * factor).sum().backward()
        assert own.grad is not None
        if isinstance(norm, BatchNorm):
            norm.commit(torch.tensor(0.0))
        state = {n: v.clone() for n, v in norm.state_dict().items()}
        return (
            {"out": out.detach(), "x": own.grad}
            | gradients(norm)
            | {f"s.{n}": v for n, v in state.items()}
        )

    def of_rank(r: int) -> dict[str, Tensor]:
        return passed(BatchNorm(5).double(), x.chunk(2)[r], weights.chunk(2)[r])

    found = in_ranks(2, of_rank, tmp_path)
    whole = passed(nn.BatchNorm1d(5).double(), x, weights)
    for name in ("out", "x"):
        assert close(torch.cat([one[name] for one in found]), whole[name])
    for name in ("weight", "bias"):
        assert close(found[0][name] + found[1][name], whole[name])
    for one in found:
        assert all(close(one[n], whole[n]) for n in whole if n.startswith("s.running"))
        assert one["s.num_batches_tracked"] == 1


DROPPED = {"patch_drop_rate": 0.25}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, {}) for name in TWO_VIEWS),
        ("byol", {"whiten": True, **DROPPED}),
        ("simclr", DROPPED),
    ],
)
def test_a_method_over_two_ranks_is_the_one_of_the_whole_batch(name, more, tmp_path):
    method, images = tiny(name, **more), pairs(ROWS)

    def of(rows: Tensor) -> dict[str, Tensor]:
        first = rank() * len(rows)
        rand = Rand(seed=0, step=0, progress=0.5, first=first, rows=len(rows))
        out = method.train()({"image": rows}, rand)
        out["loss"].backward()
        buffers = {f"b.{n}": b for n, b in method.named_buffers()}
        return (
            {"loss": out["loss"].detach(), "sample_loss": out["sample_loss"]}
            | buffers
            | (gradients(method))
        )

    found = in_ranks(2, lambda r: of(images.chunk(2)[r]), tmp_path)
    whole = of(images)
    assert close(averaged(found, "loss"), whole.pop("loss"))
    samples = torch.cat([one["sample_loss"] for one in found])
    assert close(samples, whole.pop("sample_loss"))
    for part, value in whole.items():
        if part.startswith("b."):
            assert all(close(one[part].double(), value.double()) for one in found), part
        elif not part.endswith("attn.qkv.bias"):
            assert close(averaged(found, part), value), part
    rand = Rand(seed=0, step=0, progress=0.5, first=0, rows=ROWS // 2)
    alone = tiny(name, **more).train()({"image": images[: ROWS // 2]}, rand)["sample_loss"]
    assert not close(alone, samples[: ROWS // 2])  # the other rank's images do count
