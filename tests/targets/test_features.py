"""Features of a teacher as a target: values against timm's own forward, losses by formula, what
moves and what does not.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from openmae.engine.optim import param_groups
from openmae.errors import UsageError
from openmae.methods.classify import Classifier
from openmae.methods.mae import MAE
from openmae.models.encoder import Encoder, create_arguments
from openmae.randomness import Rand
from openmae.targets.features import Features
from openmae.weights import random_encoder
from openmae.weights.methodfile import load_method, save_method

ARGS = {"embed_dim": 24, "depth": 3, "num_heads": 2}
SIZES = {
    "encoder": "vit_tiny_patch16_224", "image_size": (32, 48), "patch_size": 8,
    "encoder_args": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    "decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2,
}  # fmt: skip
POINT = {"mask_tokens": "encoder", "decoder": "linear"}
GO, SKIP = torch.tensor(0.0), torch.tensor(1.0)


def teacher(size=(32, 48), patch=8, seed=3, **more) -> Encoder:
    """With other means than the encoder that is trained."""
    create = create_arguments("vit_tiny_patch16_224", size, patch, 3, {**ARGS, **more})
    made = random_encoder(create, seed)
    made.mean.copy_(torch.tensor([0.3, 0.5, 0.6]).view(3, 1, 1))
    return made.eval()


def taught(by: Encoder, seed: int = 0, target: dict | None = None, **more) -> MAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        told = {"teacher": "given", **Features.arguments_from(by), **(target or {})}
        model = MAE(**(SIZES | more), target="features", target_args=told)
    model.predicts.load_parts(by)
    return model.double()


def moving(seed: int = 0, target: dict | None = None, **more) -> MAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MAE(**(SIZES | more), target="features", target_args=target).double()


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 32, 48, dtype=torch.float64, generator=torch.manual_seed(1))


def rand(progress: float = 0.0) -> Rand:
    return Rand(seed=0, step=0, progress=progress, first=0, rows=3)


def plain(by: Encoder, x: torch.Tensor, layers: int) -> torch.Tensor:
    """Normalised images -> (B, L, D), by timm alone."""
    maps = by.vit.forward_intermediates(
        x, indices=layers, norm=False, output_fmt="NLC", intermediates_only=True
    )
    rows = [
        (m - m.mean(-1, True)) / (m.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        for m in maps
    ]
    return sum(rows) / layers


@pytest.mark.parametrize(
    ("layers", "more"), [(1, {}), (2, {}), (3, {"reg_tokens": 2}), (2, {"class_token": False})]
)
def test_values_against_timm(layers, more):
    by = teacher(**more)
    model = taught(by, target={"layers": layers})
    raw = images()
    seen = (raw - model.encoder.mean) / model.encoder.std  # for the student
    want = plain(by.double(), (raw - by.mean) / by.std, layers)
    ids = torch.tensor([[0, 5], [23, 1], [7, 8]])
    got = model.predicts.values(torch.empty(0), seen, ids)
    assert got.shape == (3, 2, 24)
    rows = torch.stack([want[i, ids[i]] for i in range(3)])
    torch.testing.assert_close(got, rows, rtol=0, atol=1e-5)  # means and deviations are fp32
    assert not got.requires_grad


def test_images_of_the_teachers_size():
    by = teacher(size=(64, 96), patch=16)
    model = taught(by)
    seen = images()
    larger = F.interpolate(seen, (64, 96), mode="bicubic", antialias=True)
    own = model.encoder
    theirs = (larger * own.std + own.mean - by.mean) / by.std
    torch.testing.assert_close(
        model.predicts.features(seen), plain(by.double(), theirs, 1), rtol=0, atol=1e-5
    )


def test_value_ranges_are_converted():
    by = teacher()
    by.value_range = (0.0, 1000.0)
    model = taught(by, value_range=(0.0, 4000.0))
    own, x = model.encoder, images()
    value = 4000 * (x * own.std + own.mean)
    want = (value / 1000 - by.mean) / by.std
    torch.testing.assert_close(model.predicts.seen(x), want, rtol=1e-5, atol=1e-5)


def test_losses_by_formula():
    draws = torch.randn(2, 2, 4, 24, dtype=torch.float64, generator=torch.manual_seed(2)) * 3
    pred, values = draws
    by = teacher()
    error = (pred - values).abs()
    for beta in (0.5, 2.0):
        want = torch.where(error <= beta, error**2 / (2 * beta), error - beta / 2).mean(-1)
        got = taught(by, target={"beta": beta}).predicts.loss(pred, values)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    got = taught(by, target={"loss": "mse"}).predicts.loss(pred, values)
    torch.testing.assert_close(got, error.square().mean(-1), rtol=1e-12, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        half = taught(by).predicts.loss(pred.bfloat16(), values.float())
    assert half.dtype == torch.float32


@pytest.mark.parametrize("options", [{}, POINT], ids=["decoder", "encoder"])
@pytest.mark.parametrize("kind", ["frozen", "ema"])
def test_the_loss_of_a_model(kind, options):
    make = (lambda: taught(teacher(), **options)) if kind == "frozen" else lambda: moving(**options)
    model, x = make(), images()
    out, full = model(x, rand=rand()), model(x, rand=rand(), full=True)
    torch.testing.assert_close(out["loss"], full["loss"], rtol=1e-12, atol=0)
    error = model.predicts.loss(full["pred"], model.predicts.features(x))
    want = (error * full["mask"]).sum() / full["mask"].sum()
    torch.testing.assert_close(out["loss"], want, rtol=1e-12, atol=0)
    assert ("target_spread" in out) == (kind == "ema")


def test_masks_of_an_image():
    model, x = taught(teacher(), masks=2), images()
    out, full = model(x, rand=rand()), model(x, rand=rand(), full=True)
    torch.testing.assert_close(out["loss"], full["loss"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["frozen", "ema"])
def test_the_teacher_is_not_trained(kind):
    model = taught(teacher()) if kind == "frozen" else moving()
    names = {n for n, _ in model.named_parameters() if n.startswith("predicts.")}
    assert len(names) > 20
    groups = param_groups(model, 0.05)
    assert not names & {n for group in groups for n, _ in group["params"]}
    before = {n: t.clone() for n, t in model.predicts.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.train()
    assert not model.predicts.teacher.training
    model(images(), rand=rand())["loss"].backward()
    optimizer.step()
    assert all(torch.equal(t, before[n]) for n, t in model.predicts.state_dict().items())
    model.after_step(rand(), SKIP)
    assert all(torch.equal(t, before[n]) for n, t in model.predicts.state_dict().items())
    model.after_step(rand(), GO)
    moved = [n for n, t in model.predicts.state_dict().items() if not torch.equal(t, before[n])]
    assert bool(moved) == (kind == "ema")


def test_a_moving_average_by_formula():
    model = moving(target={"momentum": 0.5, "momentum_end": 0.9})
    mine, theirs = model.predicts.teacher.vit, model.encoder.vit
    assert all(
        torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True)
    )
    with torch.no_grad():
        theirs.norm.weight.add_(1.0)
    model.after_step(rand(progress=0.25), GO)  # 0.6 at a quarter
    torch.testing.assert_close(mine.norm.weight, torch.full((32,), 1.4, dtype=torch.float64))


def test_a_moving_teacher_sees_the_whole_image_with_its_own_weights():
    model, x = moving(target={"layers": 2}), images()
    want = plain(model.encoder, x, 2)
    torch.testing.assert_close(model.predicts.features(x), want, rtol=0, atol=1e-9)
    with torch.no_grad():
        model.encoder.vit.blocks[0].mlp.fc1.weight.mul_(2)
    torch.testing.assert_close(model.predicts.features(x), want, rtol=0, atol=1e-9)


def test_micro_batches_add_up():
    model, x = moving(), images(4)
    source = Rand(seed=0, step=0, progress=0.0, first=0, rows=4)
    whole = model(x, rand=source)["loss"]
    parts = [model(x[i : i + 2], rand=source.slice(i, i + 2))["loss"] for i in (0, 2)]
    torch.testing.assert_close(sum(parts) / 2, whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["frozen", "ema"])
def test_learns_a_handful_of_images(kind):
    model = (taught(teacher()) if kind == "frozen" else moving(target={"layers": 2})).float()
    x = images(3).float()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(40):
        out = model(x, rand=Rand(seed=0, step=step, progress=step / 40, first=3 * step, rows=3))
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        model.after_step(rand(step / 40), GO)
        losses.append(out["loss"].item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5]), losses
    if kind == "ema":
        assert out["target_spread"] > 0.3, "it has not collapsed"


@pytest.mark.parametrize("kind", ["frozen", "ema"])
def test_a_file_holds_the_teacher(kind, tmp_path):
    model = (taught(teacher()) if kind == "frozen" else moving()).float().eval()
    save_method(tmp_path / "m.safetensors", model)
    again = load_method(tmp_path / "m.safetensors").eval()
    x = images().float()
    assert torch.equal(again(x, rand=rand())["loss"], model(x, rand=rand())["loss"])


def test_the_student_begins_alike_whatever_teaches_it():
    first, second = taught(teacher()), taught(teacher(depth=1))
    assert torch.equal(first.encoder.vit.norm.weight, second.encoder.vit.norm.weight)
    name = "vit.blocks.0.mlp.fc1.weight"
    assert torch.equal(first.encoder.state_dict()[name], second.encoder.state_dict()[name])


def test_a_classifier_teaches():
    sizes = {k: SIZES[k] for k in ("encoder", "image_size", "patch_size", "encoder_args")}
    by = Classifier(**sizes, classes=["a", "b"], pool="mean").eval()
    with torch.random.fork_rng(devices=[]):
        told = {"teacher": "given", **Features.arguments_from(by)}
        model = MAE(**SIZES, target="features", target_args=told)
    model.predicts.load_parts(by)
    x = images().float()
    torch.testing.assert_close(
        model.predicts.features(x), plain(by.encoder, x, 1), rtol=0, atol=1e-4
    )


REFUSED = {
    "grid": ({"size": (64, 96)}, {}, {}, "grid of 8x12 patches, this run 4x6"),
    "layers": ({}, {"layers": 4}, {}, "the teacher has 3 blocks"),
    "loss": ({}, {"loss": "l1"}, {}, "should be smooth_l1 or mse"),
    "beta": ({}, {"beta": 0.0}, {}, "beta=0.0 must be above 0"),
    "momentum": ({}, {"momentum": 1.5}, {}, "momentum=1.5 should be between 0 and 1"),
    "channels": ({}, {}, {"in_chans": 2}, "reads 3 channels, this run 2"),
    "sizes": ({}, {}, {"sizes": [(16, 16)]}, "a teacher has one image size"),
    "nothing": ({}, {"create": None}, {}, "the architecture of teacher given is missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    of_teacher, target, more, words = REFUSED[case]
    with pytest.raises(UsageError, match=words):
        taught(teacher(**of_teacher), target=target, **more)
