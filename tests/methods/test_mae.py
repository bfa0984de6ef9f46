"""What `MAE` takes, gives and refuses."""

from __future__ import annotations

import pytest
import torch
from tiny_options import TINY_MAE
from torch import Tensor

import openmae
from openmae.methods import METHODS
from openmae.methods.mae import MAE
from openmae.models.masking import MASKS
from openmae.models.patches import patchify
from openmae.randomness import Rand


def tiny(**arguments) -> MAE:
    torch.manual_seed(0)
    return MAE(**(TINY_MAE | arguments)).double()


def noise(batch: int = 3, length: int = 24, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, length, dtype=torch.float64, generator=generator)


def bytes_(batch: int = 3, chans: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (batch, chans, 32, 48), dtype=torch.uint8, generator=generator)


def floats(batch: int = 3, chans: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, chans, 32, 48, dtype=torch.float64, generator=generator)


# Outputs.


@pytest.mark.parametrize("full", [False, True])
def test_keys_and_shapes(full):
    out = tiny()(floats(), noise=noise(), full=full)
    shapes = {name: tuple(value.shape) for name, value in out.items()}
    want = {"loss": (), "sample_loss": (3,)}
    assert shapes == (want | {"pred": (3, 24, 192), "mask": (3, 24)} if full else want)
    assert out["loss"].requires_grad
    assert not out["sample_loss"].requires_grad


@pytest.mark.parametrize("full", [False, True])
def test_sample_loss_mean_is_the_loss(full):
    out = tiny()(floats(), noise=noise(), full=full)
    assert out["sample_loss"].mean().item() == pytest.approx(out["loss"].item(), rel=1e-14)
    assert out["sample_loss"].std() > 1e-6


@pytest.mark.parametrize("target", ["norm_pixels", "pixels"])
def test_loss_by_hand(target):
    """sum(loss * mask) / sum(mask), of the mean over a patch; visible patches do not count."""
    model = tiny(target=target)
    out = model(floats(), noise=noise(), full=True)
    want = patchify(floats(), (8, 8))
    if target == "norm_pixels":
        mean, var = want.mean(-1, keepdim=True), want.var(-1, keepdim=True)
        want = (want - mean) / (var + 1e-6) ** 0.5
    patch = ((out["pred"] - want) ** 2).mean(-1)
    by_hand = (patch * out["mask"]).sum() / out["mask"].sum()
    assert out["loss"].item() == pytest.approx(by_hand.item(), rel=1e-14)
    assert abs(out["loss"].item() - patch.mean().item()) > 1e-6


def test_mask_is_one_where_hidden():
    out = tiny()(floats(), noise=noise(), full=True)
    order = noise().argsort(dim=1)
    assert (out["mask"].gather(1, order[:, :6]) == 0).all()  # the smallest noise is kept
    assert (out["mask"].gather(1, order[:, 6:]) == 1).all()


def test_hidden_pixels_are_not_seen():
    model = tiny(target="pixels")
    first = model(floats(), noise=noise(), full=True)
    hidden = first["mask"].reshape(3, 1, 4, 1, 6, 1).expand(3, 3, 4, 8, 6, 8).reshape(3, 3, 32, 48)
    other = floats() + hidden * floats().flip(0)
    second = model(other, noise=noise(), full=True)
    assert torch.equal(first["pred"], second["pred"])
    assert abs(first["loss"] - second["loss"]) > 1e-3  # but they are the target
    visible = floats() + (1 - hidden) * floats().flip(0)
    third = model(visible, noise=noise(), full=True)["pred"]
    assert (first["pred"] - third).abs().amin(-1).max() > 1e-6


# Arguments of a call.


@pytest.mark.parametrize("mask", ["random", "block"])
@pytest.mark.parametrize("keep", [1, 5, 10, 23])
def test_keep(mask, keep):
    out = tiny(mask=mask)(floats(), keep=keep, mask_ratio=0.5, full=True)
    assert ((1 - out["mask"]).sum(1) == keep).all()


def test_keep_of_given_noise():
    out = tiny()(floats(), noise=noise(), keep=5, full=True)
    assert torch.equal(
        (1 - out["mask"]).nonzero()[:, 1].unflatten(0, (3, 5)),
        noise().argsort(1)[:, :5].sort(1).values,
    )


def test_keep_is_exact_for_every_count():
    """1 - keep / L is not exact, so keep must not pass through the floor of the ratio."""
    model = tiny(mask="block", patch_size=4)
    for keep in range(1, 96):
        kept, hidden = model.ids(2, Rand(0, 0, 0.0, 0, 2).uniform, keep=keep)
        assert (kept.shape, hidden.shape) == ((2, keep), (2, 96 - keep))


@pytest.mark.parametrize("keep", [0, 24, -1, 100])
def test_keep_out_of_range(keep):
    with pytest.raises(ValueError, match="at least one"):
        tiny()(floats(), keep=keep)


@pytest.mark.parametrize(("ratio", "kept"), [(0.5, 12), (0.6, 9), (0.75, 6), (0.9, 2)])
def test_mask_ratio_of_a_call(ratio, kept):
    model = tiny()
    out = model(floats(), noise=noise(), mask_ratio=ratio, full=True)
    assert ((1 - out["mask"]).sum(1) == kept).all()
    assert model.mask_ratio == 0.75
    pruned = model(floats(), noise=noise(), mask_ratio=ratio)
    assert pruned["loss"].item() == pytest.approx(out["loss"].item(), rel=1e-12)


