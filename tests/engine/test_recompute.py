"""Blocks that run again in the backward pass: the same bits, and less that is kept."""

from __future__ import annotations

import copy

import pytest
import torch
from test_memory import _kept
from tiny_options import TINY_MAE

from openmae.engine.parallel import recompute
from openmae.methods.dino import DINO
from openmae.methods.ibot import IBOT
from openmae.methods.mae import MAE
from openmae.randomness import Rand
from openmae.tasks.account import need_of

RAND = Rand(0, 0, 0.0, 0, 4)


def pair(**more):
    """The same model twice; the second one recomputes."""
    torch.manual_seed(0)
    plain = MAE(**{**TINY_MAE, **more}).train()
    again = copy.deepcopy(plain)
    recompute(again)
    return plain, again


def images():
    return torch.randn(4, 3, 32, 48, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("decoder", ["self", "cross"])
def test_loss_and_gradients_have_the_same_bits(decoder):
    plain, again = pair(decoder=decoder)
    calls = []
    block = again.blocks()[0]
    block.attn.register_forward_hook(lambda *_: calls.append(1))
    losses = []
    for model in (plain, again):
        losses.append(model(images(), RAND)["loss"])
        losses[-1].backward()
    assert len(calls) == 2  # forward, and again in the backward pass
    assert torch.equal(*losses)
    for (name, one), two in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None), name
        assert one.grad is None or torch.equal(one.grad, two.grad), name


@pytest.mark.parametrize("method", [DINO, IBOT])
def test_each_pass_of_a_step_has_its_own_dropped_paths(method):
    """Large crops, then small ones, of as many rows: both run again after both were drawn."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 16, "depth": 3, "num_heads": 2}
    plain = method(
        encoder="vit_tiny_patch16_224", image_size=8, patch_size=2, encoder_args=sizes,
        drop_path=0.5, local_crops=2, local_size=4, out=16, hidden=16, bottleneck=8,
    ).train()  # fmt: skip
    again = copy.deepcopy(plain)
    recompute(again)
    batch = plain.example(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    for model in (plain, again):
        model(batch, RAND)["loss"].backward()
    for (name, one), two in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert one.grad is None or torch.equal(one.grad, two.grad), name


def test_keys_stay():
    plain, again = pair()
    assert plain.state_dict().keys() == again.state_dict().keys()


def test_without_gradients_nothing_runs_twice():
    _, again = pair()
    calls = []
    again.blocks()[0].attn.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        again(images(), RAND)
    assert len(calls) == 1


def test_less_is_kept_and_the_estimate_knows():
    sizes = {"embed_dim": 64, "depth": 6, "num_heads": 2}
    plain, again = pair(encoder_args=sizes, decoder_depth=4)
    first, second = (_kept(lambda m=m: m(images(), RAND)) for m in (plain, again))
    assert second < 0.4 * first
    need = [need_of(plain, "fp32", False, flag) for flag in (False, True)]
    assert need[1].image < 0.4 * need[0].image
    assert need[1].image * 4 > second  # the block that runs is on top of what is kept


def test_compiled_blocks_recompute():
    plain, again = pair()
    torch.compiler.reset()
    for block in again.blocks():
        block.compile(backend="aot_eager", fullgraph=True, dynamic=False)
    losses = []
    for model in (plain, again):
        losses.append(model(images(), RAND)["loss"])
        losses[-1].backward()
    torch.compiler.reset()
    assert torch.allclose(*losses, rtol=1e-6)
    for one, two in zip(plain.parameters(), again.parameters(), strict=True):
        if one.grad is not None:
            assert torch.allclose(one.grad, two.grad, rtol=1e-4, atol=1e-6)
