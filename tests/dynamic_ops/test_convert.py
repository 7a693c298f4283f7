"""Into a dynamic op and out of it: what is kept, what is refused, and in which words."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.testing import assert_close

from lightning_channels.dynamic_ops import (
    DynamicConv2d,
    DynamicLinear,
    container_of,
    containers,
    is_dynamic,
    make_dynamic,
    make_static,
    refusal,
    restore,
    sides,
)
from lightning_channels.errors import ConfigError, PrepareError
from lightning_channels.mutables import MutableChannelContainer, SquentialMutableChannel
from tests.dynamic_ops.cases import NormWithActivation, Scale, steer


def test_everything_but_the_class_is_kept() -> None:
    conv = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last, dtype=torch.float64).eval()
    conv.weight.requires_grad_(False)
    calls: list[torch.Size] = []
    conv.register_forward_hook(lambda _m, _x, y: calls.append(y.shape))
    conv.note = "mine"  # type: ignore[assignment]
    weight, before = conv.weight, dict(conv.__dict__)

    assert DynamicConv2d.convert_from(conv) is conv
    assert type(conv) is DynamicConv2d
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight is weight
    assert {key: value for key, value in conv.__dict__.items() if key != "_channels"} == before
    steer(conv, True).current_choice = 3
    conv(torch.randn(1, 4, 5, 5, dtype=torch.float64))
    assert calls == [(1, 3, 3, 3)]
    static = make_static(conv)
    assert static.weight.is_contiguous(memory_format=torch.channels_last)
    assert not static.weight.requires_grad
    assert static.bias.requires_grad
    assert static.weight.dtype == torch.float64
    assert not static.training


def test_static_tensors_are_the_slices_written_by_hand() -> None:
    conv, grouped, transposed = nn.Conv2d(4, 6, 3), nn.Conv2d(8, 12, 3, groups=4), nn.ConvTranspose2d(4, 6, 3)
    weights = [m.weight.detach().clone() for m in (conv, grouped, transposed)]
    steer(conv, True).keep([1, 4])
    steer(conv, False).keep([0, 2, 3])
    assert torch.equal(make_static(conv).weight, weights[0][[1, 4]][:, [0, 2, 3]])
    assert (conv.in_channels, conv.out_channels) == (3, 2)

    steer(grouped, True).keep([0, 2, 3, 5, 6, 8, 9, 11])
    steer(grouped, False).keep([1, 3, 5, 7])
    assert torch.equal(make_static(grouped).weight, weights[1][[0, 2, 3, 5, 6, 8, 9, 11]][:, [1]])
    assert (grouped.in_channels, grouped.out_channels, grouped.groups) == (4, 8, 4)

    steer(transposed, True).keep([1, 4])
    steer(transposed, False).keep([3])
    assert torch.equal(make_static(transposed).weight, weights[2][[3]][:, [1, 4]])


def test_shared_parameters_stay_shared_where_they_are_cut_alike() -> None:
    first, second, third = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(4, 6)
    second.weight = third.weight = first.weight
    for module, keep in ((first, 3), (second, 3), (third, 2)):
        steer(module, True).keep(keep)
    memo: dict = {}
    for module in (first, second, third):
        make_static(module, memo)
    assert first.weight is second.weight
    assert first.weight.shape == (3, 4)
    assert third.weight.shape == (2, 4)
    assert first.bias is not second.bias


def test_repr_of_the_reference() -> None:
    conv = DynamicConv2d(3, 8, 3, 1, 1)
    mutable = SquentialMutableChannel(8)
    MutableChannelContainer.register_mutable_channel_to_module(conv, mutable, is_to_output_channel=True)
    mutable.current_choice = 2
    assert repr(conv) == (
        "DynamicConv2d(\n"
        "  3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1)\n"
        "  (mutable_attrs): ModuleDict(\n"
        "    (in_channels): MutableChannelContainer(num_channels=3, activated_channels=3)\n"
        "    (out_channels): MutableChannelContainer(num_channels=8, activated_channels=2)\n"
        "  )\n"
        ")"
    )


def test_repr_shows_children_first_and_sizes_full() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()
            self.gamma = nn.Parameter(torch.ones(4))

    block = make_dynamic(Block(), {"gamma": [0]})
    assert repr(block) == (
        "DynamicBlock(\n"
        "  (act): ReLU()\n"
        "  (mutable_attrs): ModuleDict(\n"
        "    (gamma): MutableChannelContainer(num_channels=4, activated_channels=4)\n"
        "  )\n"
        ")"
    )
    linear = nn.Linear(4, 2)
    steer(linear, False).current_choice = 1
    assert "in_features=4, out_features=2, bias=True\n" in repr(linear)
    norm = nn.LayerNorm(6)
    steer(norm, True).current_choice = 1
    assert "\n  (6,), eps=1e-05" in repr(norm)
    scale = repr(make_dynamic(Scale(3), {"gamma": [0]}))
    assert scale.startswith("DynamicScale(\n  (mutable_attrs): ModuleDict(\n    (gamma): ")


def test_a_parameter_of_active_size_is_no_new_parameter() -> None:
    linear = nn.Linear(4, 6)
    steer(linear, True).current_choice = 2
    with pytest.raises(PrepareError, match=r"DynamicLinear.weight must have all 6 channels along dim 0.*\(2, 4\)"):
        linear.weight = nn.Parameter(torch.zeros(2, 4))
    linear.weight = nn.Parameter(torch.ones(6, 4))
    assert linear.weight.shape == (2, 4)
    assert torch.equal(linear.weight, torch.ones(2, 4))


class Custom(nn.Linear):
    """Pickles in a way of its own."""

    def __reduce__(self) -> tuple[object, ...]:
        return Custom, (self.__dict__["in_features"], self.__dict__["out_features"]), self.__dict__


def test_a_class_with_its_own_way_of_pickling() -> None:
    module = Custom(4, 6)
    steer(module, True).current_choice = 3
    for other in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert type(other) is type(module)
        assert torch.equal(other.weight, module.weight)


def refused() -> dict[str, tuple[nn.Module, str]]:
    computed = "its weight is computed by a hook"
    pruned = nn.Linear(4, 4)
    prune.random_unstructured(pruned, "weight", 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and in use
        normed = nn.utils.weight_norm(nn.Linear(4, 4))
    return {
        "lstm": (nn.LSTM(4, 4), "flattened weights"),
        "cell": (nn.GRUCell(4, 4), "flattened weights"),
        "lazy": (nn.LazyLinear(4), "lazy and not initialised"),
        "parametrized": (parametrizations.weight_norm(nn.Linear(4, 4)), "parametrized"),
        "weight_norm": (normed, computed),
        "spectral_norm": (nn.utils.spectral_norm(nn.Linear(4, 4)), computed),
        "prune": (pruned, computed),
        "layernorm": (nn.LayerNorm((4, 5)), "normalises over 2 dims"),
        "max_norm": (nn.Embedding(4, 4, max_norm=1.0), "max_norm"),
        "sparse": (nn.Embedding(4, 4, sparse=True), "sparse"),
    }


@pytest.mark.parametrize("name", refused())
def test_refusals_say_why_and_change_nothing(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lazy modules warn about themselves
        module, words = refused()[name]
    cls, attributes = type(module), list(module.__dict__)
    assert words in (refusal(module) or "")
    with pytest.raises(PrepareError, match=rf"{cls.__name__} cannot be narrowed: .*{words}"):
        make_dynamic(module)
    assert type(module) is cls
    assert list(module.__dict__) == attributes


def test_what_has_no_channels_is_refused() -> None:
    for module in (nn.ReLU(), nn.PReLU(), Scale(4)):
        assert sides(module) == {}
        with pytest.raises(PrepareError, match="has no tensor with channels; name them in tensors"):
            make_dynamic(module)
    with pytest.raises(PrepareError, match="Scale has no parameter or buffer 'gama'"):
        make_dynamic(Scale(4), {"gama": [0]})
    with pytest.raises(PrepareError, match=r"Scale.gamma of shape \(4, 1, 1\) has no dims \(3,\)"):
        make_dynamic(scale := Scale(4), {"gamma": [3]})
    assert type(scale) is Scale
    with pytest.raises(PrepareError, match="DynamicConv2d converts a Conv2d, got a Linear"):
        DynamicConv2d.convert_from(nn.Linear(4, 4))
    with pytest.raises(PrepareError, match="Linear is no dynamic op"):
        containers(nn.Linear(4, 4))
    with pytest.raises(PrepareError, match="Linear is no dynamic op"):
        restore(nn.Linear(4, 4))
    with pytest.raises(PrepareError, match="Linear is no dynamic op"):
        MutableChannelContainer.register_mutable_channel_to_module(nn.Linear(4, 4), SquentialMutableChannel(4))


def test_sides_are_found_by_role_and_by_name() -> None:
    linear = make_dynamic(nn.Linear(4, 6))
    assert container_of(linear, True) is containers(linear)["out_features"] is linear.mutable_attrs["out_features"]
    assert container_of(linear, False) is container_of(linear, True, "in_features")
    norm = make_dynamic(NormWithActivation(4), {"slope": [0]})
    assert container_of(norm, True) is container_of(norm, False) is containers(norm)["num_features"]
    assert container_of(norm, True, "slope") is containers(norm)["slope"]
    with pytest.raises(ConfigError, match=r"DynamicLinear has no side 'out_feature'; did you mean 'out_features'\?"):
        container_of(linear, True, "out_feature")
    with pytest.raises(ConfigError, match="DynamicEmbedding has 0 sides that are its input's channels"):
        container_of(make_dynamic(nn.Embedding(4, 6)), False)


def test_tensors_are_added_to_what_is_dynamic_already() -> None:
    norm = nn.BatchNorm2d(4)
    norm.gain = nn.Parameter(torch.ones(4, 3))
    mutable = steer(norm, True)
    mutable.current_choice = 2
    make_dynamic(norm, {"gain": [0]})
    make_dynamic(norm, {"gain": [1]})
    assert list(containers(norm)) == ["num_features", "gain[0]", "gain[1]"]
    assert norm.num_features == 2
    containers(norm)["gain[1]"].register_mutable(other := SquentialMutableChannel(3))
    other.current_choice = 1
    assert norm.gain.shape == (4, 1)
    assert type(restore(norm)) is nn.BatchNorm2d


def test_a_subclass_of_a_dynamic_op_runs_but_has_no_plain_class() -> None:
    class Mine(DynamicLinear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    module = Mine(4, 6)
    module.mutable_attrs["out_features"].register_mutable(mutable := SquentialMutableChannel(6))
    mutable.current_choice = 2
    x = torch.randn(3, 4)
    assert_close(module(x), x @ module.weight.T + module.bias + 1)
    for undo in (restore, make_static):
        with pytest.raises(PrepareError, match="Mine is a subclass of a dynamic op"):
            undo(module)
    assert is_dynamic(module)


def test_parametrizing_afterwards_is_not_silent() -> None:
    linear = nn.Linear(4, 6)
    steer(linear, True).current_choice = 3
    restore(linear)
    parametrize.register_parametrization(linear, "weight", nn.Identity())
    with pytest.raises(PrepareError, match="parametrized"):
        make_dynamic(linear)
