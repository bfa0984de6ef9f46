"""Every attention backend is the same function, wherever a model attends; and how one is told."""

from __future__ import annotations

import pytest
import torch
from methods.test_pruning import GRADIENT, KEY_BIAS, gaps, pictures, rand, tiny, train
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from openmae.methods import MAE, Classifier
from openmae.models.attention import BACKENDS, KERNELS, Place, attend, kernel, places, use

HERE = ("sdpa", "eager", "flash", "math")  # what torch has on CPU
LOSS = 1e-13  # another order of summation
FUSED = "_scaled_dot_product_flash_attention_for_cpu"


class Names(TorchDispatchMode):
    """The operations that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name().removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def told(model: MAE, backend: str) -> MAE:
    use(model, {"encoder": backend, "decoder.blocks": backend})
    return model


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_backends_give_the_same_loss_and_gradients(depth, prefix):
    model = tiny(prefix, depth)
    images = pictures(model)
    reference = train(model, images, full=True, rand=rand())
    for backend in HERE:
        for full in (False, True):
            step = train(told(model, backend), images, full=full, rand=rand())
            loss, gradient, key = gaps(step, reference)
            assert loss < LOSS, backend
            assert gradient < GRADIENT, backend
            assert key < KEY_BIAS, backend


@pytest.mark.parametrize("mask", ["random", "block"])
def test_masks_and_trainable_positions(mask):
    model = tiny(learned=True, mask=mask, mask_ratio=0.6)
    images = pictures(model)
    reference = train(told(model, "sdpa"), images, rand=rand())
    loss, gradient, key = gaps(train(told(model, "eager"), images, rand=rand()), reference)
    assert (loss < LOSS, gradient < GRADIENT, key < KEY_BIAS) == (True, True, True)


@pytest.mark.parametrize("backend", HERE)
def test_single_precision(backend):
    model = told(tiny(), backend)
    images = pictures(model)
    reference = train(model, images, full=True, rand=rand())
    loss, gradient, _ = gaps(train(model.float(), images.float(), rand=rand()), reference)
    assert loss < 1e-5
    assert gradient < 1e-3


@pytest.mark.parametrize("backend", HERE)
def test_a_compiled_block_keeps_its_backend(backend):
    """Compiled in one graph each, without a break; the kernel in it is the one that was chosen."""
    model, names = told(tiny(depth=3), backend), []
    images = pictures(model)
    reference = train(model, images, rand=rand())
    lower = torch._dynamo.lookup_backend("aot_eager")

    def look(graph, inputs):
        compiled = lower(graph, inputs)

        def run(*args):
            with Names() as seen:
                out = compiled(*args)
            names.extend(seen.names)
            return out

        return run

    torch.compiler.reset()
    for block in model.blocks():
        block.compile(backend=look, fullgraph=True, dynamic=False)
    loss, gradient, key = gaps(train(model, images, rand=rand()), reference)
    torch.compiler.reset()
    assert (loss < LOSS, gradient < GRADIENT, key < KEY_BIAS) == (True, True, True)
    assert (FUSED in names) == (backend in ("sdpa", "flash"))


@pytest.mark.parametrize("backend", HERE)
def test_the_kernel_that_was_named_runs(backend):
    model = told(tiny(depth=2), backend)
    with Names() as seen:
        train(model, pictures(model), rand=rand())
    fused = sum(name == FUSED for name in seen.names)
    assert fused == (4 if backend in ("sdpa", "flash") else 0)


# Telling a model.


def test_a_block_can_differ_from_the_others():
    model = tiny(depth=3)
    use(model, {"encoder": "eager", "decoder.blocks": "flash", "decoder.blocks.2": "math"})
    assert model.encoder.attention == "eager"
    assert [block.attn.fused_attn for block in model.encoder.vit.blocks] == [False, False]
    assert [block.attn.backend for block in model.decoder.blocks] == ["flash", "flash", "math"]
    use(model, {"decoder.blocks.1": "eager"})
    assert [block.attn.backend for block in model.decoder.blocks] == ["flash", "eager", "math"]
    use(model, {})
    assert model.encoder.attention == "eager"


def test_nobody_told_it():
    model = tiny(depth=1)
    assert model.encoder.attention == "sdpa"
    assert model.decoder.blocks[0].attn.backend == "sdpa"
    assert list(model.state_dict()) == list(told(tiny(depth=1), "eager").state_dict())


def test_the_tenth_block_is_not_the_first():
    model = nn.ModuleDict({"decoder": nn.ModuleDict({"blocks": tiny(depth=11).decoder.blocks})})
    use(model, {"decoder.blocks.1": "eager"})
    backends = [block.attn.backend for block in model["decoder"]["blocks"]]
    assert [i for i, backend in enumerate(backends) if backend == "eager"] == [1]


def test_places_of_a_model_on_the_meta_device():
    with torch.device("meta"):
        model = MAE("vit_tiny_patch16_224", decoder_dim=64, decoder_depth=3, decoder_heads=4)
    images = torch.zeros(2, 3, 224, 224, device="meta")
    found = places(model, 2, lambda: model(images, rand(rows=2)))
    assert found == {
        "encoder": Place(1, 3, 50, 50, 64),
        "decoder.blocks": Place(1, 4, 197, 197, 16),
        "decoder.blocks.2": Place(1, 4, 147, 197, 16),
    }
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_places_of_a_classifier():
    with torch.device("meta"):
        model = Classifier(
            encoder="vit_tiny_patch16_224", classes=["a", "b"], image_size=32, patch_size=8
        )
    images = torch.zeros(2, 3, 32, 32, device="meta")
    found = places(model, 2, lambda: model.logits(images))
    assert found == {"encoder": Place(1, 3, 17, 17, 64)}


def test_kernels_by_name():
    assert set(BACKENDS) == {"sdpa", "eager", *KERNELS}
    q, k = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    want = attend(q, k, k, "eager")
    for name in HERE:
        torch.testing.assert_close(attend(q, k, k, name), want, rtol=1e-5, atol=1e-6)
    for name in ("cudnn", "efficient"):  # not on CPU: an error if it must be, else another one
        torch.testing.assert_close(attend(q, k, k, name), want, rtol=1e-5, atol=1e-6)
        with pytest.raises(RuntimeError):
            attend(q, k, k, name, strict=True)
    with kernel("math"), Names() as seen:
        torch.nn.functional.scaled_dot_product_attention(q, k, k)
    assert FUSED not in seen.names
