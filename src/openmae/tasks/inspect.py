"""`openmae inspect`: what a checkpoint is, and what can be done with it."""

from __future__ import annotations

from typing import Any

from openmae.config.base import Options
from openmae.config.convert import InspectConfig
from openmae.engine.log import say, warn
from openmae.engine.runfolder import Results
from openmae.methods.classify import Classifier
from openmae.methods.mae import MAE
from openmae.methods.segment import Segmenter
from openmae.methods.tokenizer import Tokenizer
from openmae.models.encoder import Encoder
from openmae.models.groups import told
from openmae.weights import Loaded, load_any
from openmae.weights.container import printable
from openmae.weights.foreign import Found
from openmae.weights.writers import deep_input

_COMMANDS = {
    "mae": (
        "openmae reconstruct {0} IMAGES -o reconstruction.png",
        "openmae embed {0} IMAGES -o features.npz",
        "openmae pretrain IMAGES --init {0}",
    ),
    "encoder": (
        "openmae embed {0} IMAGES -o features.npz",
        "openmae finetune {0} LABELLED_FOLDER",
        "openmae pretrain IMAGES --init {0}",
    ),
    "segmenter": (
        "openmae segment predict {0} IMAGES -o masks",
        "openmae segment evaluate {0} DATA",
        "openmae convert {0} --to timm -o FOLDER",
    ),
    "classifier": (
        "openmae predict {0} IMAGES -o predictions.csv",
        "openmae evaluate {0} LABELLED_FOLDER",
        "openmae convert {0} --to timm -o FOLDER",
    ),
}


def run(config: InspectConfig, options: Options) -> Results:
    """Print what the file is; the result holds the same facts."""
    loaded = load_any(config.file, config.heads, config.decoder_heads, config.trust_source)
    if isinstance(loaded.model, Tokenizer):
        return _tokenizer(loaded, config.file)
    found = loaded.found
    facts = _facts(loaded)
    say("File", loaded.what)
    if found is not None:
        facts |= {"kind": found.kind, "container": found.container}
        say("", f"read as {found.container}, names of {found.dialect}")
    say("Model", _sentence(loaded, facts))
    say("Pixels", _pixels(facts, found))
    for line in deep_input(loaded.encoder):
        say("", line)
    if len(loaded.encoder.groups) > 1:
        facts["channel_groups"] = told(loaded.encoder.groups)
        say("", f"channel groups {facts['channel_groups']}: one token each at every patch")
    if "target" in facts:
        reason = f" ({found.target_reason})" if found is not None else ""
        size = f"{facts['decoder_depth']}x{facts['decoder_dim']}, {facts['decoder_heads']} heads"
        kinds = {"cross": "cross-attention, ", "linear": "linear, ", "mlp": "mlp, "}
        kind = kinds.get(facts["decoder"], "")
        if not facts["decoder_depth"]:
            size = "from each token alone"
        say("Decoder", f"{kind}{size}; predicts {facts['target']}{reason}")
    else:
        say("Decoder", "none: it cannot reconstruct images")
    if found is not None and found.extra:
        say("Beside", _told(found))
    for notice in loaded.notices:
        warn(notice)
    shows = not isinstance(loaded.model, MAE) or loaded.model.pictures
    lines = [line for line in _COMMANDS[facts["what"]] if shows or " reconstruct " not in line]
    for number, line in enumerate(lines):
        say("" if number else "Next", line.format(config.file))
    return Results(facts)


def _facts(loaded: Loaded) -> dict[str, Any]:
    model, encoder = loaded.model, loaded.encoder
    vit = encoder.vit
    facts: dict[str, Any] = {
        "what": "encoder",
        "model": encoder.create["model_name"],
        "embed_dim": vit.embed_dim,
        "depth": len(vit.blocks),
        "heads": vit.blocks[0].attn.num_heads,
        "image_size": list(encoder.image_size),
        "patch_size": list(encoder.patch),
        "channels": encoder.in_chans,
        "class_token": encoder.num_prefix_tokens > 0,
        "parameters": sum(p.numel() for p in model.parameters()),
        "mean": [round(v, 6) for v in encoder.mean.flatten().tolist()],
        "std": [round(v, 6) for v in encoder.std.flatten().tolist()],
        "value_range": encoder.value_range and list(encoder.value_range),
        "bands": [band + 1 for band in encoder.bands],
        "has_decoder": isinstance(model, MAE),
    }
    if isinstance(model, MAE):
        block: Any = next(iter(model.decoder.blocks), None)
        facts |= {
            "what": "mae",
            "target": model.target,
            "mask_ratio": model.mask_ratio,
            "decoder_dim": model.decoder.pred.in_features,
            "decoder": model.arguments["decoder"],
            "decoder_depth": len(model.decoder.blocks),
            "decoder_heads": 0 if block is None else block.attn.num_heads,
        }
    if isinstance(model, Classifier):
        facts |= {"what": "classifier", "classes": len(model.classes), "pool": model.pool}
    if isinstance(model, Segmenter):
        facts |= {"what": "segmenter", "classes": len(model.classes)}
        facts["head"] = model.arguments["head"]
    assert isinstance(encoder, Encoder)
    return facts


def _tokenizer(loaded: Loaded, file: str) -> Results:
    model = loaded.model
    assert isinstance(model, Tokenizer)
    facts = {
        "what": "tokenizer",
        "kind": model.codebook.kind,
        "codes": len(model.usage),
        "patch_size": list(model.patch),
        "channels": model.in_chans,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    say("File", loaded.what)
    say(
        "Model",
        f"tokenizer ({facts['kind']}, {facts['codes']:,} codes), patch"
        f" {model.patch[0]}x{model.patch[1]}, {model.in_chans} channels",
    )
    say("Next", f"openmae pretrain IMAGES --target tokens --target-args tokenizer={file}")
    return Results(facts)


def _sentence(loaded: Loaded, facts: dict[str, Any]) -> str:
    height, width = facts["image_size"]
    patch = "x".join(map(str, facts["patch_size"]))
    size = f"{facts['depth']}x{facts['embed_dim']}, {facts['heads']} heads"
    by = f"{facts['pool']} pool" if "pool" in facts else facts.get("head", "")
    head = f", {facts['classes']} classes by {by}" if "classes" in facts else ""
    return (
        f"{facts['model']} ({size}), {height}x{width} px, patch {patch}, {facts['channels']}"
        f" channels, {facts['parameters'] / 1e6:.1f} M parameters{head}"
    )


def _pixels(facts: dict[str, Any], found: Found | None) -> str:
    """Mean and std of the images in [0, 1], and whether the file tells them."""
    mean, std = (" ".join(f"{v:.4g}" for v in facts[name]) for name in ("mean", "std"))
    told = found is None or (found.hints.mean is not None and found.hints.std is not None)
    return f"mean {mean}; std {std}" + ("" if told else " (assumed: nothing here tells)")


def _told(found: Found) -> str:
    args = found.extra.get("args")
    words = [f"{k} {v}" for k, v in found.extra.items() if not isinstance(v, dict)]
    if isinstance(args, dict):
        shown = ("model", "mask_ratio", "norm_pix_loss", "epochs", "batch_size", "blr", "lr")
        words += [f"args.{k} {args[k]}" for k in shown if k in args]
    return printable(", ".join(words))[:200]
