"""How a method is made to run on the hardware, in this order: recompute activations where that was
asked for, compile each block, then DDP, or FSDP2 where the weights are too many for one GPU.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from openmae.engine.distributed import World

SHARD_ABOVE = 1_500_000_000
"""Parameters above which "auto" means FSDP2: 16 bytes for each are weights, gradients and moments,
and 24 GB of them are the most that leaves room for activations on common GPUs."""

Forward = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Layout:
    """How ranks share a method: "none", "ddp", "fsdp" or "hsdp" (FSDP2 inside a machine, copies
    across machines)."""

    name: str = "none"
    reshard: bool = True  # FSDP2: give back the weights of a block after its forward pass
    compress: bool = False  # DDP: gradients travel as bfloat16


def choose_layout(asked: str, parameters: int, world: World) -> str:
    """The layout of a run; "auto" is by the number of parameters."""
    if world.size == 1:
        return "none"
    if asked == "auto":
        return "fsdp" if parameters > SHARD_ABOVE else "ddp"
    return asked


def recompute(method: nn.Module) -> None:
    """Blocks keep their inputs alone and run again in the backward pass, in place. What is random
    in them was drawn before, so that loss and gradients stay the same to the bit.
    """
    for block in method.blocks():  # type: ignore[operator]
        block.forward = partial(_again, block, block.forward)


def _again(block: nn.Module, forward: Forward, *values: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*values, **named)
    run = forward if torch.compiler.is_compiling() else _with_draws(block, forward)
    return checkpoint(run, *values, use_reentrant=False, preserve_rng_state=False, **named)


def _with_draws(block: nn.Module, forward: Forward) -> Forward:
    """The forward pass with the paths dropped that are dropped now: by the time it runs again,
    another pass of the same step may have set its own. (Graphs keep what they read.)
    """
    draws = [(m, m.draw) for m in block.modules() if getattr(m, "draw", None) is not None]

    def run(*values: Any, **named: Any) -> Any:
        for path, draw in draws:
            path.draw = draw
        return forward(*values, **named)

    return run if draws else forward


def parallelize(
    method: nn.Module,
    compile_blocks: bool,
    world: World | None = None,
    layout: Layout | None = None,
    accumulate: bool = False,
) -> nn.Module:
    """Compile the units that `method.blocks()` names and lay the method out over the ranks; returns
    what runs its forward pass. `accumulate`: a step has several backward passes.

    All of it is in place, so that names and hooks stay as they are. A graph is for one shape, and a
    break in it is an error. With torch's default a second batch size would make a graph for every
    size, which is slower, takes over the first size as well, and would let a run that goes on
    differ in bits from one that was never stopped.
    """
    layout = layout or Layout()
    sharded = world is not None and world.size > 1 and layout.name in ("fsdp", "hsdp")
    if compile_blocks:
        blocks = method.blocks()  # type: ignore[operator]
        # Blocks share their code, and may differ in mode or drop path: each may need its own graph,
        # and one more for each further image size.
        limit, sizes = torch._dynamo.config.recompile_limit, 1 + len(getattr(method, "sizes", ()))
        torch._dynamo.config.recompile_limit = max(limit, 8 + 2 * len(blocks) * sizes)
        for block in blocks:
            if sharded:  # the hooks of FSDP2 cannot be part of a graph
                block.forward = torch.compile(block.forward, fullgraph=True, dynamic=False)
            else:
                block.compile(fullgraph=True, dynamic=False)
    if world is None or world.size == 1 or layout.name == "none":
        return method
    if layout.name == "ddp":
        return _ddp(method, layout.compress, accumulate)
    _shard(method, world, layout)
    return method


def _ddp(method: nn.Module, compress: bool, accumulate: bool) -> nn.Module:
    """One graph for the whole run, unless a step has several backward passes: torch counts the uses
    of parameters in the first one, which must then be whole.
    """
    for parameter in method.parameters():
        if parameter.dim() == 4 and parameter.requires_grad:
            # The patch embedding is used as a transposed matrix, and so is its gradient; DDP wants
            # it as the weight lies in memory, to the last stride of a size of one.
            parameter.register_hook(lambda grad: grad.flatten().view(grad.shape))
    # Buffers are constants, or change alike on every rank: nothing is to be broadcast.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of a name that torch 2.10 knows alone
        wrapped = DistributedDataParallel(
            method,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            static_graph=not accumulate,
        )
    if compress:
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

        wrapped.register_comm_hook(None, default_hooks.bf16_compress_hook)
    return wrapped


def _shard(method: nn.Module, world: World, layout: Layout) -> None:
    """FSDP2 in place: each block is a unit, what is left of the method the outer one."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    kind = next(method.parameters()).device.type
    if layout.name == "hsdp":
        inside = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
        shape, names = (world.size // inside, inside), ("copies", "parts")
        mesh = init_device_mesh(kind, shape, mesh_dim_names=names)
    else:
        mesh = init_device_mesh(kind, (world.size,))
    for block in method.blocks():  # type: ignore[operator]
        fully_shard(block, mesh=mesh, reshard_after_forward=layout.reshard)
    fully_shard(method, mesh=mesh, reshard_after_forward=False)


def gradients_stay(forward: nn.Module, stay: bool) -> AbstractContextManager[Any]:
    """A backward pass whose gradients are not exchanged yet, because more parts of the batch
    follow.
    """
    if isinstance(forward, DistributedDataParallel):
        return forward.no_sync() if stay else nullcontext()
    exchange = getattr(forward, "set_requires_gradient_sync", None)
    if exchange is not None:
        exchange(not stay)
    return nullcontext()


def uncompiled(method: nn.Module) -> AbstractContextManager[Any]:
    """Run compiled blocks as they are written: what is measured on the way has other shapes, and
    compiling each of them would take longer than it saves.
    """
    blocks: list[nn.Module] = getattr(method, "blocks", list)()
    compiled = any(b._compiled_call_impl is not None or "forward" in vars(b) for b in blocks)
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()
