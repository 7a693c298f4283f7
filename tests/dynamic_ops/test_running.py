"""Narrow ops at work: groups, memory layouts, fast paths, inference mode, transforms, compiling, buffers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_channels.dynamic_ops import container_of, containers, make_dynamic, make_static
from lightning_channels.errors import ChoiceError
from lightning_channels.mutables import SquentialMutableChannel
from tests.dynamic_ops.cases import steer


@pytest.mark.parametrize("keep", [3, [0, 2, 7]], ids=["prefix", "index"])
def test_channels_last_gradients_come_back_in_the_layout_of_the_weight(keep: int | list[int]) -> None:
    conv = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    steer(conv, True).keep(keep)
    conv(torch.randn(1, 4, 5, 5).to(memory_format=torch.channels_last)).sum().backward()
    assert conv._parameters["weight"].grad.stride() == conv._parameters["weight"].stride()
    assert make_static(conv).weight.is_contiguous(memory_format=torch.channels_last)


def test_grouped_convolutions_keep_the_same_in_every_group() -> None:
    grouped = nn.Conv2d(8, 12, 3, groups=4)
    mutable = steer(grouped, False)
    mutable.keep([0, 1, 2, 4])
    message = "4 of 8 channels are kept, but not the same ones in each of the 4 groups"
    with pytest.raises(ChoiceError, match=message):
        grouped(torch.randn(1, 4, 5, 5))
    with pytest.raises(ChoiceError, match=message):
        make_static(copy.deepcopy(grouped))
    mutable.keep(4)
    with pytest.raises(ChoiceError, match="the first 4 of 8 channels are kept, but not the same ones"):
        grouped(torch.randn(1, 4, 5, 5))


def test_a_depthwise_convolution_keeps_inputs_and_outputs_alike() -> None:
    depthwise = nn.Conv2d(4, 8, 3, groups=4)
    inputs, outputs = steer(depthwise, False), steer(depthwise, True)
    inputs.keep([0, 3])
    outputs.keep([0, 1, 2, 3])
    with pytest.raises(
        ChoiceError, match=r"must keep the outputs of the inputs that it keeps; it keeps in_channels 2 of 4"
    ):
        depthwise(torch.randn(1, 2, 5, 5))
    outputs.keep([0, 1, 6, 7])
    assert depthwise(torch.randn(1, 2, 5, 5)).shape == (1, 4, 3, 3)


def test_encoder_layers_run_narrow_on_their_fast_path() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    hidden = SquentialMutableChannel(16)
    container_of(make_dynamic(layer.linear1), True).register_mutable(hidden)
    container_of(make_dynamic(layer.linear2), False).register_mutable(hidden)
    for keep in (5, [1, 4, 15]):
        hidden.keep(keep)
        static = copy.deepcopy(layer)
        make_static(static.linear1)
        make_static(static.linear2)
        with torch.no_grad():
            assert_close(layer(x), static(x))
            assert layer.linear1(x).shape[-1] == hidden.activated_channels


def test_a_choice_made_under_inference_mode_can_be_trained() -> None:
    conv, norm = nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8)
    mutable = steer(conv, True)
    container_of(make_dynamic(norm), True).register_mutable(mutable)
    x = torch.randn(2, 4, 5, 5)
    with torch.inference_mode():
        mutable.keep([1, 3, 5, 7])
        norm(conv(x))
    (norm(conv(x)) ** 3).sum().backward()
    gradient = conv._parameters["weight"].grad
    assert gradient[[1, 3, 5, 7]].abs().sum() > 0
    assert gradient[[0, 2, 4, 6]].count_nonzero() == 0


def test_parameters_of_an_ensemble_are_vectorised() -> None:
    linear = nn.Linear(4, 6)
    steer(linear, True).current_choice = 2
    container_of(linear, False).register_mutable(inputs := SquentialMutableChannel(4))
    inputs.current_choice = 3
    stacked = {name: torch.stack([p.detach(), p.detach() * 2]) for name, p in linear.named_parameters()}
    x = torch.randn(5, 3)
    got = torch.func.vmap(lambda p: torch.func.functional_call(linear, p, (x,)))(stacked)
    assert_close(got, torch.stack([linear(x), 2 * linear(x)]))


def test_a_norm_runs_at_another_index_before_its_backward_pass() -> None:
    norm = nn.BatchNorm2d(6)
    mutable = steer(norm, is_output=True)
    x = torch.randn(4, 6, 3, 3)
    expected = torch.zeros(6)
    for keep in (range(6), [0, 2, 5], [1, 2]):
        small = nn.BatchNorm2d(len(keep))
        small(x[:, list(keep)]).pow(3).sum().backward()
        assert small.weight.grad is not None
        expected[list(keep)] += small.weight.grad
    total = torch.zeros(())
    for keep in (range(6), [0, 2, 5], [1, 2]):
        mutable.keep(list(keep))
        total = total + norm(x[:, list(keep)]).pow(3).sum()
    total.backward()
    assert norm.num_batches_tracked == 3
    assert_close(norm._parameters["weight"].grad, expected)


def test_compiled_norms_write_their_statistics_back() -> None:
    norm = nn.BatchNorm2d(6)
    steer(norm, True).keep([1, 2, 5])
    eager = copy.deepcopy(norm)
    torch._dynamo.reset()
    compiled = torch.compile(norm, backend="eager")
    x = torch.randn(4, 3, 2, 2)
    compiled(x)
    eager(x)
    for name, buffer in eager.named_buffers():
        assert torch.equal(dict(norm.named_buffers())[name], buffer)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(3, None), ([0, 4], None), (2, [1, 3]), ([0, 4], [1, 3]), ([1, 4], 2)],
    ids=str,
)
def test_an_assigned_buffer_goes_to_the_active_entries(rows: object, columns: object) -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(5, 4))

        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.seen + x
            return x

    module = make_dynamic(Table(), {"seen": [0, 1]})
    for side, keep in (("seen[0]", rows), ("seen[1]", columns)):
        container = containers(module)[side]
        container.register_mutable(mutable := SquentialMutableChannel(container.num_channels))
        mutable.keep(container.num_channels if keep is None else keep)  # type: ignore[arg-type]
    masks = [container.current_mask for container in containers(module).values()]
    full = module._buffers["seen"]
    x = torch.rand(module.seen.shape) + 1
    for count in (1, 2):
        module(x)
        assert module._buffers["seen"] is full
        assert_close(full[masks[0]][:, masks[1]], count * x)
        assert torch.equal(full != 0, masks[0][:, None] & masks[1])
