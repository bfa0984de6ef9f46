"""One screen before the first step: the data, the model, the plan, and where it goes."""

from __future__ import annotations

from torch import nn

from openmae.config.base import Options
from openmae.engine import checkpoint
from openmae.engine.log import say, warn
from openmae.engine.runfolder import RunFolder, free_space, gigabytes
from openmae.tasks.attention import summary
from openmae.tasks.estimate import require_patience, seconds_of, time_line
from openmae.tasks.fitting import memory_line
from openmae.tasks.kind import Job, Kind, reader_of


def announce(kind: Kind, job: Job, method: nn.Module, folder: RunFolder, options: Options) -> None:
    """Print it. Asks before a very long run, where somebody can answer.

    Raises:
        UsageError: the answer was no.
    """
    config, resolved, found = job.config, job.resolved, job.found
    assert found is not None
    channels = reader_of(method).in_chans
    held_out = f", {len(job.held_out):,} held out" if job.held_out is not None else ""
    read_as = "" if set(found.channels) == {channels} else f", read as {channels}"
    say(
        "Data",
        f"{len(job.source):,} images in {job.source.name}{held_out}; {found.sentence()}{read_as}",
    )
    if found.bad:
        path, reason = found.bad[0]
        say(
            "",
            f"{len(found.bad)} of {found.looked:,} looked at cannot be read (first {path}:"
            f" {reason})",
        )
    for line in found.warnings(kind.task == "pretrain"):
        warn(line)
    for head, text in kind.describe(job, method):
        say(head, text)
    ranks, rows = resolved["ranks"], config.batch_size // resolved["ranks"]
    parts = [f"{ranks} ranks of {rows}, {resolved['parallel']}"] if ranks > 1 else []
    parts += [f"{resolved['micro_batch']} at a time"] if resolved["micro_batch"] < rows else []
    accumulate = f" ({', '.join(parts)})" if parts else ""
    length = resolved["total_steps"] * config.batch_size / len(job.source)
    say("Recipe", f"{resolved['recipe'] or 'none: the defaults of this command'}")
    say(
        "Plan",
        f"{length:.4g} epochs = {resolved['total_steps']:,} steps of {config.batch_size}"
        f" images{accumulate}, {resolved['device']} {resolved['precision']}, lr {config.lr:g} x"
        f" {config.batch_size}/256, warm-up {resolved['warmup_steps']:,} steps",
    )
    if resolved["attention"]:
        say("", f"{summary(resolved['attention'])}; products {resolved['products']}")
    size = checkpoint.bytes_needed(method, config.ema is not None)
    if (needs := memory_line(job, method)) is not None:
        say("", needs)
    say(
        "",
        f"{gigabytes(size)} a checkpoint, {config.keep} kept, every {resolved['save_every']:,}"
        f" steps; {gigabytes(free_space(folder.path))} free on the disk",
    )
    time = seconds_of(job, method)
    if time is not None:
        say("", time_line(time))
    say("Out", f"{folder.path}   (Ctrl-C saves; the same command again continues)")
    require_patience(kind, job, time, options)
