"""What `openmae benchmark` found, in lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openmae.engine.log import say
from openmae.engine.runfolder import gigabytes

_LITTLE = 0.05  # of the time that the step waits: not worth a change


def tell(found: Mapping[str, Any]) -> None:
    """Machine, a row for each batch size, the loader, and a suggestion."""
    machine = found["machine"]
    what = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    compiled = ", compile" if found["compile"] else ""
    versions = machine["versions"]
    say("Machine", f"{what}, torch {versions['torch']}, {found['precision']}{compiled}")
    say("", f"a matmul runs at {_flops(found['matmul_tflops'])}{_sheet(found)}")
    size = "x".join(str(side) for side in found["image_size"])
    say(
        "Step",
        f"{found['model']}, {size} px, {found['parameters'] / 1e6:.1f} M parameters,"
        f" {found['train_gflop_per_image']:.2f} GFLOP an image (published formulation)",
    )
    say("", "batch   images/s   ms a step       memory    of the matmul    of the data sheet")
    for row in found["trials"]:
        say("", _row(row))
    for line in _loader(found):
        say(*line)
    say("Suggest", suggestion(found))


def suggestion(found: Mapping[str, Any]) -> str:
    """The one thing to do next: about the loader where it is the limit, else about the batch."""
    if found.get("limit") == "loader" and found["waiting"] > _LITTLE:
        return "; ".join(loader_advice(found))
    best, trials = found["best"], found["trials"]
    if len(trials) == 1:
        return "--batch-size auto looks for a better batch"
    gain = best["images_per_s"] / trials[0]["images_per_s"]
    text = f"--micro-batch {best['batch_size']}, in {gigabytes(best['peak_bytes'])}"
    if gain > 1.01:
        text += f": {gain:.2f} times as fast as {trials[0]['batch_size']} at a time"
    return f"{text}; the batch of the recipe stays"


def loader_advice(found: Mapping[str, Any]) -> list[str]:
    """What makes images come faster, the easiest first."""
    rows, cores = found["loader"], found["machine"]["cpus"]
    tried = max(row["workers"] for row in rows)
    advice = []
    if found["workers"] == 0:
        pass  # a CPU's step uses every core
    elif found["workers"] == tried and tried < cores:
        advice.append(f"--workers {min(cores, max(1, 2 * tried))}")
    elif len(rows) > 1:
        advice.append(f"--workers {found['workers']}")
    if not found["packed"]:
        advice.append("openmae pack DATA makes smaller files that are read faster")
    else:
        advice.append("--repeats 2 takes two crops of each decoded image")
    return advice


def _loader(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "loader" not in found:
        return []
    each = ", ".join(f"{r['images_per_s']:,.0f} with {r['workers']}" for r in found["loader"])
    lines = [("Loader", f"alone, images/s by processes: {each}")]
    rate = f"{found['best']['images_per_s']:,.0f} images/s"
    if found["limit"] == "step":
        share = f"; loading takes {found['waiting']:.0%} of the time" if found["waiting"] else ""
        return [*lines, ("", f"the step is the limit, at {rate}{share}")]
    text = (
        f"the loader is the limit: the step does {rate}, {found['waiting']:.0%} of the time waits"
    )
    return [*lines, ("", f"{text} for data")]


def _row(row: Mapping[str, Any]) -> str:
    share = row["mfu_data_sheet"]
    return (
        f"{row['batch_size']:>5}   {row['images_per_s']:>8,.1f}   {1e3 * row['step_s']:>9,.1f}"
        f"   {gigabytes(row['peak_bytes']):>10}    {row['mfu_matmul']:>13.0%}"
        + (f"    {share:>17.0%}" if share is not None else f"    {'-':>17}")
    )


def _sheet(found: Mapping[str, Any]) -> str:
    sheet = found["data_sheet_tflops"]
    return f", its data sheet says {_flops(sheet)}" if sheet else ""


def _flops(tera: float) -> str:
    return f"{tera:,.0f} TFLOP/s" if tera >= 10 else f"{1e3 * tera:,.0f} GFLOP/s"
