"""The training path against the published formulation (`full=True`): same loss and gradients.

The training path embeds only kept patches, never restores their order, treats mask tokens once for
each position in the first decoder block, and runs the last block, the norm and the prediction on
hidden patches only. All of it is exact; checked in float64.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from openmae.methods import MAE
from openmae.models.blocks import Attention
from openmae.randomness import Rand

BATCH = 4
LOSS, GRADIENT = 1e-14, 1e-12  # relative to the loss, to each tensor's norm
KEY_BIAS = 1e-13  # absolute: the true gradient of a key's bias is zero


def tiny(prefix: int = 1, depth: int = 2, learned: bool = False, **arguments) -> MAE:
    """A small float64 model without special weights; `learned`: trainable random positions."""
    extra = {0: {"class_token": False}, 1: {}}.get(prefix, {"reg_tokens": prefix - 1})
    given = {
        "encoder": "vit_tiny_patch16_224",
        "image_size": (32, 48),
        "patch_size": 8,
        "encoder_args": {"embed_dim": 32, "depth": 2, "num_heads": 2, **extra},
        "decoder_dim": 32,
        "decoder_depth": depth,
        "decoder_heads": 4,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MAE(**(given | arguments)).double()
    assert model.encoder.num_prefix_tokens == prefix
    generator = torch.Generator().manual_seed(0)
    tables = (model.encoder.vit.pos_embed, model.decoder.pos_embed)
    with torch.no_grad():
        for parameter in model.parameters():
            if learned or all(parameter is not table for table in tables):
                noise = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
                parameter.add_(0.2 * noise)
    for table in tables:
        table.requires_grad_(learned)
    return model


def pictures(model: MAE, batch: int = BATCH) -> Tensor:
    """Normalised float64 images that fit the model."""
    shape = (batch, model.encoder.in_chans, *model.encoder.image_size)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def rand(rows: int = BATCH, first: int = 0) -> Rand:
    return Rand(seed=0, step=0, progress=0.0, first=first, rows=rows)


def collect(model: MAE) -> dict[str, Tensor]:
    """The gradient of every trainable parameter; each must have one. Biases of qkv in three."""
    named: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} has no gradient"
            gradient = parameter.grad
            gradient = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
            parts = gradient.chunk(3) if name.endswith("qkv.bias") else (gradient,)
            labels = ("_q", "_k", "_v") if len(parts) == 3 else ("",)
            named |= {name + label: p.clone() for label, p in zip(labels, parts, strict=True)}
    return named


def train(model: MAE, images: Tensor, **call) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one step."""
    model.zero_grad(set_to_none=True)
    loss = model(images, **call)["loss"]
    loss.backward()
    return loss.item(), collect(model)


Step = tuple[float, dict[str, Tensor]]


def gaps(ours: Step, reference: Step) -> tuple[float, float, float]:
    """Relative difference of the loss; the largest of a gradient; the largest key bias gradient."""
    assert ours[1].keys() == reference[1].keys()
    gradient = key = 0.0
    for name, want in reference[1].items():
        difference = ours[1][name] - want
        if name.endswith("qkv.bias_k"):
            key = max(key, difference.abs().max().item(), want.abs().max().item())
        else:
            assert want.norm() > 1e-9, f"{name}: a zero gradient shows nothing"
            gradient = max(gradient, (difference.norm() / want.norm()).item())
    return abs(ours[0] - reference[0]) / abs(reference[0]), gradient, key


def check(model: MAE, **call) -> None:
    """Assert that the training path equals the published formulation."""
    images = pictures(model)
    reference = train(model, images, full=True, rand=rand(), **call)
    loss, gradient, key = gaps(train(model, images, rand=rand(), **call), reference)
    assert loss < LOSS
    assert gradient < GRADIENT
    assert key < KEY_BIAS


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("target", ["norm_pixels", "pixels"])
def test_targets_prefix_tokens_and_depths(target, prefix, depth):
    check(tiny(prefix, depth, target=target))


@pytest.mark.parametrize(
    ("mask", "ratio"),
    [(m, r) for m in ("random", "block") for r in (0.5, 0.75, 0.9)] + [("grid", 0.75)],
)
@pytest.mark.parametrize(
    ("image_size", "patch_size", "in_chans"),
    [((32, 48), 8, 5), ((48, 32), (4, 8), 3), ((32, 32), (8, 4), 1)],
)
def test_masks_ratios_and_shapes(image_size, patch_size, in_chans, mask, ratio):
    sizes = {"image_size": image_size, "patch_size": patch_size, "in_chans": in_chans}
    check(tiny(mask=mask, mask_ratio=ratio, **sizes))


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_trainable_positions(prefix, depth):
    model = tiny(prefix, depth, learned=True)
    check(model)
    assert model.encoder.vit.pos_embed.grad is not None
    assert model.decoder.pos_embed.grad is not None
    assert all(p.requires_grad for p in model.parameters())


def test_positions_without_rows_for_prefix_tokens():
    arguments = {"embed_dim": 32, "depth": 2, "num_heads": 2, "reg_tokens": 4}
    model = tiny(5, encoder_args={**arguments, "no_embed_class": True}, learned=True)
    assert model.encoder.vit.pos_embed.shape == (1, 24, 32)
    check(model)


@pytest.mark.parametrize("call", [{"keep": 1}, {"keep": 23}, {"mask_ratio": 0.6}])
def test_call_arguments(call):
    check(tiny(), **call)


