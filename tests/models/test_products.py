"""Linear layers by oneDNN are torch's: values, gradients, names, hooks; what is left to torch."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from methods.test_pruning import pictures, rand, tiny
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils._python_dispatch import TorchDispatchMode

from openmae.methods import MAE, Classifier
from openmae.models import products
from openmae.models.products import OneDNNLinear, exists, multiply, use

pytestmark = pytest.mark.skipif(not exists(), reason="this torch has no oneDNN")

OURS = "openmae::linear"
SHAPES = [
    ((37, 48), 144), ((2, 50, 48), 96), ((1, 50, 96), 48), ((3, 2, 17, 32), 32), ((1, 1, 16), 3),
    ((4, 197, 64), 65), ((1, 7), 1),
]  # fmt: skip
"""Of x, and the width of the output: 2-D, 3-D and more, wide and narrow, a batch of one."""


class Names(TorchDispatchMode):
    """The operations that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name().removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def ran(function) -> int:
    """How many products oneDNN computes in a call."""
    with Names() as seen:
        function()
    return seen.names.count(OURS)


@pytest.fixture(autouse=True)
def _any_size(monkeypatch):
    monkeypatch.setattr(products, "LEAST", 0)


def gradients(function, tensors: list[Tensor | None], ahead: Tensor) -> list[Tensor]:
    """The output, and the gradient of each tensor that has one."""
    out = function(*tensors)
    out.backward(ahead.to(out.dtype))
    return [out.detach(), *(t.grad for t in tensors if t is not None and t.requires_grad)]


def copied(tensors, dtype) -> list[Tensor | None]:
    """Leaves of their own, with the layout and the wish for a gradient of each."""
    return [
        None if t is None else t.detach().to(dtype).requires_grad_(t.requires_grad) for t in tensors
    ]


def no_worse(tensors: list[Tensor | None], ahead: Tensor) -> None:
    """Against float64: the error of oneDNN is at most twice that of torch."""
    exact = gradients(F.linear, copied(tensors, torch.float64), ahead)
    usual = gradients(F.linear, copied(tensors, torch.float32), ahead)
    own = copied(tensors, torch.float32)
    found = gradients(lambda *given: multiply(*given, "onednn"), own, ahead)
    assert len(found) == len(usual) == len(exact)
    for got, usually, want in zip(found, usual, exact, strict=True):
        assert (got.shape, got.dtype) == (usually.shape, torch.float32)
        error, least = (got - want).norm(), 1e-7 * want.norm()
        assert error <= 2 * (usually - want).norm() + least
    leaves = [t for t in own if t is not None and t.requires_grad]
    for got, tensor in zip(found[1:], leaves, strict=True):
        assert got.stride() == tensor.stride() or not tensor.is_contiguous()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("shape", "wide"), SHAPES)
def test_values_and_gradients(shape, wide, bias):
    torch.manual_seed(0)
    x, weight = torch.randn(*shape, requires_grad=True), torch.randn(wide, shape[-1])
    weight.requires_grad_(True)
    tensors = [x, weight, torch.randn(wide, requires_grad=True) if bias else None]
    assert ran(lambda: multiply(*tensors, "onednn")) == 1
    no_worse(tensors, torch.randn(*shape[:-1], wide))


@pytest.mark.parametrize("wanted", [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (1, 0, 1)])
def test_only_the_gradients_that_are_wanted(wanted):
    torch.manual_seed(1)
    sizes = ((2, 9, 12), (8, 12), (8,))
    tensors = [torch.randn(s).requires_grad_(bool(w)) for s, w in zip(sizes, wanted, strict=True)]
    no_worse(tensors, torch.randn(2, 9, 8))
    step = multiply(*tensors, "onednn").sum()
    assert ran(step.backward) == sum(wanted[:2])  # narrower than its input: both by oneDNN
    with torch.no_grad():
        assert not multiply(*tensors, "onednn").requires_grad


def test_tensors_that_lie_in_another_way():
    """Last tokens, a transposed input, rows of a weight, a gradient that is not contiguous."""
    torch.manual_seed(2)
    whole, turned = torch.randn(3, 20, 16), torch.randn(3, 16, 20).transpose(1, 2)
    weight = torch.randn(48, 16)
    ahead = torch.randn(3, 1, 20).transpose(1, 2)
    for x in (whole[:, -9:], turned, whole[:, ::2]):
        for rows in (weight.split([16, 32])[1], weight[::4], torch.randn(16, 24).t()):
            given = ahead[:, : x.shape[1]].expand(-1, -1, len(rows))
            tensors = [x.detach().requires_grad_(), rows.detach().requires_grad_(), None]
            given = ahead[:, : x.shape[1]].expand(-1, -1, len(rows))
            no_worse(tensors, given)


