"""Tokens as a target: ids of the codebook, cross-entropy against its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import openmae
from openmae.errors import UsageError
from openmae.methods.tokenizer import Tokenizer
from openmae.models.encoder import Encoder, build_vit
from openmae.models.patches import patchify
from openmae.targets.tokens import Tokens


def test_values_are_the_ids_and_nothing_is_trained():
    target = Tokens((2, 2), 3, codes=7)
    x = torch.randn(2, 5, 12, generator=torch.manual_seed(0))
    ids = target.values(x, x, x)
    assert torch.equal(ids, target.codebook.ids(x))
    assert target.width == 7
    assert not any(p.requires_grad for p in target.parameters())
    assert "codebook.codes" in target.state_dict()


def test_cross_entropy():
    target = Tokens((2, 2), 3, codes=3)
    pred = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.manual_seed(0))
    ids = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 0]])
    loss = target.loss(pred, ids)
    for i in range(2):
        for j in range(4):
            row = pred[i, j].tolist()
            want = math.log(sum(map(math.exp, row))) - row[ids[i, j]]
            assert float(loss[i, j]) == pytest.approx(want, rel=1e-12)
    half = target.loss(pred.bfloat16(), ids)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, loss.float(), rtol=0, atol=0.02)


def test_the_constant_predictor_has_the_logarithm_of_the_codes():
    target = Tokens((2, 2), 3, codes=8)
    loss = target.loss(torch.zeros(1, 2, 8), torch.tensor([[0, 5]]))
    torch.testing.assert_close(loss, torch.full((1, 2), math.log(8)))


def test_impossible():
    with pytest.raises(UsageError, match="kmeans, vqvae"):
        Tokens((2, 2), 3, kind="bpe")


def encoder(**more: Any) -> Encoder:
    given = {"mean": (0.2, 0.5, 0.6), "std": (0.3, 0.25, 0.2), "bands": (), "value_range": None}
    create = {"model_name": "vit_tiny_patch16_224", "num_classes": 0, "in_chans": 3}
    create |= {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 1}
    given |= more
    create["in_chans"] = len(given["mean"])
    return Encoder(build_vit(create), given["mean"], given["std"], create, given["value_range"],
                   given["bands"])  # fmt: skip


def tokenizer(**more: Any) -> Tokenizer:
    given = {"patch_size": 4, "in_chans": 3, "mean": (0.4,) * 3, "std": (0.1, 0.2, 0.3)}
    return Tokenizer(**(given | {"codes": 40} | more))


@pytest.mark.parametrize("kind", ["kmeans", "vqvae"])
def test_tokens_are_those_of_the_tokenizer_whatever_the_normalisation(kind):
    model, reader = tokenizer(kind=kind, width=4, hidden=8).double(), encoder().double()
    made = Tokens.of(reader, tokenizer="t", **Tokens.arguments_from(model)).double()
    made.load_parts(model)
    images = torch.randint(0, 256, (9, 3, 8, 8), generator=torch.manual_seed(0)).to(torch.uint8)
    patches = patchify(reader.normalize(images), (4, 4))
    want = model(images)["tokens"]
    assert torch.equal(made.values(patches, images, want), want)
    assert len(want.unique()) > 5
    assert not torch.equal(made.codebook.ids(patches), want), "it is converted"


def test_one_normalisation_changes_no_bit():
    scale = {"mean": (0.2, 0.5, 0.6), "std": (0.3, 0.25, 0.2)}
    made = Tokens.of(encoder(), **Tokens.arguments_from(tokenizer(**scale)))
    patches = torch.randn(2, 4, 48, generator=torch.manual_seed(0))
    assert torch.equal(made.seen(patches), patches)


def test_a_tokenizer_that_does_not_fit():
    for more, told in [
        ({"patch_size": (4, 8)}, "patches of 4x8, this model of 4x4. Use --patch-size 4 8"),
        ({"in_chans": 1, "mean": (0.5,), "std": (0.5,)}, "reads 1 channels, this model 3"),
        ({"value_range": (0, 4095)}, "made for values 0:4095, this model for 8-bit values"),
        ({"bands": (2, 1, 0)}, "of bands 3 2 1"),
    ]:
        arguments = Tokens.arguments_from(tokenizer(**more))
        with pytest.raises(UsageError, match="target tokens: the tokenizer") as found:
            Tokens.of(encoder(), **arguments)
        assert told in str(found.value)
    with pytest.raises(UsageError, match="a model of another kind"):
        Tokens.arguments_from(encoder())
    arguments = {**Tokens.arguments_from(tokenizer()), "codes": 7}
    with pytest.raises(UsageError, match="codes, kind, width and hidden are those"):
        Tokens.of(encoder(), **arguments).load_parts(tokenizer())


def test_perplexity_of_a_batch():
    target = Tokens((2, 2), 3, codes=8)
    for ids, want in ([[0, 5], [5, 0]], 2.0), ([[1, 1], [1, 1]], 1.0):
        told = target.notes(torch.tensor(ids))["token_perplexity"]
        assert float(told) == pytest.approx(want)


@pytest.mark.parametrize("name", ["encoder", "arguments", "code"])
def test_a_wrong_argument_is_named(name):
    with pytest.raises(UsageError, match=f"target tokens has no {name}"):
        openmae.MAE(
            "vit_tiny_patch16_224", 32, 8, target="tokens", target_args={name: 1}, decoder_depth=1
        )
