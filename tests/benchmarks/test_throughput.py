"""The benchmark of the training step: the same maths for all, and results that are whole.

No time is asserted.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch

from openmae.weights.writers_official import official_names

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import memory
import peers
import ranks
import scaling
import steps
import throughput
from reference import Reference

TINY = [
    *("--model", "vit_tiny_patch16_224", "--depth", "1", "--image-size", "64"),
    *("--decoder-dim", "32", "--decoder-depth", "1", "--decoder-heads", "4"),
    *("--batch-size", "2", "--repeats", "1"),
]


def parsed(monkeypatch, module, *words):
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *TINY, *words])
    return module.parse()


@pytest.fixture
def args(monkeypatch):
    return parsed(monkeypatch, throughput, "--device", "cpu", "--peers", "reference")


def test_a_small_run_is_whole(monkeypatch):
    words = ("--device", "cpu", "--peers", "transformers,reference", "--profile", "--repeats", "2")
    result = throughput.measure(parsed(monkeypatch, throughput, *words))
    names = [(row["family"], row["variant"]) for row in result["rows"]]
    assert names == [
        ("openmae", "training path"),
        ("openmae", "full path"),
        ("transformers", "as shipped"),
        ("transformers", "tuned"),
        ("reference", "as shipped"),
        ("reference", "tuned"),
    ]
    rows = {(row["family"], row["variant"]): row for row in result["rows"]}
    assert len({row["parameters"] for row in rows.values()}) == 1, "all train the same weights"
    for row in rows.values():
        assert len(row["all_s"]) == row["n"] == 2
        assert row["images_per_s"] == pytest.approx(2 / row["median_s"])
        assert 0 < row["mfu_matmul"] < 2
    for family in ("transformers", "reference"):
        assert rows[family, "tuned"]["settings"]["optimizer"] == "fused"
        assert rows[family, "tuned"]["settings"]["channels"] in ("first", "last")
        assert "reads_loss" not in rows[family, "tuned"]["settings"]
    assert rows["reference", "as shipped"]["settings"]["attention"] == "eager"
    assert set(result["loss_difference"]) == {"openmae", "transformers", "reference"}
    assert max(result["loss_difference"].values()) < 1e-5
    best = max(rows[f, "tuned"]["images_per_s"] for f in ("transformers", "reference"))
    own = rows["openmae", "training path"]["images_per_s"]
    assert result["ratio_to_best_peer"] == pytest.approx(own / best)
    assert all(len(table["three_largest"]) == 3 for table in result["costs"])
    assert len(result["commit"]) == 40
    assert result["command"].startswith("python benchmarks/throughput.py --model vit_tiny")


def test_the_reference_is_the_paper(args):
    """In float64, loss and gradients of every weight."""
    model = steps.model_of(args).double()
    other = Reference(model).double()
    other.load(official_names(model))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    noise = torch.rand(2, 16)
    ours = model(images, noise=noise)["loss"]
    theirs = other(images, noise)
    assert theirs.item() == pytest.approx(ours.item(), rel=1e-12)
    ours.backward()
    theirs.backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        name = name.removeprefix("encoder.vit.")
        name = name.removeprefix("decoder.") if "mask_token" in name else name
        gradients[name.replace("decoder.", "decoder_")] = parameter.grad
    for name, parameter in other.named_parameters():
        if parameter.requires_grad and not name.endswith("qkv.bias"):
            gap = (parameter.grad - gradients[name]).norm() / gradients[name].norm()
            assert gap < 1e-12, name


@pytest.mark.parametrize("name", ["transformers", "lightly", "stable-pretraining", "reference"])
def test_a_peer_has_our_loss(args, name):
    model = steps.model_of(args)
    made = peers.build(name, model, torch.device("cpu"))
    if isinstance(made, str):
        pytest.skip(f"{name}: {made}; `make bench-peers` and its environment have it")
    assert steps.require_same(made, model, "cpu") < 1e-5
    loss = made.loss(steps.random_images(model, 2, torch.device("cpu")), None)
    loss.backward()
    trained = [p for p in made.module.parameters() if p.requires_grad]
    assert sum(p.grad is not None for p in trained) >= len(trained) - 1  # lightly has a spare token


def test_other_maths_are_not_timed(args):
    model = steps.model_of(args)
    peer = peers.build("reference", model, torch.device("cpu"))
    with torch.no_grad():
        peer.module.decoder_blocks[0].mlp.fc2.weight.mul_(1.5)
    with pytest.raises(SystemExit, match="different maths"):
        steps.require_same(peer, model, "cpu")


def test_an_absent_peer_says_why(args, monkeypatch):
    def absent(model):
        raise ImportError("No module named 'reference'")

    monkeypatch.setitem(peers.PEERS, "reference", absent)
    rows = steps.Rows(steps.model_of(args), args)
    assert [family for family, _ in rows.wanted()] == ["openmae", "openmae"]
    assert rows.absent == {"reference": "not installed (No module named 'reference')"}


def test_rows_switch_settings_of_a_shared_module(args):
    rows = steps.Rows(steps.model_of(args), args)
    rows.tuned["reference"] = {"attention": "sdpa", "channels": "last"}
    images = steps.random_images(rows.model, 2, torch.device("cpu"))
    shipped, tuned = (rows.row("reference", v, images) for v in ("as shipped", "tuned"))
    module = rows.family("reference").module
    for row, fused in ((shipped, False), (tuned, True), (shipped, False)):
        row.prepare()
        row.step()
        assert module.blocks[0].attn.fused is fused


def test_compiling_is_a_row_of_its_own(args, monkeypatch):
    args.compile = True
    wrapped = []
    monkeypatch.setattr(torch, "compile", lambda f, dynamic: wrapped.append(f) or f)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: wrapped.append(self))
    result = throughput.measure(args)
    variants = [row["variant"] for row in result["rows"]]
    assert variants.count("tuned, compiled") == variants.count("training path, compiled") == 1
    assert len(wrapped) == 3  # two blocks of ours, one loss of theirs


def test_what_torch_cannot_compile_is_told(args, monkeypatch):
    def broken(loss, dynamic):
        def run(*_):
            raise RuntimeError("graph break")

        return run

    args.compile = True
    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: None)
    rows = {row["name"]: row for row in throughput.measure(args)["rows"]}
    assert rows["reference, tuned, compiled"]["failed"] == "RuntimeError: graph break"


def test_the_largest_batch_of_each(monkeypatch):
    words = ("--device", "cpu", "--batch-size", "max", "--start", "1", "--peers", "reference")
    args = parsed(monkeypatch, throughput, *words)
    make = steps.Rows.row

    def little_memory(self, family, variant, images):
        if len(images) > (4 if family == "openmae" else 2):
            raise torch.OutOfMemoryError("no room")
        return make(self, family, variant, images)

    monkeypatch.setattr(steps.Rows, "row", little_memory)
    result = throughput.measure(args)
    assert [row["batch_size"] for row in result["rows"]] == [4, 4, 2, 2]
    assert result["interleaved"] is False
    assert result["batch_size"] == "max"


def test_ratios_without_a_peer():
    line = {"family": "openmae", "variant": "training path", "name": "a", "images_per_s": 2.0}
    found = throughput.ratios([line])
    assert found["ratio_to_best_peer"] is found["ratio_as_shipped"] is None
    other = {"family": "x", "variant": "tuned", "name": "b", "images_per_s": 1.0}
    slow = {"family": "y", "variant": "as shipped", "name": "c", "images_per_s": 0.5}
    found = throughput.ratios([line, other, slow])
    assert (found["ratio_to_best_peer"], found["ratio_as_shipped"]) == (2.0, 4.0)
    assert (found["best_peer"], found["best_as_shipped"]) == ("b", "c")


@pytest.mark.parametrize(
    ("words", "told"), [(("--peers", "x"), "--peers x"), (("--batch-size", "0"), "images, or max")]
)
def test_mistakes(monkeypatch, capsys, words, told):
    with pytest.raises(SystemExit):
        parsed(monkeypatch, throughput, *words)
    assert told in capsys.readouterr().err


@pytest.mark.gpu
def test_a_small_run_on_cuda(monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    words = ("--device", "cuda", "--peers", "transformers,reference", "--profile")
    result = throughput.measure(parsed(monkeypatch, throughput, *words))
    assert all(row["peak_bytes"] > 0 for row in result["rows"])
    assert all(table["of"] == "kernels" and table["rows"] for table in result["costs"])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_of_one(monkeypatch):
    args = parsed(monkeypatch, memory, "--device", "cpu", "--peers", "reference")
    args.family, args.variant = "reference", "tuned"
    found = memory.child(args)
    assert found["step_bytes"] == found["peak_bytes"] - found["before_bytes"]
    assert found["peak_bytes"] > 0


def test_memory_of_all(monkeypatch):
    told = {"peak_bytes": 3, "before_bytes": 1, "step_bytes": 2}
    args = parsed(monkeypatch, memory, "--device", "cpu", "--peers", "reference,lightly")
    monkeypatch.setattr(
        memory, "_ask", lambda f, v: {"absent": "x"} if f == "lightly" else copy.copy(told)
    )
    result = memory.measure(args)
    assert [row["name"] for row in result["rows"]][2:] == [
        "reference, as shipped",
        "reference, tuned",
    ]
    assert result["absent"] == {"lightly": "x"}


def test_scaling(monkeypatch):
    result = scaling.measure(parsed(monkeypatch, scaling, "--threads", "1"))
    assert [row["threads"] for row in result["rows"]] == [1]
    assert result["rows"][0]["efficiency"] == 1.0


def test_ranks(monkeypatch):
    result = ranks.measure(parsed(monkeypatch, ranks, "--ranks", "1"))
    assert [row["name"] for row in result["rows"]] == ["alone", "together", "exchanging"]
    assert all(row["n"] == 1 for row in result["rows"])
    parts = result["efficiency"] + result["sharing_share"] + result["communication_share"]
    assert parts == pytest.approx(1.0)