def test_one_masked_and_one_kept_of_two():
    check(tiny(image_size=(8, 16), mask_ratio=0.5))


def test_the_plain_path_restores_the_order():
    """Predictions of `full=True` stand at their patch, those of hidden ones as in training."""
    model, noise = tiny(), rand().uniform("mask", (BATCH, 24))
    kept, hidden = model.ids(BATCH, None, noise)
    full = model(pictures(model), noise=noise, full=True)["pred"]
    patches = torch.nn.functional.unfold(pictures(model), 8, stride=8)  # channel first, (B, W, L)
    patches = patches.unflatten(1, (3, 64)).permute(0, 3, 2, 1).flatten(2)
    own = patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[-1]))
    pred = model.decoder(model.encoder.encode_kept(own, kept), kept, hidden)
    want = full.gather(1, hidden[..., None].expand(-1, -1, full.shape[-1]))
    torch.testing.assert_close(pred, want, rtol=0, atol=1e-13)
    assert want.std() > 0.1


# A wrong saving must be seen.


@pytest.mark.parametrize("depth", [1, 2])
def test_keys_and_values_of_masked_tokens_alone_differ(monkeypatch, depth):
    model, original = tiny(depth=depth), Attention.forward
    images = pictures(model)
    reference = train(model, images, full=True, rand=rand())

    def blind(self, x, shared, ids, num_queries):
        if shared is not None and num_queries == ids.shape[1]:
            x = x[:, :0]
        elif shared is None and num_queries < x.shape[1]:
            x = x[:, -num_queries:]
        return original(self, x, shared, ids, num_queries)

    monkeypatch.setattr(Attention, "forward", blind)
    wrong = model(images, rand=rand())["loss"].item()
    assert abs(wrong - reference[0]) / reference[0] > 1e-4
    if depth == 2:  # at depth 1 the visible tokens get no gradient at all
        _, gradient, _ = gaps(train(model, images, rand=rand()), reference)
        assert gradient > 1e-2


def test_another_mask_differs():
    model = tiny()
    reference = train(model, pictures(model), full=True, rand=rand())
    loss, gradient, _ = gaps(train(model, pictures(model), rand=rand(first=BATCH)), reference)
    assert loss > 1e-4
    assert gradient > 1e-2


# Compiled, sharded, in micro-batches.


@pytest.mark.parametrize("depth", [1, 3])
def test_compiled_blocks(depth):
    model, graphs = tiny(depth=depth), []
    reference = train(model, pictures(model), full=True, rand=rand())
    lower = torch._dynamo.lookup_backend("aot_eager")

    def backend(graph, inputs):
        graphs.append(graph)
        return lower(graph, inputs)

    torch.compiler.reset()
    for block in model.blocks():
        block.compile(backend=backend, fullgraph=True)
    loss, gradient, key = gaps(train(model, pictures(model), rand=rand()), reference)
    torch.compiler.reset()
    assert len(graphs) >= 2  # the blocks of the encoder may share one
    assert loss < LOSS
    assert gradient < GRADIENT
    assert key < KEY_BIAS


def sharded(store: str) -> None:
    """In a process of its own: FSDP2 over one gloo rank, each block, then the model; both paths."""
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    for depth, learned in ((1, False), (3, False), (2, True)):
        model = tiny(5, depth, learned)
        images = pictures(model)
        reference = train(model, images, full=True, rand=rand())
        for block in model.blocks():
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert all(isinstance(p, DTensor) for p in model.parameters())
        for full in (False, True):
            step = train(model, images, rand=rand(), full=full)
            assert all(isinstance(p.grad, DTensor) for p in model.parameters() if p.requires_grad)
            print("gaps", *gaps(step, reference))
    destroy_process_group()


def test_sharded_blocks(tmp_path):
    loopback = {"linux": "lo", "darwin": "lo0"}.get(sys.platform, "lo")
    environment = os.environ | {"GLOO_SOCKET_IFNAME": loopback}
    command = [sys.executable, str(Path(__file__).resolve()), str(tmp_path / "store")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert run.returncode == 0, run.stderr
    lines = [line.split()[1:] for line in run.stdout.splitlines() if line.startswith("gaps")]
    assert len(lines) == 6
    for loss, gradient, key in (map(float, line) for line in lines):
        assert loss < LOSS
        assert gradient < GRADIENT
        assert key < KEY_BIAS


def accumulate(model: MAE, images: Tensor, source: Rand, starts: list[int]) -> Step:
    """Four micro-batches of eight; `starts` says which rows of the randomness each one takes."""
    model.zero_grad(set_to_none=True)
    total = 0.0
    for i, start in enumerate(starts):
        out = model(images[8 * i : 8 * i + 8], rand=source.slice(start, start + 8))
        (out["loss"] / 4).backward()
        total += out["loss"].item() / 4
    return total, collect(model)


@pytest.mark.parametrize("mask", ["random", "block"])
def test_accumulation_of_4_times_8_is_1_times_32(mask):
    model = tiny(mask=mask)
    images, source = pictures(model, 32), rand(rows=32, first=96)
    whole = train(model, images, rand=source)
    loss, gradient, key = gaps(accumulate(model, images, source, [0, 8, 16, 24]), whole)
    assert loss < 1e-12
    assert gradient < 1e-12
    assert key < KEY_BIAS
    wrong, _, _ = gaps(accumulate(model, images, source, [0, 0, 0, 0]), whole)
    assert wrong > 1e-6


if __name__ == "__main__":
    sharded(sys.argv[1])
