"""Views of tensors are kept while a choice stands, and never longer than they are right."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from lightning_channels import make_dynamic
from lightning_channels.dynamic_ops import make_static
from lightning_channels.dynamic_ops.state import state_of
from lightning_channels.mutables import SquentialMutableChannel


def layer(kind: type[nn.Module] = nn.Conv2d, **kwargs: object) -> tuple[nn.Module, SquentialMutableChannel]:
    torch.manual_seed(0)
    module = make_dynamic(kind(6, 8, **kwargs) if kind is nn.Linear else kind(6, 8, 3, **kwargs))
    outputs, inputs = SquentialMutableChannel(8), SquentialMutableChannel(6)
    module.channel_container(True).register_mutable(outputs)
    module.channel_container(False).register_mutable(inputs)
    outputs.current_choice, inputs.current_choice = 3, 4
    return module, outputs


def full(module: nn.Module) -> nn.Parameter:
    return module._parameters["weight"]


def right(module: nn.Module) -> bool:
    """Whether the narrow weight is the full one's active part."""
    weight, whole = module.weight, full(module)
    expected = whole.detach()[: weight.shape[0], : weight.shape[1]]
    return (
        torch.equal(weight.detach(), expected)
        and weight.dtype == whole.dtype
        and weight.device == whole.device
        and weight.requires_grad == whole.requires_grad
    )


def test_one_view_for_one_choice() -> None:
    module, outputs = layer()
    first = module.weight
    assert module.weight is first
    assert module.bias is module.bias
    outputs.current_choice = 2
    assert module.weight.shape == (2, 4, 3, 3)
    outputs.current_choice = 3
    assert module.weight.shape == (3, 4, 3, 3)
    assert right(module)
    outputs.current_choice = 8
    module.channel_container(False).mutables[0].current_choice = 6
    assert module.weight is full(module)


def test_many_steps_are_those_of_a_static_twin() -> None:
    module, _ = layer(dtype=torch.float64)
    twin = make_static(copy.deepcopy(module))
    ours = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    theirs = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    views = {id(module.weight)}
    for step in range(5):
        images = torch.randn(2, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        for net, optimizer in ((module, ours), (twin, theirs)):
            optimizer.zero_grad()
            net(images).square().sum().backward()
            optimizer.step()
        views.add(id(module.weight))
        assert torch.equal(module.weight, twin.weight)
        assert torch.equal(full(module).grad[:3, :4], twin.weight.grad)
        assert not full(module).grad[3:].any()
    assert len(views) == 1


def test_called_twice_and_backward_twice() -> None:
    module, _ = layer(nn.Linear, dtype=torch.float64)
    twin = make_static(copy.deepcopy(module))
    images = torch.randn(2, 4, dtype=torch.float64)
    for net in (module, twin):
        loss = net(images).square().sum() + net(2 * images).exp().mean()
        loss.backward(retain_graph=True)
        loss.backward()
    torch.testing.assert_close(full(module).grad[:3, :4], twin.weight.grad, rtol=1e-12, atol=0)


def test_gradients_of_gradients() -> None:
    module, _ = layer(nn.Linear, dtype=torch.float64)
    images = torch.randn(2, 4, dtype=torch.float64)
    for _ in range(2):
        (gradient,) = torch.autograd.grad(module(images).exp().sum(), full(module), create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), full(module))
        weight = full(module).detach()[:3, :4].clone().requires_grad_()
        bias = module.bias.detach()
        (expected,) = torch.autograd.grad(
            torch.nn.functional.linear(images, weight, bias).exp().sum(), weight, create_graph=True
        )
        (expected,) = torch.autograd.grad(expected.square().sum(), weight)
        torch.testing.assert_close(second[:3, :4], expected)


def _replace_data(module: nn.Module) -> None:
    full(module).data = torch.randn_like(full(module))


def _replace_layout(module: nn.Module) -> None:
    full(module).data = full(module).data.transpose(-1, -2)  # the same memory, read in another order


def _replace_parameter(module: nn.Module) -> None:
    module.weight = nn.Parameter(torch.randn_like(full(module)))


def _write_through_the_view(module: nn.Module) -> None:
    module.weight.data = torch.zeros_like(module.weight)


def _step(module: nn.Module) -> None:
    with torch.no_grad():
        full(module).add_(1)


def _load(module: nn.Module) -> None:
    module.load_state_dict({key: torch.randn_like(value) for key, value in module.state_dict().items()})


def _load_by_assignment(module: nn.Module) -> None:
    module.load_state_dict({key: torch.randn_like(value) for key, value in module.state_dict().items()}, assign=True)


