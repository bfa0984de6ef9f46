"""iBOT: its losses, hidden patches, centres and teacher."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from dino_models import ROWS, SKIPPED, SOUND, batch, rand
from ibot_models import LENGTH, apart, tiny
from torch import Tensor

from openmae.errors import UsageError
from openmae.methods.dino import cross_entropy
from openmae.methods.ibot import IBOT, hidden_cross_entropy
from openmae.methods.sinkhorn import sinkhorn
from openmae.models.masktokens import encode_masked_plain

LIGHTLY = 2.4677377138844996


def made(shift: float, crops: int) -> Tensor:
    """Logits (crops, 6, 4) that need no generator."""
    i = torch.arange(crops * 24, dtype=torch.float64).view(crops, 6, 4)
    return torch.sin(1.7 * i + shift) + 0.1 * torch.cos(i * i)


def test_the_patch_loss_is_that_of_lightly():
    """IBOTPatchLoss of lightly 1.6.0, temperatures 0.1 and 0.25, with a centre; 4, 0, 2 and 1
    hidden patches.
    """
    weight = (torch.arange(6) < torch.tensor([4, 0, 2, 1])[:, None]).double()
    wanted = ((made(0, 4) - made(2.0, 1)[0, 0]) / 0.25).softmax(-1)
    found = hidden_cross_entropy(made(0.5, 4), wanted, weight, 0.1)
    assert found.mean().item() == pytest.approx(LIGHTLY, rel=1e-12)
    assert found[1] == 0


def shares(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(v / temperature) for v in row]
    return [p / sum(powers) for p in powers]


def cross(theirs: Tensor, center: Tensor, ours: Tensor, temperature: float) -> float:
    wanted = shares((theirs - center).tolist(), temperature)
    return -sum(p * math.log(q) for p, q in zip(wanted, shares(ours.tolist(), 0.1), strict=True))


def test_the_patch_loss_by_its_formula():
    """One crop, one patch, one prototype at a time."""
    method, data = apart(tiny(drop_path=0.0, local_crops=0)), batch()["image"]
    out = method({"image": data}, rand())
    ids, weight = method.hidden(ROWS, rand(), torch.device("cpu"))
    total = [0.0] * ROWS
    for crop in range(2 * ROWS):
        view, row = divmod(crop, ROWS)
        image, count = data[row : row + 1, view], int(weight[crop].sum())
        hidden = ids[crop : crop + 1, :count]
        kept = torch.tensor([[i for i in range(LENGTH) if i not in hidden[0].tolist()]])
        tokens = encode_masked_plain(method.encoder, image, kept, hidden, method.mask_token)
        ours = method.head(tokens[0])
        theirs = method.teacher.projector(method.teacher.encoder(image)[0])
        for at in hidden[0].tolist():
            one = cross(theirs[1 + at], method.patch_center, ours[1 + at], 0.07)
            total[row] += one / count / 2
    assert out["patch_loss"].item() == pytest.approx(sum(total) / ROWS, rel=1e-10)
    both = out["class_loss"] + out["patch_loss"]
    assert out["loss"].item() == pytest.approx(both.item(), rel=1e-12)
    assert sum(t == 0 for t in total) < ROWS


def test_prototypes_of_hidden_patches_shared_out_by_sinkhorn():
    """Over the hidden patches alone: those that only fill the rows up take no part."""
    method, data = apart(tiny(drop_path=0.0, local_crops=0, centering="sinkhorn")), batch()["image"]
    out = method({"image": data}, rand())
    large = data.transpose(0, 1).flatten(0, 1)
    ids, weight = method.hidden(ROWS, rand(), torch.device("cpu"))
    patches = method.teacher.projector(method.teacher.encoder(large)[:, 1:])
    hidden = [ids[crop, weight[crop] > 0] for crop in range(2 * ROWS)]
    assert 0 < sum(map(len, hidden)) < weight.numel()
    theirs = torch.cat([patches[crop, those] for crop, those in enumerate(hidden)])
    said = sinkhorn(theirs, 0.07).split([len(those) for those in hidden])
    total = 0.0
    for crop, those in ((c, h) for c, h in enumerate(hidden) if len(h)):
        kept = torch.tensor([[i for i in range(LENGTH) if i not in those.tolist()]])
        image = large[crop : crop + 1]
        tokens = encode_masked_plain(method.encoder, image, kept, those[None], method.mask_token)
        ours = method.head(tokens[0, 1 + those])
        total -= (said[crop] * (ours / 0.1).log_softmax(-1)).sum(-1).mean().item()
    assert out["patch_loss"].item() == pytest.approx(total / (2 * ROWS), rel=1e-10)


def test_the_class_loss_is_dinos_of_the_crops_as_the_student_sees_them():
    method, data = apart(tiny(drop_path=0.0, local_crops=0)), batch()["image"]
    large = data.transpose(0, 1).flatten(0, 1)
    ids, weight = method.hidden(ROWS, rand(), torch.device("cpu"))
    out = method({"image": data}, rand())
    ours = []
    for crop in range(2 * ROWS):
        hidden = ids[crop : crop + 1, : int(weight[crop].sum())]
        kept = torch.tensor([[i for i in range(LENGTH) if i not in hidden[0].tolist()]])
        image = large[crop : crop + 1]
        tokens = encode_masked_plain(method.encoder, image, kept, hidden, method.mask_token)
        ours.append(method.head(tokens[:, 0]))
    theirs = method.teacher.projector(method.teacher.encoder(large)[:, 0]).unflatten(0, (2, -1))
    wanted = ((theirs - method.center) / 0.07).softmax(-1)
    loss = cross_entropy(torch.cat(ours).unflatten(0, (2, -1)), wanted, 0.1)
    assert out["class_loss"].item() == pytest.approx(loss.mean().item(), rel=1e-10)


def test_the_weights_of_the_losses():
    parts = [apart(tiny(class_weight=a, patch_weight=b)) for a, b in [(2, 0), (0, 3), (2, 3)]]
    found = [method(batch(), rand())["sample_loss"] for method in parts]
    assert torch.allclose(found[0] + found[1], found[2], rtol=1e-12)
    assert found[1].min() == 0, "some images have no hidden patch in either crop"


def test_without_hidden_patches_it_is_dino():
    method = apart(tiny(masked_share=0.0, drop_path=0.0))
    out = method(batch(), rand())
    assert out["patch_loss"] == 0
    out["loss"].backward()
    assert method.mask_token.grad.abs().sum() == 0
    assert method.encoder.vit.cls_token.grad.isfinite().all()


# The hidden patches.


def test_how_many_are_hidden():
    method = tiny(image_size=28, local_size=14)
    ids, weight = method.hidden(400, rand(rows=400), torch.device("cpu"))
    assert ids.shape == weight.shape == (800, round(0.5 * 196))
    counts = weight.sum(1)
    whole = (counts == 0).float().mean().item()
    assert whole == pytest.approx(0.5, abs=0.06)
    some = counts[counts > 0] / 196
    assert 0.1 - 0.003 <= some.min() <= 0.13
    assert 0.47 <= some.max() <= 0.5 + 0.003
    assert some.mean().item() == pytest.approx(0.3, abs=0.02)
    assert all(len(set(row)) == len(row) for row in ids[:20].tolist())


def test_they_lie_in_blocks():
    """More hidden pairs of neighbours than chance: of a block of n most are inside."""
    method = tiny(image_size=28, local_size=14, masked_share=1.0, ratio=0.3, ratio_spread=0.0)
    ids, weight = method.hidden(50, rand(rows=50), torch.device("cpu"))
    away = torch.zeros(100, 196).scatter(1, ids, weight).view(100, 14, 14)
    assert (away.sum((1, 2)) == 59).all()
    assert (away[:50] != away[50:]).any(), "the views have masks of their own"
    together = (away[:, 1:] * away[:, :-1]).sum((1, 2)) / 59
    assert together.mean() > 0.6, "0.28 by chance"


def test_masks_are_those_of_the_position():
    method = tiny()
    ids, weight = method.hidden(ROWS, rand(), torch.device("cpu"))
    half = [method.hidden(4, rand(first=f, rows=4), torch.device("cpu")) for f in (0, 4)]
    for which, whole in enumerate((ids, weight)):
        parts = [h[which].unflatten(0, (2, 4)) for h in half]
        assert torch.equal(torch.cat(parts, 1).flatten(0, 1), whole)
    other, _ = method.hidden(ROWS, rand(first=8), torch.device("cpu"))
    assert not torch.equal(ids, other)


# What is trained, and what follows.


def test_gradients():
    method = tiny(norm_last_layer=False)
    method(batch(), rand())["loss"].backward()
    trained = {n for n, p in method.named_parameters() if p.requires_grad}
    assert {n for n, p in method.named_parameters() if p.grad is not None} == trained
    assert "mask_token" in trained
    assert not any(n.startswith("teacher.") for n in trained)
    assert method.mask_token.grad.abs().sum() > 0
    early = tiny()
    early(batch(), rand(progress=0.005))["loss"].backward()
    assert early.head.prototypes.grad.abs().sum() == 0


def test_centres_and_teacher_move_unless_skipped():
    method = apart(tiny(momentum=0.9, center_momentum=0.8))
    out = method(batch(), rand())
    large = batch()["image"].transpose(0, 1).flatten(0, 1)
    theirs = method.teacher.projector(method.teacher.encoder(large)[:, 1:])
    assert torch.allclose(method.batch_patch_center, theirs.mean((0, 1)))
    assert 0 < out["patch_teacher_entropy"] < math.log(32)
    before = copy.deepcopy(method.state_dict())
    method.after_step(rand(), SKIPPED)
    assert all(torch.equal(v, before[n]) for n, v in method.state_dict().items())
    method.after_step(rand(progress=0), SOUND)
    for name in ("center", "patch_center"):
        moved = 0.8 * before[name] + 0.2 * getattr(method, f"batch_{name}")
        assert torch.allclose(method.state_dict()[name], moved)
    assert not torch.equal(method.center, method.patch_center)
    name = "teacher.projector.mlp.0.weight"
    assert not torch.equal(method.state_dict()[name], before[name])
    with torch.no_grad():
        method.batch_patch_center.fill_(float("nan"))
    method.after_step(rand(), SKIPPED)
    assert method.patch_center.isfinite().all()


def test_schedules_views_and_arguments():
    method = tiny(patch_temp=0.05, warmup=0.5)
    found = [method.teacher_temperature(p, "patch_temp") for p in (0.0, 0.25, 0.5, 1.0)]
    assert found == pytest.approx([0.04, 0.045, 0.05, 0.05])
    assert method.teacher_temperature(1.0) == pytest.approx(0.07)
    views = method.views()
    assert [v["crop"] for v in views] == [(0.25, 1.0)] * 2 + [(0.05, 0.25)] * 2
    again = IBOT(**method.arguments)
    assert again.views() == views
    assert again.state_dict().keys() == method.state_dict().keys()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"patch_temp": 0.0}, "patch_temp=0.0"),
        ({"patch_weight": -1.0}, "patch_weight=-1.0"),
        ({"masked_share": 2.0}, "masked_share=2.0"),
        ({"ratio": 0.9}, "ratio=0.9"),
        ({"ratio_spread": 0.4}, "ratio_spread=0.4"),
        ({"teacher_temp": 0.0}, "teacher_temp=0.0"),
        ({"head_norm": True}, "head_norm=true"),
    ],
)
def test_refused(more, words):
    with pytest.raises(UsageError, match=words):
        tiny(**more)


def test_no_masks_without_randomness():
    with pytest.raises(ValueError, match="randomness"):
        tiny()(batch())