def test_a_gradient_of_a_gradient():
    torch.manual_seed(3)
    found = []
    for kind in ("onednn", "torch"):
        torch.manual_seed(3)
        x, weight = torch.randn(5, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
        square = multiply(x, weight, None, kind).pow(2).sum()
        (first,) = torch.autograd.grad(square, weight, create_graph=True)
        first.pow(2).sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_the_same_bits_twice():
    torch.manual_seed(4)
    tensors = [torch.randn(s) for s in ((3, 50, 96), (64, 96), (64,))]
    tensors = [t.requires_grad_() for t in tensors]
    ahead = torch.randn(3, 50, 64)
    first, second = (
        gradients(lambda *t: multiply(*t, "onednn"), copied(tensors, torch.float32), ahead)
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# What is left to torch.


class Marked(Tensor):
    """A tensor of another class, as the shards of FSDP2 are."""


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(4, 6, dtype=torch.float64),
        torch.zeros(4, 6, dtype=torch.bfloat16),
        torch.zeros(4, 6, device="meta"),
        torch.zeros(6),
        torch.zeros(4, 6).as_subclass(Marked),
    ],
)
def test_others_are_torchs(x):
    weight = torch.zeros(3, 6, dtype=x.dtype, device=x.device)
    assert ran(lambda: multiply(x, weight, None, "onednn")) == 0
    assert multiply(x, weight, None, "onednn").shape == F.linear(x, weight).shape


def test_autocast_and_small_ones_are_torchs(monkeypatch):
    x, weight = torch.ones(4, 6), torch.ones(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert multiply(x, weight, None, "onednn").dtype == torch.bfloat16
    assert multiply(x[:0], weight, None, "onednn").shape == (0, 3)
    monkeypatch.setattr(products, "LEAST", 4 * 6 * 3 + 1)
    assert ran(lambda: multiply(x, weight, None, "onednn")) == 0
    monkeypatch.setattr(products, "LEAST", 4 * 6 * 3)
    assert ran(lambda: multiply(x, weight, None, "onednn")) == 1


# Of a model.


def told(model: nn.Module, kind: str = "onednn") -> nn.Module:
    use(model, kind)
    return model


def step(model: MAE, full: bool = False) -> dict[str, Tensor]:
    """Loss and gradients of one step."""
    model.zero_grad(set_to_none=True)
    loss = model(pictures(model).float(), rand(), full=full)["loss"]
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found | {"loss": loss.detach()}


def close(found: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert found.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-6, msg=name)


@pytest.mark.parametrize("depth", [1, 3])
def test_a_model_gives_the_same_loss_and_gradients(depth):
    """Every linear layer and every product with a part of a weight is told, and told back."""
    model = tiny(depth=depth).float()
    want, names = step(model), [(n, type(m)) for n, m in model.named_modules()]
    keys = list(model.state_dict())
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    close(step(told(model)), want)
    assert all(type(layer) is OneDNNLinear for layer in layers)
    assert list(model.state_dict()) == keys
    forward = ran(lambda: model(pictures(model).float(), rand()))
    with Names() as seen:
        model(pictures(model).float(), rand())
    assert seen.names.count("addmm") == seen.names.count("mm") == 0
    assert forward >= len(layers) + 1  # the patch embedding
    close(step(copy.deepcopy(model)), want)
    assert [(n, type(m)) for n, m in told(model, "torch").named_modules()] == names
    assert ran(lambda: model(pictures(model).float(), rand())) == 0
    again = step(model)
    assert all(torch.equal(again[name], value) for name, value in want.items())


def test_a_cross_decoder_and_a_classifier():
    model = tiny(depth=2, decoder="cross").float()
    want = step(model)
    close(step(told(model)), want)
    sizes = {"embed_dim": 16, "depth": 2, "num_heads": 2}
    made = Classifier("vit_tiny_patch16_224", ["a", "b"], 16, 4, 1, sizes, blocks=1).eval()
    images = torch.randn(2, 1, 16, 16)
    usual = made.logits(images)
    with Names() as seen:
        found = told(made).logits(images)
    torch.testing.assert_close(found, usual)
    assert "addmm" not in seen.names


def test_hooks_of_a_layer_run():
    model = tiny().float()
    layer = model.encoder.vit.blocks[0].mlp.fc1
    seen: list[str] = []
    layer.register_forward_hook(lambda *_: seen.append("before"))
    told(model)
    layer.register_full_backward_hook(lambda *_: seen.append("backward"))
    step(model)
    assert seen == ["before", "backward"]


def test_double_precision_and_meta():
    model = tiny()
    images = pictures(model)
    want = model(images, rand())["loss"]
    assert torch.equal(told(model)(images, rand())["loss"], want)
    with torch.device("meta"):
        empty = told(MAE("vit_tiny_patch16_224", decoder_depth=1))
        assert empty(torch.zeros(2, 3, 224, 224))["loss"].is_meta


def test_compiled_blocks():
    """The products are in the graph, which has no break in it."""
    model, graphs = tiny(depth=2).float(), []
    want = step(model)

    def backend(graph, inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph

    told(model)
    for block in model.blocks():
        block.compile(fullgraph=True, dynamic=False, backend=backend)
    close(step(model), want)
    torch.compiler.reset()
    assert graphs
    assert all(any("openmae.linear" in name for name in names) for names in graphs)


def test_shards():
    """FSDP2, on one rank in this process: parameters are whole when they are multiplied."""
    model = tiny(depth=2).float()
    want = step(model)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for block in told(model).blocks():
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        found = {n: getattr(g, "full_tensor", lambda g=g: g)() for n, g in step(model).items()}
        assert ran(lambda: model(pictures(model).float(), rand())) > 10
    finally:
        dist.destroy_process_group()
    close(found, want)


def test_without_onednn_all_is_torchs(monkeypatch):
    monkeypatch.setattr(products, "exists", lambda: False)
    model = told(tiny())
    assert not any(isinstance(module, OneDNNLinear) for module in model.modules())
