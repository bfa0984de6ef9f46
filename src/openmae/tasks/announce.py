"""One screen before the first step: the data, the model, the plan, and where it goes."""

from __future__ import annotations

from openmae.config.pretrain import pair
from openmae.engine import checkpoint
from openmae.engine.log import say
from openmae.engine.runfolder import RunFolder, gigabytes
from openmae.methods.mae import MAE
from openmae.tasks.prepare import Job


def announce(job: Job, method: MAE, folder: RunFolder) -> None:
    """Print it."""
    config, resolved, found = job.config, job.resolved, job.found
    assert found is not None
    held_out = f", {len(job.held_out):,} held out" if job.held_out is not None else ""
    read_as = "" if set(found.channels) == {config.channels} else f", read as {config.channels}"
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
    mean, std = (" ".join(f"{v:.3f}" for v in resolved[k]) for k in ("mean", "std"))
    measured = "given" if config.mean else f"measured on {found.looked:,} images"
    say("", f"mean ({mean}), std ({std}), {measured}")
    count = sum(p.numel() for p in method.parameters())
    height, width = pair(config.image_size)
    patch = method.encoder.patch
    decoder = f"decoder {config.decoder_depth}x{config.decoder_dim}"
    say(
        "Model",
        f"{config.model}, {height}x{width} px, patch {patch[0]}x{patch[1]}, mask"
        f" {config.mask_ratio:.0%} {config.mask}, {decoder}, {count / 1e6:.1f} M parameters",
    )
    accumulate = (
        ""
        if resolved["micro_batch"] == config.batch_size
        else f" ({resolved['micro_batch']} at a time)"
    )
    length = resolved["total_steps"] * config.batch_size / len(job.source)
    say("Recipe", f"{resolved['recipe'] or 'the paper: defaults of Table 8'}")
    say(
        "Plan",
        f"{length:.4g} epochs = {resolved['total_steps']:,} steps of {config.batch_size}"
        f" images{accumulate}, {resolved['device']} {resolved['precision']}, lr {config.lr:g} x"
        f" {config.batch_size}/256, warm-up {resolved['warmup_steps']:,} steps",
    )
    size = checkpoint.bytes_needed(method, config.ema is not None)
    say(
        "",
        f"{gigabytes(size)} a checkpoint, {config.keep} kept, every {resolved['save_every']:,}"
        " steps",
    )
    say("Out", f"{folder.path}   (Ctrl-C saves; the same command again continues)")
