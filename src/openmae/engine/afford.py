"""A step that runs out of memory is done again in smaller parts, where the run allows that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from openmae.engine.memory import is_out_of_memory, release

if TYPE_CHECKING:
    from openmae.engine.loop import Batch, Plan, State


def affordable_step(
    step: Callable[[State, Batch, Plan], dict[str, Any]], state: State, batch: Batch, plan: Plan
) -> tuple[dict[str, Any], Plan]:
    """`step(state, batch, plan)`, and the plan to go on with.

    When memory runs out and `plan.lower` names a smaller micro-batch, the same step is done again
    with that: parts accumulate to the same batch, and nothing random depends on them. Not after the
    weights began to change, because a step done twice is another run.

    Raises:
        MemoryLimitError: by `plan.lower`, when nothing smaller is left.
    """
    while True:
        try:
            return step(state, batch, plan), plan
        except (RuntimeError, MemoryError) as error:
            if plan.lower is None or state.updating or not is_out_of_memory(error):
                raise
        # Out of the handler: the error holds the frames of the step, and these its tensors.
        state.optimizer.zero_grad(set_to_none=True)
        release(plan.device)
        plan = replace(plan, micro_batch=plan.lower(state.step, plan.micro_batch))
