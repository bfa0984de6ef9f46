"""The method of a pretraining run, made from its settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from openmae.config.groupoptions import GroupOptions
from openmae.config.maskoptions import MaskOptions
from openmae.config.pretrain import PretrainConfig
from openmae.config.targetoptions import TargetOptions
from openmae.config.training import pair
from openmae.data.loader import Transform
from openmae.data.views import ViewsTransform
from openmae.errors import UsageError, did_you_mean
from openmae.methods import METHODS
from openmae.methods.base import Base, own_arguments
from openmae.methods.groupedmae import GroupedMAE
from openmae.tasks.namedvalues import named_values
from openmae.tasks.targeting import target_arguments

_RENAMED = {"decoder_fusion": "fusion"}
"""Settings whose argument has another name."""

_OF_MASKS = (
    *("mask", "mask_ratio", "target", "predict", "masks", "progressive", "augment", "crop"),
    *("decoder", "decoder_dim", "decoder_depth", "decoder_heads", "decoder_fusion"),
    *MaskOptions.model_fields,
    *TargetOptions.model_fields,
    *GroupOptions.model_fields,
)
"""Settings that mean something to a method only if it has an argument of the name."""


def methods() -> dict[str, type[Base]]:
    """The methods that pretrain, by name."""
    named = {name: kind for name, kind in METHODS.items() if issubclass(kind, Base)}
    return {name: kind for name, kind in named.items() if kind is not GroupedMAE}


def kind_of(config: PretrainConfig) -> type[Base]:
    """The class of the method.

    Raises:
        UsageError: no such method.
    """
    known = methods()
    if config.method not in known:
        near = did_you_mean(config.method, known)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"--method {config.method}: should be one of {', '.join(known)}.{hint}")
    if config.channel_groups and config.method == "mae":
        return GroupedMAE
    return known[config.method]


def meaningless(config: PretrainConfig, typed: Collection[str]) -> list[str]:
    """Those of the settings that were typed that mean nothing to the method."""
    kind = kind_of(config)
    own = own_arguments(kind)
    fine = {"registers"} | ({"augment", "crop"} if kind.masked else set())
    fine |= {"progressive"} if "sizes" in own else set()
    given = [name for name in dict.fromkeys(_OF_MASKS) if name in typed]
    return [n for n in given if n not in fine and _RENAMED.get(n, n) not in own]


def require_method(config: PretrainConfig, typed: Collection[str]) -> None:
    """Refuse what was typed and means nothing to the method; a recipe may have it.

    Raises:
        UsageError: no such method, or a setting that it does not have.
    """
    kind = kind_of(config)
    for name in meaningless(config, typed):
        option = "--" + name.replace("_", "-")
        raise UsageError(f"{option} means nothing to --method {config.method}: leave it out")
    if config.val is not None and not kind.masked:
        raise UsageError(
            f"--val: {config.method} compares views, and has no loss of held-out images. Leave it"
            " out, or watch the features with --knn"
        )


def completed(config: PretrainConfig) -> PretrainConfig:
    """The settings with the method's own defaults where nothing was given, those of MAE being the
    settings': a run keeps what it is, and goes on from that.

    Raises:
        UsageError: no such method.
    """
    own = own_arguments(kind_of(config))
    left = [n for n in dict.fromkeys(_OF_MASKS) if n not in config.model_fields_set]
    wanted = {n: own[_RENAMED.get(n, n)] for n in left if _RENAMED.get(n, n) in own}
    more = {n: v for n, v in wanted.items() if n != "target_args" and v != getattr(config, n)}
    return config.model_copy(update=more) if more else config


def build_method(config: PretrainConfig, resolved: Mapping[str, Any]) -> Base:
    """The method of a run, with its seeded initial weights.

    Raises:
        UsageError: no such method, or arguments that it does not take.
    """
    config = completed(config)
    kind = kind_of(config)
    own = own_arguments(kind)
    sizes = {"embed_dim": config.dim, "depth": config.depth, "num_heads": config.heads}
    sizes |= {"reg_tokens": config.registers or None}
    shared = {
        "encoder": config.model,
        "image_size": pair(config.image_size),
        "patch_size": None if config.patch_size is None else pair(config.patch_size),
        "in_chans": config.channels,
        "encoder_args": {k: v for k, v in sizes.items() if v is not None},
        "mean": resolved["mean"],
        "std": resolved["std"],
        "value_range": resolved.get("value_range"),
        "bands": [band - 1 for band in config.bands],
    }
    typed = _typed(config, own)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            return kind(**shared, **_settings(config, own, resolved), **typed)
        except UsageError as error:  # a method knows its arguments, not where they were given
            if str(error).partition("=")[0] in typed:
                raise UsageError(f"--method-args {error}") from None
            raise


def _settings(
    config: PretrainConfig, own: Mapping[str, Any], resolved: Mapping[str, Any]
) -> dict[str, Any]:
    """Of the settings, those that the method takes."""
    arguments = {name: _RENAMED.get(name, name) for name in _OF_MASKS if name != "target_args"}
    found = {a: getattr(config, name) for name, a in arguments.items() if a in own}
    if "target_args" in own:
        found["target_args"] = target_arguments(config, resolved)
    if "channel_groups" in own:
        found["channel_groups"] = config.groups
    if "sizes" in own:
        found["sizes"] = [size for size, _ in config.stages]
    return found


def _typed(config: PretrainConfig, own: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that have no setting of their own."""
    settings = {*_OF_MASKS, *_RENAMED.values(), "sizes", "target_args"}
    free = {name: default for name, default in own.items() if name not in settings}
    return named_values(config.method_args, free, "--method-args", f"method {config.method}")


def views_of(config: PretrainConfig, resolved: Mapping[str, Any]) -> Transform | None:
    """How a batch is made of the views that the method compares; None for one random crop."""
    if kind_of(config).masked:
        return None
    with torch.device("meta"):
        views = build_method(config, resolved).views()
    if views is None:
        return None
    scale = {k: resolved[k] for k in ("mean", "std")} if resolved.get("value_range") else {}
    return ViewsTransform(pair(config.image_size), views, config.seed, **scale)