def _freeze_for_a_while(module: nn.Module) -> None:
    module.requires_grad_(False)
    assert right(module)
    module.requires_grad_(True)


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "data replaced": _replace_data,
    "layout replaced": _replace_layout,
    "parameter replaced": _replace_parameter,
    "data of the view replaced": _write_through_the_view,
    "a step": _step,
    "loaded": _load,
    "loaded by assignment": _load_by_assignment,
    "another dtype": lambda module: module.double(),
    "channels_last": lambda module: module.to(memory_format=torch.channels_last),
    "frozen": lambda module: module.requires_grad_(False),
    "frozen for a while": _freeze_for_a_while,
    "in shared memory": lambda module: module.share_memory(),
    "empty, then loaded": lambda module: (
        module.to("meta"),
        module.weight,
        module.to_empty(device="cpu"),
        _load(module),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_parameter_that_changed_is_seen(change: Callable[[nn.Module], object]) -> None:
    module, _ = layer()
    module.weight, module.bias
    change(module)
    for _ in range(2):
        assert right(module)
        with torch.no_grad():
            assert right(module)
    if full(module).requires_grad:
        images = torch.randn(1, 4, 5, 5, dtype=full(module).dtype)
        module(images).sum().backward()
        assert full(module).grad is not None
        assert full(module).grad[:3, :4].any()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_is_made_without_autograd_is_not_trained_on(mode: Callable[[], torch.no_grad]) -> None:
    module, _ = layer()
    images = torch.randn(1, 4, 5, 5)
    with mode():
        module(images)
    module(images).sum().backward()
    assert full(module).grad[:3, :4].any()


def test_copies_have_views_of_their_own() -> None:
    module, _ = layer()
    module.weight
    for other in (copy.deepcopy(module), copy.copy(module), pickle.loads(pickle.dumps(module))):
        if full(other) is not full(module):
            assert not state_of(other).views
            with torch.no_grad():
                full(other).zero_()
        assert right(other)
    assert right(module)
    assert full(module).any()


def test_tensors_of_modes_and_transforms_are_not_kept() -> None:
    module, _ = layer(nn.Linear)
    images = torch.randn(2, 4)
    expected = module(images).detach()
    state_of(module).views.clear()

    def output(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return torch.func.functional_call(module, weights, (image,))

    weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
    per_sample = torch.func.vmap(torch.func.grad(lambda w, i: output(w, i).sum()), (None, 0))(weights, images)
    assert per_sample["weight"].shape == (2, 8, 6)
    torch.func.grad(lambda image: module(image).sum())(images[0])
    torch.func.vmap(module)(images)
    with forward_ad.dual_level():
        dual = {name: forward_ad.make_dual(weight, torch.ones_like(weight)) for name, weight in weights.items()}
        assert forward_ad.unpack_dual(output(dual, images)).tangent is not None
        module(images)
    with FakeTensorMode(allow_non_fake_inputs=True):
        module(images)
    assert torch.equal(module(images), expected)
    assert module.weight.requires_grad
    torch.func.vmap(module)(images)  # with what is kept now
    (gradient,) = torch.autograd.grad(module(images).sum(), full(module))
    torch.testing.assert_close(gradient, per_sample["weight"].sum(0))


def test_a_computed_weight_is_not_kept() -> None:
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(6, 8))
    module = make_dynamic(nn.Linear(6, 8))
    outputs = SquentialMutableChannel(8)
    module.channel_container(True).register_mutable(outputs)
    outputs.current_choice = 3
    for _ in range(2):
        out = torch.func.functional_call(module, {"weight": linear.weight, "bias": linear.bias}, torch.ones(1, 6))
        out.sum().backward()
        assert "weight" not in (state_of(module).views or {})
    assert linear.parametrizations.weight.original1.grad is not None


def test_hooks_of_a_parameter_run_once_in_each_backward_pass() -> None:
    module, _ = layer()
    seen: list[torch.Size] = []
    full(module).register_hook(lambda gradient: seen.append(gradient.shape))
    images = torch.randn(1, 4, 5, 5)
    for _ in range(3):
        module(images).sum().backward()
    late: list[str] = []
    full(module).register_post_accumulate_grad_hook(lambda _: late.append("accumulated"))
    module(images).sum().backward()
    assert seen == [full(module).shape] * 4
    assert late == ["accumulated"]


def test_parameters_can_be_swapped() -> None:
    module, _ = layer()
    module(torch.randn(1, 4, 5, 5)).sum().backward()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        module.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert right(module)
