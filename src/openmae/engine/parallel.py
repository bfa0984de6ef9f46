"""How a method is made to run on the hardware: compile each block, in place."""

from __future__ import annotations

from torch import nn


def parallelize(method: nn.Module, compile_blocks: bool) -> nn.Module:
    """Compile the units that `method.blocks()` names, in place, so that names and hooks stay as
    they are.
    """
    if compile_blocks:
        for block in method.blocks():  # type: ignore[operator]
            block.compile()
    return method
