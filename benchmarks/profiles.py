"""Where the time of a training step goes, by kernel on CUDA and by operator on CPU."""

from __future__ import annotations

from typing import Any

import torch
from steps import Row
from torch.autograd.profiler_util import DeviceType
from torch.profiler import ProfilerActivity, profile

from openmae.engine.measure import wait

SHOWN = 12


def costs(row: Row, device: torch.device, steps: int = 3) -> dict[str, Any]:
    """The largest costs of a step: name, calls, seconds and share of all."""
    row.prepare()
    row.step()
    wait(device)
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=kinds) as found:
        for _ in range(steps):
            row.step()
        wait(device)
    on_device = device.type == "cuda"
    events = [e for e in found.key_averages() if not on_device or e.device_type == DeviceType.CUDA]
    seconds = {
        e.key: (e.self_device_time_total if on_device else e.self_cpu_time_total) / 1e6 / steps
        for e in events
    }
    calls = {e.key: e.count / steps for e in events}
    total = sum(seconds.values())
    ranked = sorted(seconds, key=lambda key: seconds[key], reverse=True)
    rows = [
        {
            "name": key[:120],
            "calls": calls[key],
            "seconds": seconds[key],
            "share": seconds[key] / total,
        }
        for key in ranked[:SHOWN]
    ]
    return {
        "row": row.name,
        "of": "kernels" if on_device else "operators",
        "total_s": total,
        "rows": rows,
        "three_largest": [f"{r['name']}: {r['share']:.1%}" for r in rows[:3]],
    }


def print_costs(tables: list[dict[str, Any]]) -> None:
    """A table for each."""
    for table in tables:
        print(f"\n{table['row']}: {table['total_s'] * 1e3:.1f} ms a step in {table['of']}")
        for row in table["rows"]:
            print(f"  {row['share']:6.1%} {row['calls']:7.0f} calls  {row['name'][:90]}")
