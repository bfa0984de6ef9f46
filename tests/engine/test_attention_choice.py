"""The choice among functions that compute attention: what is wrong is never taken, noise decides
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from openmae.engine import attention
from openmae.engine.attention import choose, fastest, is_sound

CPU, SIZE = torch.device("cpu"), (6, 2, 5, 9, 8)


class NoGradient(torch.autograd.Function):
    """The right output; a gradient that is not a number, as of a broken kernel."""

    @staticmethod
    def forward(ctx: Any, out: Tensor) -> Tensor:
        return out.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        wrong = slope.clone()
        wrong[-1, 0, 0, 0] = float("nan")  # of the last sample alone
        return wrong


def attend(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    if backend == "missing":
        raise RuntimeError("No available kernel")
    scale = 1.0 if backend == "unscaled" else q.shape[-1] ** -0.5
    out = (q @ k.transpose(-2, -1) * scale).softmax(-1) @ v
    if backend == "nan gradient":
        return NoGradient.apply(out)  # type: ignore[no-any-return]
    return out.detach() + 0 * q if backend == "no gradient of k" else out


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that each backend seems to take."""
    seconds: dict[str, float] = {}
    now = [0.0]
    real: Callable[..., Any] = attention._step

    def step(function: Any, name: str, inputs: Any) -> Any:
        now[0] += seconds.get(name, 1.0)
        return real(function, name, inputs)

    monkeypatch.setattr(attention, "_step", step)
    monkeypatch.setattr(attention.time, "perf_counter", lambda: now[0])
    return seconds


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [SIZE, (1, 3, 9, 5, 16), (3, 1, 7, 7, 4)])
def test_right_and_wrong(size: Any, dtype: torch.dtype) -> None:
    assert is_sound(attend, "plain", size, CPU, dtype)
    for name in ("missing", "unscaled", "nan gradient", "no gradient of k"):
        assert not is_sound(attend, name, size, CPU, dtype), name


def test_the_fastest_that_is_right(clock: dict[str, float]) -> None:
    clock |= {"usual": 3.0, "slow": 4.0, "fast": 2.0, "nan gradient": 0.1, "unscaled": 0.1}
    names = ["usual", "slow", "fast", "nan gradient", "unscaled", "missing"]
    chosen, times = choose(attend, names, SIZE, CPU, torch.float32, 1000)
    assert chosen == "fast"
    assert times == {"usual": 3.0, "slow": 4.0, "fast": 2.0}


def test_the_usual_one_that_is_wrong(clock: dict[str, float]) -> None:
    clock |= {"nan gradient": 0.1, "slow": 4.0, "fast": 2.0}
    assert choose(attend, ["nan gradient", "slow", "fast"], SIZE, CPU, torch.float32)[0] == "fast"


def test_nothing_right() -> None:
    assert choose(attend, ["missing", "unscaled"], SIZE, CPU, torch.float32) == ("missing", {})


def test_a_small_difference_changes_nothing() -> None:
    assert fastest("a", {"a": 1.0, "b": 0.96}) == "a"
    assert fastest("a", {"a": 1.0, "b": 0.94, "c": 0.97}) == "b"
    assert fastest("a", {"b": 2.0, "c": 1.99}) == "c"
    assert fastest("a", {}) == "a"


@pytest.mark.parametrize(("seconds", "turns"), [(1000.0, 9), (0.0, 3)])
def test_it_ends(clock: dict[str, float], seconds: float, turns: int) -> None:
    """Nine turns, or fewer when the time is over, and three at least."""
    taken: list[str] = []

    def counted(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
        taken.append(backend)
        return attend(q, k, v, backend)

    choose(counted, ["plain", "other"], SIZE, CPU, torch.float32, seconds)
    assert taken.count("other") == turns + 1  # and once to see whether it is right


def test_inputs_lie_as_in_a_model() -> None:
    """Parts of one packed tensor, and the same whenever they are made."""
    q, k, v = attention._inputs((6, 2, 5, 9, 8), CPU, torch.float32)
    assert (q.shape, k.shape, v.shape) == ((6, 2, 5, 8), (6, 2, 9, 8), (6, 2, 9, 8))
    assert q.stride() == k.stride() == (9 * 3 * 16, 8, 3 * 16, 1)
    assert not torch.equal(q[0], q[1])
    again = attention._inputs((6, 2, 5, 9, 8), CPU, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip((q, k, v), again, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_that_is_short_is_no_choice() -> None:
    huge = (4096, 64, 4096, 4096, 64)
    assert not is_sound(attend, "plain", huge, torch.device("cuda"), torch.float32)