def test_mask_ratio_can_be_set():
    model = tiny()
    assert model.mask_ratio == 0.75
    by_call = model(floats(), noise=noise(), mask_ratio=0.5)["loss"]
    model.mask_ratio = 0.5
    assert torch.equal(model(floats(), noise=noise())["loss"], by_call)


def test_target_can_be_set():
    model = tiny()
    assert model.target == "norm_pixels"
    before = model(floats(), noise=noise())["loss"]
    model.target = "pixels"
    assert model.target == "pixels"
    assert abs(model(floats(), noise=noise())["loss"] - before) > 1e-6
    assert torch.equal(
        tiny(target="pixels")(floats(), noise=noise())["loss"],
        model(floats(), noise=noise())["loss"],
    )


def test_mask_can_be_set():
    model = tiny()
    model.mask = "grid"
    visible = 1 - model(floats(), full=True)["mask"].reshape(3, 2, 2, 3, 2)
    assert (visible.sum((2, 4)) == 1).all()


def test_mask_may_be_a_function():
    def left_first(grid, uniform, batch, ratio):
        return torch.arange(grid[1]).expand(batch, *grid).flatten(1).float()

    hidden = tiny(mask=left_first, mask_ratio=0.5)(floats(), full=True)["mask"].reshape(3, 4, 6)
    assert not hidden[:, :, :3].any()
    assert hidden[:, :, 3:].all()


def test_noise_goes_before_rand():
    model, rand = tiny(), Rand(0, 0, 0.0, 0, 3)
    both = model(floats(), rand=rand, noise=noise())["loss"]
    assert torch.equal(both, model(floats(), noise=noise())["loss"])
    assert not torch.equal(both, model(floats(), rand=rand)["loss"])


def test_noise_must_fit():
    with pytest.raises(ValueError, match=r"noise must be \(3, 24\), not \(3, 23\)"):
        tiny()(floats(), noise=noise(length=23))


def test_without_rand_the_global_generator_decides():
    model, losses = tiny(), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(model(floats())["loss"].item())
    assert losses[0] == losses[1] != losses[2]


def test_with_rand_the_global_generator_is_untouched():
    state = torch.get_rng_state()
    loss = tiny()(floats(), rand=Rand(0, 0, 0.0, 0, 3))["loss"]
    torch.set_rng_state(state)
    model = tiny()
    state = torch.get_rng_state()
    assert torch.equal(model(floats(), rand=Rand(0, 0, 0.0, 0, 3))["loss"], loss)
    assert torch.equal(torch.get_rng_state(), state)


def test_batch_may_be_a_mapping():
    model = tiny()
    by_batch = model({"image": floats(), "path": ["a", "b", "c"]}, noise=noise())["loss"]
    assert torch.equal(by_batch, model(floats(), noise=noise())["loss"])


# Images.


@pytest.mark.parametrize("chans", [1, 3, 5])
@pytest.mark.parametrize("full", [False, True])
def test_bytes_are_normalised_as_by_hand(chans, full):
    mean, std = [0.1 + 0.1 * c for c in range(chans)], [0.2 + 0.1 * c for c in range(chans)]
    model = tiny(in_chans=chans, mean=mean, std=std, target="pixels")
    view = torch.tensor([mean, std], dtype=torch.float32).double().view(2, chans, 1, 1)
    by_hand = (bytes_(chans=chans).double() / 255 - view[0]) / view[1]
    one = model(bytes_(chans=chans), noise=noise(), full=full)["loss"]
    other = model(by_hand, noise=noise(), full=full)["loss"]
    assert one.item() == pytest.approx(other.item(), rel=1e-14)
    raw = model(bytes_(chans=chans).double() / 255, noise=noise(), full=full)["loss"]
    assert abs(one - raw) > 1e-2


def test_default_statistics():
    rgb, grey = tiny().encoder, tiny(in_chans=1).encoder
    want = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    assert torch.equal(torch.stack([rgb.mean, rgb.std]).flatten(1).float(), want)
    assert (grey.mean.item(), grey.std.item()) == (0.5, 0.5)


@pytest.mark.parametrize("shape", [(2, 3, 48, 32), (2, 1, 32, 48), (2, 3, 32, 47)])
def test_images_must_fit(shape):
    with pytest.raises(ValueError, match=r"images must be \(B, 3, 32, 48\)"):
        tiny()(torch.zeros(shape))


def test_other_integers_are_refused():
    with pytest.raises(TypeError, match="uint8 or floating point"):
        tiny()(torch.zeros(2, 3, 32, 48, dtype=torch.long))


def test_encoder_gives_all_tokens():
    model = tiny()
    assert model.encoder(floats()).shape == (3, 25, 32)
    assert (model.encoder.grid, model.encoder.patch) == ((4, 6), (8, 8))
    assert (model.encoder.image_size, model.encoder.in_chans) == ((32, 48), 3)


def test_blocks_are_those_of_encoder_and_decoder():
    model = tiny(decoder_depth=3)
    assert model.blocks() == [*model.encoder.vit.blocks, *model.decoder.blocks]
    assert len(model.blocks()) == 5


def test_names():
    assert METHODS["mae"] is MAE
    assert openmae.MAE is MAE
    assert {"random", "block", "grid"} <= set(MASKS)
