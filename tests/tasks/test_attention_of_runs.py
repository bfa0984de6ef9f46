"""Which attention a run uses: by a rule, by measurement, as asked; written once and kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from openmae.cli import main
from openmae.config.pretrain import PretrainConfig
from openmae.errors import UsageError
from openmae.methods import MAE
from openmae.models.attention import Place
from openmae.tasks import attention
from openmae.tasks.attention import built, by_rule, candidates, resolve_attention, summary

PAPER = {"encoder": "eager", "decoder.blocks": "sdpa", "decoder.blocks.7": "sdpa"}


def config(**values: Any) -> PretrainConfig:
    return PretrainConfig(data="digits", batch_size=64, **values)


def meta(**values: Any) -> MAE:
    with torch.device("meta"):
        return MAE("vit_tiny_patch16_224", **values)


def resolved(device: str = "cpu", precision: str = "fp32", micro_batch: Any = 32) -> dict[str, Any]:
    return {"device": device, "precision": precision, "micro_batch": micro_batch}


# Without a measurement.


def test_the_rule_on_cpu_is_the_length():
    assert resolve_attention(config(), meta(), resolved()) == PAPER
    assert by_rule(Place(1, 4, 50, 99, 8), "cpu") == "eager"
    assert by_rule(Place(1, 4, 50, 100, 8), "cpu") == "sdpa"
    assert by_rule(Place(1, 4, 50, 50, 8), "mps") == "sdpa"


def test_nothing_is_measured_on_cpu(monkeypatch):
    """The same command must give the same bits."""
    monkeypatch.setattr(attention, "choose", lambda *_: pytest.fail("measured"))
    for deterministic in (False, True):
        given = config(deterministic=deterministic)
        assert resolve_attention(given, meta(), resolved()) == PAPER


@pytest.mark.parametrize("name", ["sdpa", "eager", "flash", "math"])
def test_as_asked(name):
    found = resolve_attention(config(attention=name), meta(), resolved())
    assert found == dict.fromkeys(PAPER, name)


@pytest.mark.parametrize("name", ["cudnn", "efficient"])
def test_what_is_not_there_is_refused(name):
    with pytest.raises(UsageError) as caught:
        resolve_attention(config(attention=name), meta(), resolved())
    text = str(caught.value)
    assert f"--attention {name}" in text
    assert "cpu in float32" in text
    assert "Use auto, sdpa, eager, flash, math" in text
    assert len(text.splitlines()) <= 4


def test_a_cross_attention_decoder_and_several_masks():
    model = meta(decoder="cross", decoder_depth=2, masks=3)
    found = attention.where(model)
    assert found == {
        "encoder": Place(3, 3, 50, 50, 64),
        "decoder.blocks": Place(3, 16, 147, 50, 32),
    }
    attention.use(model, {"decoder.blocks": "eager"})
    assert [block.attn.backend for block in model.decoder.blocks] == ["eager", "eager"]


# By measurement: what a run on a GPU asks for.


def test_each_shape_is_measured_once_at_the_micro_batch(monkeypatch):
    asked = []

    def choose(attend, names, size, device, dtype):
        asked.append((names, size, device.type, dtype))
        return names[-1], {}

    monkeypatch.setattr(attention, "choose", choose)
    found = resolve_attention(config(), meta(decoder_depth=3), resolved("cuda", "bf16"))
    assert found == {
        "encoder": "math",
        "decoder.blocks": "efficient",
        "decoder.blocks.2": "efficient",
    }
    assert [size for _, size, *_ in asked] == [
        (32, 3, 50, 50, 64), (32, 16, 197, 197, 32), (32, 16, 147, 197, 32),
    ]  # fmt: skip
    assert {(kind, dtype) for *_, kind, dtype in asked} == {("cuda", torch.bfloat16)}
    asked.clear()
    resolve_attention(config(), meta(decoder_depth=1), resolved("cuda", "fp32", "auto"))
    assert [size[0] for _, size, *_ in asked] == [64, 64]  # the batch: the rest is not known yet


def test_what_keeps_the_scores_is_no_candidate_where_they_are_large():
    assert candidates(Place(1, 12, 50, 50, 64))[0] == "sdpa"
    assert set(candidates(Place(1, 12, 50, 50, 64))) > {"eager", "math", "flash", "cudnn"}
    assert candidates(Place(1, 16, 197, 197, 32)) == ["sdpa", "flash", "cudnn", "efficient"]


@pytest.mark.parametrize(
    ("sound", "want"), [({"flash", "math"}, "flash"), ({"math"}, "math"), (set(), "eager")]
)
def test_deterministic_is_a_fixed_order(monkeypatch, sound, want):
    monkeypatch.setattr(attention, "choose", lambda *_: pytest.fail("measured"))
    seen = []

    def is_sound(attend, name, *_):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return name in sound

    monkeypatch.setattr(attention, "is_sound", is_sound)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    given = config(deterministic=True)
    found = resolve_attention(given, meta(decoder_depth=1), resolved("cuda", "bf16"))
    assert set(found.values()) == {want}
    assert all(seen)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_measurement_on_the_gpu(precision):
    found = resolve_attention(config(), meta(), resolved("cuda", precision))
    assert found.keys() == PAPER.keys()


# Of a run.


def test_a_run_that_was_begun_before_has_what_it_had():
    kind: Any = SimpleNamespace(build=lambda *_: meta(decoder_depth=1))
    job: Any = SimpleNamespace(config=config(), resolved={})
    assert built(kind, job).decoder.blocks[0].attn.backend == "sdpa"
    job.resolved["attention"] = {"decoder.blocks": "eager"}
    assert built(kind, job).decoder.blocks[0].attn.backend == "eager"


def test_in_words():
    assert summary({"encoder": "eager", "decoder.blocks": "eager"}) == "attention eager"
    assert summary({"encoder": "eager", "decoder.blocks": "sdpa"}) == (
        "attention encoder eager, decoder.blocks sdpa"
    )


def kept(out: Path) -> dict[str, str]:
    return yaml.safe_load((out / "config.yaml").read_text())["resolved"]["attention"]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(max((out / "checkpoints").iterdir()) / "weights.safetensors")


def test_the_choice_is_written_once_and_changed_when_allowed(
    run, make_images, sized, tmp_path, monkeypatch, capsys
):
    photos, out = make_images(tmp_path / "photos", 6), tmp_path / "run"
    begin = ["pretrain", photos, "--out", out]
    run(*begin, *sized("--steps", 2))
    assert set(kept(out).values()) == {"eager"}
    with monkeypatch.context() as patch:  # whatever the rule would say today
        patch.setattr(attention, "EAGER_BELOW", 0)
        run(*begin, *sized("--steps", 3), "--allow-change", "steps")
    assert set(kept(out).values()) == {"eager"}
    again = [str(w) for w in (*begin, *sized("--steps", 4), "--attention", "math")]
    assert main([*again, "--allow-change", "steps"]) == 2
    assert "--allow-change attention" in capsys.readouterr().err
    run(*again, "--allow-change", "steps,attention")
    assert set(kept(out).values()) == {"math"}


def test_backends_train_alike(run, make_images, sized, tmp_path):
    photos, found = make_images(tmp_path / "photos", 6), {}
    for name in ("eager", "flash", "math"):
        out = tmp_path / name
        run("pretrain", photos, "--out", out, *sized("--steps", 3, "--attention", name))
        assert set(kept(out).values()) == {name}
        found[name] = weights(out)
    for name in ("flash", "math"):
        for key, want in found["eager"].items():
            torch.testing.assert_close(found[name][key], want, rtol=1e-3, atol=1e-5)
