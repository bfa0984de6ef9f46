"""What ranks agree on before each step: to go on, to stop, or to end with an error of one of them.

It is asked when the next batch is there, so that a rank without one can still say so. All ranks
then save the same last step.
"""

from __future__ import annotations

from openmae.engine.distributed import World
from openmae.errors import DataError, MemoryLimitError, OpenMAEError, PeerError

_GO, _STOP = 0, 1  # an exit code above these is an error


def agree(world: World, reason: str | None, trouble: OpenMAEError | None, done: bool) -> str | None:
    """The reason to stop that any rank has, None to go on; after the last step a stop means
    nothing.

    Raises:
        OpenMAEError: `trouble`, or what another rank's is worth here (PeerError).
    """
    if isinstance(trouble, MemoryLimitError) and reason is not None:
        trouble = None  # a loader process was lost to the stop signal
    own = _STOP if reason is not None else _GO
    code = world.vote(trouble.exit_code if trouble is not None else own)
    if code > _STOP:
        told = world.gather(None if trouble is None else str(trouble))
        raise trouble or PeerError(code, next(text for text in told if text is not None))
    if code == _GO or done:
        return None
    return next(told for told in world.gather(reason) if told is not None)


def same_everywhere(world: World, values: dict[str, str]) -> None:
    """Raise DataError on every rank unless all have the same values, naming what differs."""
    told = world.gather(values)
    for name in sorted({name for one in told for name in one}):
        found = [one.get(name, "") for one in told]
        odd = [rank for rank, value in enumerate(found) if value != found[0]]
        if odd:
            ranks = ", ".join(map(str, odd[:8]))
            raise DataError(
                f"ranks differ in their {name}: rank {ranks} has {found[odd[0]]}, rank 0 has"
                f" {found[0]}.\nEvery rank needs the same files, settings and version of OpenMAE"
            )
