"""SimMIM, MaskFeat and BEiT: losses by formula in float64, and what loop and files ask of them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from variant_models import BATCH, LENGTH, add_up, pictures, rand, same, train

from openmae.errors import UsageError
from openmae.methods import METHODS
from openmae.methods.masked import Masked
from openmae.models.masking import num_kept
from openmae.weights.methodfile import load_method, save_method

NAMES = ["simmim", "maskfeat", "beit"]
PATCH, ROWS, COLUMNS = 8, 4, 6


def tiny(name: str, seed: int = 0, **arguments) -> Masked:
    given = {
        "encoder": "vit_tiny_patch16_224", "image_size": (32, 48), "patch_size": PATCH,
        "encoder_args": {"embed_dim": 32, "depth": 2, "num_heads": 2},
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = METHODS[name](**(given | arguments)).double()
        with torch.no_grad():
            for parameter in (p for p in model.parameters() if p.requires_grad):
                parameter.add_(0.2 * torch.randn_like(parameter))
    assert isinstance(model, Masked)
    return model


def predictions(model: Masked, images: Tensor, away: Tensor) -> Tensor:
    """(B, L, W): embed all, the token where `away` (B, L), blocks, norm, one product."""
    vit = model.encoder.vit
    x = torch.where(away[..., None], model.mask_token, vit.patch_embed(images))
    x = x + vit.pos_embed[:, 1:]
    x = torch.cat([(vit.cls_token + vit.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)
    for block in vit.blocks:
        x = block(x)
    return vit.norm(x)[:, 1:] @ model.decoder.pred.weight.T + model.decoder.pred.bias


def pixels(images: Tensor, place: int) -> Tensor:
    """(B, W) of one patch: row, column, channel."""
    top, left = PATCH * (place // COLUMNS), PATCH * (place % COLUMNS)
    return images[:, :, top : top + PATCH, left : left + PATCH].permute(0, 2, 3, 1).flatten(1)


def gradient_histograms(images: Tensor, place: int) -> Tensor:
    """(B, 27) of one patch, which is one cell: of each channel nine bins, pixel by pixel."""
    top, left = PATCH * (place // COLUMNS), PATCH * (place % COLUMNS)
    found = torch.zeros(len(images), 3, 9, dtype=torch.float64)
    (height, width), source = images.shape[2:], images.tolist()
    for b in range(len(images)):
        for c in range(3):
            x = source[b][c]
            for i in range(top, top + PATCH):
                for j in range(left, left + PATCH):
                    down = x[i + 1][j] - x[i - 1][j] if 0 < i < height - 1 else 0.0
                    right = x[i][j + 1] - x[i][j - 1] if 0 < j < width - 1 else 0.0
                    angle = math.degrees(math.atan2(down, right)) % 180
                    found[b, c, min(8, int(angle / 20))] += math.hypot(down, right) / PATCH**2
    return (found / (found.square().sum(-1, keepdim=True) + 1e-10).sqrt()).flatten(1)


@pytest.mark.parametrize(
    ("name", "values", "power", "hidden"),
    [("simmim", pixels, 1, 15), ("maskfeat", gradient_histograms, 2, 10)],
)
def test_loss_by_formula(name, values, power, hidden):
    model = tiny(name)
    images = pictures(model)
    _, ids = model.ids(BATCH, rand().uniform)
    away = torch.zeros(BATCH, LENGTH, dtype=torch.bool).scatter(1, ids, True)
    assert (away.sum(1) == hidden).all()
    want = torch.stack([values(images, place) for place in range(LENGTH)], dim=1)
    with torch.no_grad():
        error = (predictions(model, images, away) - want).abs().pow(power).mean(-1)
        out = model(images, rand=rand())
    each = (error * away).sum(1) / hidden
    torch.testing.assert_close(out["sample_loss"], each, rtol=1e-12, atol=0)
    torch.testing.assert_close(out["loss"], each.mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_training_path_is_the_plain_formulation(name):
    model = tiny(name)
    images = pictures(model)
    same(train(model, images, rand=rand()), train(model, images, rand=rand(), full=True))


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_add_up(name):
    model = tiny(name)
    add_up(model, pictures(model, 8))


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_depends_on_positions_alone(name):
    model = tiny(name).eval()
    images = pictures(model)
    with torch.no_grad():
        first, again, other = (
            model(images, rand=source)["sample_loss"] for source in (rand(), rand(), rand(first=9))
        )
        parts = [model(images[i : i + 2], rand=rand(2, first=i))["sample_loss"] for i in (0, 2)]
    assert torch.equal(first, again)
    assert (first != other).all(), "other positions have other masks"
    torch.testing.assert_close(torch.cat(parts), first, rtol=1e-12, atol=0)


def go_on(model: Masked, optimizer: torch.optim.Optimizer, first: int, steps: int) -> list[float]:
    losses = []
    for step in range(first, first + steps):
        loss = model(pictures(model), rand=rand(first=step * BATCH))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def adam(model: Masked) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_all_that_is_needed_to_go_on(name, tmp_path):
    model = tiny(name, mask_ratio=0.5).float()
    images = pictures(model).float()
    save_method(tmp_path / "m.safetensors", model)
    again = load_method(tmp_path / "m.safetensors")
    assert type(again) is METHODS[name] is type(model)
    assert again.arguments.keys() == model.arguments.keys()
    assert again.state_dict().keys() == model.state_dict().keys()
    assert (again.mask, again.mask_ratio, again.target) == (model.mask, 0.5, model.target)
    want = model.eval()(images, rand=rand())["sample_loss"]
    assert torch.equal(again.eval()(images, rand=rand())["sample_loss"], want)


@pytest.mark.parametrize("name", NAMES)
def test_state_is_all_that_is_needed_to_go_on(name):
    model = tiny(name)
    optimizer = adam(model)
    go_on(model, optimizer, 0, 2)
    state, of_optimizer = (copy.deepcopy(x.state_dict()) for x in (model, optimizer))
    losses = go_on(model, optimizer, 2, 2)
    again = tiny(name, seed=7)
    assert go_on(copy.deepcopy(again), adam(again), 2, 1) != losses[:1], "it begins elsewhere"
    again.load_state_dict(state)
    fresh = adam(again)
    fresh.load_state_dict(of_optimizer)
    assert go_on(again, fresh, 2, 2) == losses


def test_defaults():
    simmim, maskfeat, beit = (tiny(name) for name in NAMES)
    for model in (simmim, maskfeat, beit):
        assert (model.masked, model.batch_coupled, model.views()) == (True, False, None)
        assert model.arguments["mask_tokens"] == "encoder"
        assert model.trained_encoder() is model.encoder
    assert (simmim.mask, simmim.mask_ratio, simmim.mask_unit) == ("unit", 0.6, 2)
    assert (maskfeat.mask, maskfeat.mask_ratio, maskfeat.predicts.width) == ("block", 0.4, 27)
    assert (beit.mask, beit.mask_ratio, beit.predicts.width) == ("block", 0.4, 512)
    assert num_kept(196, 0.38) == 121, "recipe: 75 hidden"
    assert (num_kept(196, 0.612), num_kept(196, 0.397)) == (76, 118), "recipes: 120 and 78 hidden"


def test_units_are_hidden_together():
    mask = tiny("simmim", mask_ratio=2 / 3)(pictures(tiny("simmim")), rand=rand(), full=True)[
        "mask"
    ]
    cells = mask.view(BATCH, 2, 2, 3, 2).sum((2, 4))
    assert set(cells.flatten().tolist()) == {0, 4}


def test_pixels_can_be_normalised():
    model = tiny("simmim")
    loss = model.eval()(pictures(model), rand=rand())["loss"]
    model.target = "norm_pixels"
    assert model(pictures(model), rand=rand())["loss"] != loss
    values = torch.tensor([[[1.0, 5.0]]])
    assert model.predicts.loss(torch.tensor([[[2.0, 2.0]]]), values).item() == 2.0


REFUSED = {
    "target": ("simmim", {"target": "hog"}, "predicts pixels or norm_pixels"),
    "decoder": ("maskfeat", {"mask_tokens": "decoder"}, "has them in the encoder"),
    "cross": ("simmim", {"decoder": "cross"}, "has its own mask tokens"),
    "unit": ("simmim", {"mask_unit": 8}, "larger than 4x6"),
    "cell": ("maskfeat", {"target_args": {"cell": 3}}, "do not fill a patch"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    name, arguments, words = REFUSED[case]
    with pytest.raises(UsageError, match=words) as found:
        tiny(name, **arguments)
    assert len(str(found.value).splitlines()) <= 4
