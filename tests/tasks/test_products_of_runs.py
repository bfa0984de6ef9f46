"""How a run multiplies its linear layers: by a rule, as asked; written once and kept."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import openmae
from openmae.cli import main
from openmae.config.pretrain import PretrainConfig
from openmae.errors import UsageError
from openmae.methods import MAE
from openmae.models import products as models
from openmae.models.products import OneDNNLinear, exists
from openmae.tasks import benchmark, products
from openmae.tasks.attention import built
from openmae.tasks.products import by_rule, resolve_products

needs_onednn = pytest.mark.skipif(not exists(), reason="this torch has no oneDNN")

AMD = ["AMD EPYC", "AMD EPYC 9654 96-Core Processor", "AMD Ryzen 9 7950X 16-Core Processor"]
OTHERS = ["Intel(R) Xeon(R) Platinum 8581C CPU @ 2.30GHz", "Apple M3", "arm", "Neoverse-V2", ""]


def config(**values: Any) -> PretrainConfig:
    return PretrainConfig(data="digits", **values)


def resolved(device: str = "cpu", precision: str = "fp32") -> dict[str, Any]:
    return {"device": device, "precision": precision}


@pytest.fixture
def processor(monkeypatch):
    """A function that gives this machine another processor."""
    return lambda name: monkeypatch.setattr(products, "cpu_name", lambda: name)


# The rule.


@needs_onednn
@pytest.mark.parametrize(
    ("names", "want"), [(AMD, "onednn"), (OTHERS, "torch")], ids=["AMD", "others"]
)
def test_the_rule_is_the_processor(names, want, processor):
    for name in names:
        assert by_rule("cpu", "fp32", name) == want
        processor(name)
        for more in ({}, {"compile": True}, {"deterministic": True}):
            assert resolve_products(config(**more), resolved()) == want


@pytest.mark.parametrize("place", [("cpu", "bf16"), ("cuda:0", "bf16"), ("cuda", "fp32"), ("mps",)])
def test_elsewhere_it_is_torchs(place, processor):
    processor(AMD[0])
    assert resolve_products(config(), resolved(*place)) == "torch"


def test_without_onednn_it_is_torchs(processor, monkeypatch):
    processor(AMD[0])
    monkeypatch.setattr(products, "exists", lambda: False)
    assert resolve_products(config(), resolved()) == "torch"
    with pytest.raises(UsageError, match=r"was built without it\. Use auto or torch"):
        resolve_products(config(products="onednn"), resolved())


@needs_onednn
def test_as_asked(processor):
    for name in (AMD[0], OTHERS[0]):
        processor(name)
        assert resolve_products(config(products="onednn"), resolved()) == "onednn"
        assert resolve_products(config(products="torch"), resolved()) == "torch"
    assert resolve_products(config(products="torch"), resolved("cuda", "bf16")) == "torch"


@needs_onednn
@pytest.mark.parametrize("place", [("cpu", "bf16"), ("cuda:1", "fp32"), ("mps", "fp32")])
def test_what_cannot_be_is_refused(place):
    with pytest.raises(UsageError) as caught:
        resolve_products(config(products="onednn"), resolved(*place))
    text = str(caught.value)
    assert f"not {place[1]} on {place[0]}. Use auto or torch" in text
    assert len(text.splitlines()) <= 4


# Of a run.


@needs_onednn
def test_a_run_that_was_begun_before_has_what_it_had():
    def build(*_: Any) -> MAE:
        with torch.device("meta"):
            return MAE("vit_tiny_patch16_224", decoder_depth=1)

    kind: Any = SimpleNamespace(build=build)
    job: Any = SimpleNamespace(config=config(), resolved={})
    assert type(built(kind, job).decoder.embed) is torch.nn.Linear
    job.resolved["products"] = "onednn"
    made = built(kind, job)
    assert type(made.decoder.embed) is type(made.encoder.vit.blocks[0].attn.qkv) is OneDNNLinear
    assert made.decoder.blocks[0].attn.products == made.encoder.products == "onednn"


def kept(out: Path) -> dict[str, Any]:
    return yaml.safe_load((out / "config.yaml").read_text())["resolved"]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(max((out / "checkpoints").iterdir()) / "weights.safetensors")


@needs_onednn
def test_the_choice_is_written_once_and_changed_when_allowed(
    run, make_images, sized, tmp_path, processor, capsys
):
    photos, out = make_images(tmp_path / "photos", 6), tmp_path / "run"
    begin = ["pretrain", photos, "--out", out]
    processor(AMD[0])
    assert "; products onednn" in run(*begin, *sized("--steps", 2))
    assert kept(out)["products"] == "onednn"
    processor(OTHERS[0])  # whatever the rule would say here
    run(*begin, *sized("--steps", 3), "--allow-change", "steps")
    assert kept(out)["products"] == "onednn"
    again = [str(w) for w in (*begin, *sized("--steps", 4), "--products", "torch")]
    assert main([*again, "--allow-change", "steps"]) == 2
    assert "--allow-change products" in capsys.readouterr().err
    attention = kept(out)["attention"]
    run(*again, "--allow-change", "steps,products")
    assert (kept(out)["products"], kept(out)["attention"]) == ("torch", attention)
    saved = yaml.safe_load((out / "config.yaml").read_text())
    del saved["products"], saved["resolved"]["products"]  # a run of an earlier version
    (out / "config.yaml").write_text(yaml.safe_dump(saved))
    processor(AMD[0])
    run(*begin, *sized("--steps", 5), "--allow-change", "steps")
    assert kept(out).get("products", "torch") == "torch"


@needs_onednn
def test_both_train_alike_and_one_gives_the_same_bits(
    run, make_images, sized, tmp_path, monkeypatch
):
    """The products of a tiny model are torch's by their size, so the limit is lowered."""
    monkeypatch.setattr(models, "LEAST", 0)
    seen: list[int] = []
    real = models.multiply
    monkeypatch.setattr(
        models, "multiply", lambda *given: seen.append(given[0].numel()) or real(*given)
    )
    photos, found = make_images(tmp_path / "photos", 6), {}
    for name, kind in (("a", "onednn"), ("b", "onednn"), ("c", "torch")):
        words = sized("--steps", 3, "--products", kind)
        run("pretrain", photos, "--out", tmp_path / name, *words)
        assert kept(tmp_path / name)["products"] == kind
        found[name] = weights(tmp_path / name)
        assert bool(seen) is (kind == "onednn")
        seen.clear()
    for key, want in found["c"].items():
        assert torch.equal(found["a"][key], found["b"][key])
        torch.testing.assert_close(found["a"][key], want, rtol=1e-3, atol=1e-5)
    loaded = openmae.load(tmp_path / "a")  # outside of a run: torch's
    assert not any(isinstance(module, OneDNNLinear) for module in loaded.modules())


@needs_onednn
def test_fine_tuning_and_the_benchmark_know_it(run, trained, classes, tmp_path, sized, monkeypatch):
    out = tmp_path / "tuned"
    words = ["--steps", 2, "--batch-size", 4, "--warmup-epochs", 0, "--recipe", "small"]
    words += ["--workers", 0, "--products", "onednn"]
    run("finetune", trained, classes, "--out", out, *words)
    assert kept(out)["products"] == "onednn"
    for name, value in {"_SECONDS": 0.0, "_WINDOWS": 1}.items():
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(benchmark, "matmul_rate", lambda *_, **__: 1e11)
    options = sized("--batch-size", 2, "--products", "onednn")
    pairs = [options[i : i + 2] for i in range(0, len(options), 2)]
    small = [w for pair in pairs if pair[0] not in ("--warmup-epochs", "--workers") for w in pair]
    run("benchmark", *small, "-o", tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text())["products"] == "onednn"
