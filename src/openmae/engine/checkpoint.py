"""Checkpoints that a kill, a full disk or a flipped bit cannot turn into a lost or a wrong run.

A checkpoint is a folder `step_00001000/` with weights.safetensors, optimizer.safetensors,
state.json and MANIFEST.json. It is written under a temporary name, its manifest (size and sha256 of
every file) last, everything fsynced, then renamed. What has no manifest, or does not agree with it,
is no checkpoint. No random state is in it: the data state is the step.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from openmae.engine.ema import EMA
from openmae.engine.manifest import FORMAT, MANIFEST, write_json
from openmae.engine.manifest import listed as listed
from openmae.engine.manifest import problem as problem
from openmae.engine.manifest import step_of as step_of
from openmae.engine.sharding import Wholes, fill
from openmae.engine.tensorfile import sync_folder, write_tensors
from openmae.errors import StorageError

_TEMPORARY = ".tmp-step_"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    path: Path
    step: int
    state: dict[str, Any]


def save(
    folder: Path,
    step: int,
    method: nn.Module,
    optimizer: Optimizer | None,
    ema: EMA | None,
    state: Mapping[str, Any],
) -> Path:
    """Write the checkpoint of a step; a complete one that is there already is kept. Where ranks
    share the tensors the others call `contribute` meanwhile.

    Raises:
        OSError: the disk refuses; nothing but complete checkpoints is left behind.
    """
    shares = contents(method, optimizer, ema)
    try:
        return write(folder, step, shares, state)
    finally:  # whatever happens here, the other ranks wait to give their parts
        for share in shares.values():
            share.finish()


def contribute(method: nn.Module, optimizer: Optimizer | None, ema: EMA | None) -> None:
    """What the other ranks do while rank 0 saves: give their parts of shared tensors."""
    for share in contents(method, optimizer, ema).values():
        share.finish()


def contents(method: nn.Module, optimizer: Optimizer | None, ema: EMA | None) -> dict[str, Wholes]:
    """What goes into each file, in the order in which all ranks go through it."""
    shares = {"weights.safetensors": Wholes(weights(method, ema))}
    if optimizer is not None:
        shares["optimizer.safetensors"] = Wholes(optimizer_tensors(method, optimizer))
    return shares


def write(
    folder: Path,
    step: int,
    files_of: Mapping[str, Iterable[tuple[str, Tensor]]],
    state: Mapping[str, Any],
) -> Path:
    """The same from named tensors of each file, such as `contents` or a copy of it."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
    final = folder / f"step_{step:08d}"
    if final.exists():
        if problem(final) is None:
            return final
        shutil.rmtree(final)
    temporary = folder / f"{_TEMPORARY}{step:08d}-{uuid.uuid4().hex}"
    try:
        temporary.mkdir()
        files = {name: write_tensors(temporary / name, of) for name, of in files_of.items()}
        files["state.json"] = write_json(temporary / "state.json", {"step": step, **state})
        listed = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in files.items()}
        write_json(temporary / MANIFEST, {"format": FORMAT, "step": step, "files": listed})
        sync_folder(temporary)
        os.replace(temporary, final)
        sync_folder(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def weights(method: nn.Module, ema: EMA | None) -> list[tuple[str, Tensor]]:
    """Parameters and buffers by name, and averaged weights under "ema."."""
    named = list(method.state_dict().items())
    if ema is not None:
        named += [(f"ema.{name}", tensor) for name, tensor in ema.tensors().items()]
    return named


def optimizer_tensors(method: nn.Module, optimizer: Optimizer) -> list[tuple[str, Tensor]]:
    """AdamW's state by parameter name, "name/exp_avg"; group settings come from the configuration,
    never from a file.
    """
    named: list[tuple[str, Tensor]] = []
    for name, parameter in method.named_parameters():
        state = optimizer.state.get(parameter, {})
        named += [
            (f"{name}/{key}", value)
            for key, value in sorted(state.items())
            if isinstance(value, Tensor)
        ]
    return named


def _lost(steps: int) -> str:
    return f" ({steps:,} step{'' if steps == 1 else 's'} lost)" if steps > 0 else ""


def read(path: Path) -> Checkpoint:
    """A checkpoint that was verified."""
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return Checkpoint(path, int(state["step"]), state)


def latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and a line for each newer one that does not.

    Raises:
        StorageError: there are checkpoints, and none can be used.
    """
    complaints: list[tuple[int, str]] = []
    for path in listed(folder):
        wrong = problem(path)
        if wrong is None:
            found = read(path)
            return found, [f"{c}; using {path.name}{_lost(n - found.step)}" for n, c in complaints]
        complaints.append((step_of(path), f"{path.name}: {wrong}"))
    if complaints:
        raise StorageError(
            f"No checkpoint in {folder} can be used: {complaints[0][1]}\nRestore one from a copy,"
            " or use another --out"
        )
    return None, []


def restore(
    checkpoint: Checkpoint, method: nn.Module, optimizer: Optimizer | None, ema: EMA | None
) -> None:
    """Copy a checkpoint into a method, its optimizer and its averaged weights, in place.

    Raises:
        StorageError: the tensors are not those of this method.
    """
    with torch.no_grad():
        stored = dict(weights(method, ema))
        _copy(checkpoint.path / "weights.safetensors", stored)
        if optimizer is not None:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    state = optimizer.state[parameter]
                    state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
            path = checkpoint.path / "optimizer.safetensors"
            with safe_open(path, framework="pt") as file:
                empty = not file.keys()
            if empty:  # saved before the first step
                optimizer.state.clear()
            else:
                _copy(path, dict(optimizer_tensors(method, optimizer)))


def load_weights(checkpoint: Checkpoint, method: nn.Module) -> bool:
    """Copy the weights of a checkpoint into a method, averaged ones where it has them; returns
    whether it has.
    """
    path = checkpoint.path / "weights.safetensors"
    own = method.state_dict()
    with safe_open(path, framework="pt") as file:
        stored = set(file.keys())
        averaged = any(name.startswith("ema.") for name in stored)
        if {n for n in stored if not n.startswith("ema.")} != own.keys():
            raise StorageError(
                f"{path} does not hold the weights of the method that its state.json names"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                average = f"ema.{name}"
                key = average if average in stored else name
                tensor.copy_(_same_shape(path, key, file.get_tensor(key), tensor))
    return averaged


def _copy(path: Path, into: Mapping[str, Tensor]) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if names != into.keys():
                odd = sorted(names ^ into.keys())
                raise StorageError(
                    f"{path} does not hold the tensors of this run ({len(odd)} differ, first"
                    f" {odd[0]})"
                )
            for name, tensor in into.items():
                fill(tensor, _same_shape(path, name, file.get_tensor(name), tensor))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise StorageError(f"{path} cannot be loaded: {error}") from None


def _same_shape(path: Path, name: str, stored: Tensor, own: Tensor) -> Tensor:
    """The stored tensor; never one that would only fit by being repeated."""
    if stored.shape != own.shape:
        raise StorageError(
            f"{path}: {name} is {tuple(stored.shape)} there, {tuple(own.shape)} in this run"
        )
    return stored


def prune(folder: Path, keep: int, verified: set[Path] | None = None) -> None:
    """Remove what is older than the newest `keep` sound checkpoints, once the newest verifies; a
    damaged one does not count. Stale temporary folders go too. `verified` remembers those of which
    every byte was read: these are then known by their sizes.
    """
    verified = set() if verified is None else verified
    kept = 0
    for path in listed(folder):
        if kept == keep:
            shutil.rmtree(path, ignore_errors=True)
        elif problem(path, hashes=path not in verified) is None:
            verified.add(path)
            kept += 1
        elif not kept:
            return  # the newest is damaged: the others are all there is
    clean(folder)


def clean(folder: Path) -> None:
    """Remove what a killed save left behind."""
    for path in folder.glob(f"{_TEMPORARY}*") if folder.is_dir() else ():
        shutil.rmtree(path, ignore_errors=True)


def bytes_needed(method: nn.Module, ema: bool) -> int:
    """Size of one checkpoint: weights, AdamW's two moments of what is trained, averaged weights."""
    tensors = method.state_dict().values()
    own = sum(t.numel() * t.element_size() for t in tensors)
    trained = sum(p.numel() * p.element_size() for p in method.parameters() if p.requires_grad)
    return own + 2 * trained + (own if ema else 0) + 200_000
