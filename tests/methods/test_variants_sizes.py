"""One model at several image sizes: each step is that of a model built for its size."""

from __future__ import annotations

import pytest
import torch
from variant_models import CROSS, FUSED, pictures, rand, same, tiny, train


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("prefix", [0, 5])
@pytest.mark.parametrize("variant", [{}, {**FUSED, "predict": 0.5}], ids=["self", "cross"])
def test_another_size_is_the_model_of_that_size(variant, prefix, full):
    more = {"class_token": False} if prefix == 0 else {"reg_tokens": 4}
    sizes = {"embed_dim": 32, "depth": 3, "num_heads": 2, **more}
    model = tiny(**variant, encoder_args=sizes, sizes=[(16, 32), (24, 32)])
    for size in ((16, 32), (24, 32)):
        small = tiny(**variant, encoder_args=sizes, image_size=size)
        own = {n: t for n, t in model.state_dict().items() if not n.endswith("pos_embed")}
        small.load_state_dict(own, strict=False)
        images = pictures(model, size=size)
        found = train(model, images, rand=rand(), full=full)
        same(found, train(small, images, rand=rand(), full=full))


def test_further_sizes_leave_the_file_alone():
    model = tiny(sizes=[(16, 24)])
    assert model.state_dict().keys() == tiny().state_dict().keys()
    assert model.encoder.grid == (4, 6)


def test_a_size_that_was_not_asked_for():
    for model in (tiny(), tiny(sizes=[(16, 24)])):
        with pytest.raises(ValueError, match=r"images must be \(B, 3, 32, 48\).*, not"):
            model(pictures(model, size=(24, 24)))


def test_learned_positions_have_one_size():
    model = tiny(sizes=[(16, 24)])
    model.encoder.vit.pos_embed.requires_grad_(True)
    model(pictures(model))
    with pytest.raises(ValueError, match="positions that are learned have one size"):
        model(pictures(model, size=(16, 24)))


@pytest.mark.parametrize("variant", [{}, CROSS], ids=["self", "cross"])
def test_a_size_is_compiled_once(variant):
    """Static shapes: as many graphs as a block of its kind has sizes, and none when one returns."""
    model, graphs = tiny(**variant, sizes=[(16, 24), (24, 32)]), []
    lower = torch._dynamo.lookup_backend("aot_eager")

    def backend(graph, inputs):
        graphs.append(graph)
        return lower(graph, inputs)

    torch.compiler.reset()
    counts = []
    for block in model.blocks():
        block.compile(backend=backend, fullgraph=True, dynamic=False)
    for size in ((16, 24), (16, 24), (24, 32), (32, 48), (32, 48), (16, 24)):
        train(model, pictures(model, size=size), rand=rand())
        counts.append(len(graphs))
    torch.compiler.reset()
    first = counts[0]
    assert counts == [first, first, 2 * first, 3 * first, 3 * first, 3 * first]
