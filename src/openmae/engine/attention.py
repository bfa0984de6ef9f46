"""Chooses the fastest of several functions that compute attention, none of which may be wrong.

A kernel can be fast and give gradients that are not numbers (cuDNN's at some lengths: pytorch
#196678), so each is first compared with plain float64 arithmetic.

B batch, H heads, M queries, N keys, d head dim.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Attend = Callable[[Tensor, Tensor, Tensor, str], Tensor]
"""(q, k, v, backend) -> output; raises RuntimeError where it has no such kernel."""

Size = tuple[int, int, int, int, int]
"""B, H, M, N, d."""

MARGIN = 0.05  # a backend replaces the first only if it is this much faster: noise decides nothing
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-3, torch.float16: 1e-2, torch.bfloat16: 3e-2}
"""Of output and gradients, relative to the norm of each; single precision may be TF32 on a GPU."""
_SAMPLES = 4  # whose values are compared; all are looked at for what is not finite
_ROUNDS = 9


def choose(
    attend: Attend,
    backends: Sequence[str],
    size: Size,
    device: torch.device,
    dtype: torch.dtype,
    seconds: float = 0.8,
) -> tuple[str, dict[str, float]]:
    """The fastest sound backend for tensors of one size, and the median time of each sound one,
    forward and backward, in seconds.

    The first of `backends` is the usual one and is kept unless another is more than 5 % faster.
    They take turns until each had its rounds or `seconds` are over. Where none is sound or fits
    into memory the first is returned, with no times.
    """
    inputs = _inputs(size, device, dtype)
    sound = [name for name in backends if is_sound(attend, name, size, device, dtype, inputs)]
    times: dict[str, list[float]] = {name: [] for name in sound}
    end = time.perf_counter() + seconds
    for turn in range(_ROUNDS):
        for name in sound:
            _synchronize(device)
            start = time.perf_counter()
            _step(attend, name, inputs)
            _synchronize(device)
            times[name].append(time.perf_counter() - start)
        if turn >= 2 and time.perf_counter() > end:
            break
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return fastest(backends[0], medians), medians


def fastest(usual: str, seconds: dict[str, float]) -> str:
    """The name of the least time; `usual` if nothing is more than 5 % faster than it, or there is
    nothing.
    """
    if not seconds:
        return usual
    best = min(seconds, key=lambda name: seconds[name])
    if usual in seconds and seconds[best] >= (1 - MARGIN) * seconds[usual]:
        return usual
    return best


def is_sound(
    attend: Attend,
    backend: str,
    size: Size,
    device: torch.device,
    dtype: torch.dtype,
    inputs: tuple[Tensor, Tensor, Tensor] | None = None,
) -> bool:
    """Whether a backend runs on tensors of this size, and gives output and gradients that are
    finite and close to those of plain float64 arithmetic.
    """
    inputs = _inputs(size, device, dtype) if inputs is None else inputs
    few = min(_SAMPLES, size[0])
    try:
        got = _step(attend, backend, inputs)
        wide = torch.float64 if device.type != "mps" else torch.float32  # which has no float64
        part = tuple(t[:few].detach().to(wide) for t in inputs)
        want = _step(_plain, backend, part)  # type: ignore[arg-type]
        for ours, exact in zip(got, want, strict=True):
            if not torch.isfinite(ours).all():
                return False
            gap = (ours[:few].to(wide) - exact).norm() / exact.norm()
            if not gap <= TOLERANCE[dtype]:
                return False
    except (RuntimeError, NotImplementedError):  # not there, or out of memory
        return False
    return True


def _plain(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1) @ v


def _inputs(size: Size, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of fixed noise, in the strides that they have in a model: packed by token."""
    batch, heads, queries, keys, dim = size
    few, longest = min(_SAMPLES, batch), max(queries, keys)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(few, longest, 3, heads, dim, generator=generator)
    packed = noise.to(device, dtype).repeat(-(-batch // few), 1, 1, 1, 1)[:batch]
    q, k, v = (part.transpose(1, 2) for part in packed.unbind(2))
    return q[:, :, longest - queries :], k[:, :, :keys], v[:, :, :keys]


def _step(
    attend: Attend, backend: str, inputs: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, ...]:
    """Output and the gradients of q, k and v."""
    q, k, v = (t.detach().requires_grad_() for t in inputs)
    out = attend(q, k, v, backend)
    return out.detach(), *torch.autograd.grad(out, (q, k, v), _slope(out))


def _slope(out: Tensor) -> Tensor:
    """A gradient that is the same for the same shape, and different at each place."""
    return (
        torch.linspace(-1, 1, out[0].numel(), device=out.device, dtype=out.dtype)
        .view_as(out[0])
        .expand_as(out)
    )


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
