"""What may go of an attention: whole heads, or dims within them; and what the report says of it."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_channels import BackwardTracer, ChannelMutator, ForwardTracer, MutableChannelUnit, export_subnet
from lightning_channels.errors import ChoiceError, ConfigError
from lightning_channels.tracing.attentions import find_attentions

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Apart(nn.Module):
    """Heads and their size are attributes, and the stream's width is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = 3, 4, 4**-0.5
        self.embed, self.qkv, self.proj = nn.Linear(6, 10), nn.Linear(10, 36), nn.Linear(12, 10)
        self.head = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        weights = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1)
        y = (weights @ v).transpose(1, 2).flatten(2)
        return self.head(x + self.proj(y)).mean(1)


class Joint(nn.Module):
    """The stream's width is that of all heads, and the scale is computed from it."""

    def __init__(self, scales_scores: bool = False) -> None:
        super().__init__()
        self.num_heads, self.scales_scores = 3, scales_scores
        self.embed, self.qkv, self.proj = nn.Linear(6, 12), nn.Linear(12, 36), nn.Linear(12, 12)
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        scale = (c // self.num_heads) ** -0.5
        scores = (q @ k.transpose(-2, -1)) * scale if self.scales_scores else (q * scale) @ k.transpose(-2, -1)
        return self.head(x + self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))).mean(1)


def prepared(model: nn.Module, attention: str) -> ChannelMutator:
    torch.manual_seed(0)
    mutator = ChannelMutator(parse_cfg={"type": "ForwardTracer", "attention": attention})
    mutator.prepare_from_supernet(model.double().eval(), X)
    return mutator


def unit_of(mutator: ChannelMutator, side: str) -> MutableChannelUnit:
    """The unit that decides about an output; with ``+`` the one that crosses it."""
    place = side.rstrip("+"), side.endswith("+")
    return next(u for u in mutator.mutable_units if any((c.name, c.crossing) == place for c in u.output_related))


def shape_of_unit(mutator: ChannelMutator, side: str) -> tuple[int, int]:
    """Channels of the unit that decides about an output, and in how many equal tiles."""
    unit = unit_of(mutator, side)
    return unit.num_channels, unit.groups


@pytest.mark.parametrize(
    ("make", "attention", "expected"),
    [
        (Apart, "heads", {"embed": (10, 1), "qkv": (3, 1)}),
        (Apart, "dims", {"embed": (10, 1), "qkv": (12, 3)}),
        (Apart, "both", {"embed": (10, 1), "qkv": (3, 1), "qkv+": (12, 3)}),
        (Joint, "heads", {"embed": (3, 1), "qkv": (3, 1)}),
        (Joint, "dims", {"embed": (4, 1), "qkv": (4, 1)}),
        (Joint, "both", {"embed": (3, 1), "embed+": (12, 3), "qkv": (3, 1), "qkv+": (12, 3)}),
    ],
)
def test_what_may_go(make: type[nn.Module], attention: str, expected: dict[str, tuple[int, int]]) -> None:
    mutator = prepared(make(), attention)
    assert {side: shape_of_unit(mutator, side) for side in expected} == expected
    assert mutator.report().covered > 0.9


def test_whole_heads_are_exact_and_dims_are_not() -> None:
    def exact(attention: str) -> bool:
        mutator = prepared(Joint(), attention)
        return next(u for u in mutator.mutable_units if any(c.name == "qkv" for c in u.channels)).exact

    assert exact("heads")
    assert not exact("dims")


@pytest.mark.parametrize("scales_scores", [False, True])
def test_the_scale_of_a_narrow_head_is_that_of_its_size(scales_scores: bool) -> None:
    """By hand: what the code computes from its widths is what a net of these widths computes."""
    model = Joint(scales_scores)
    mutator = prepared(model, "dims")
    (unit,) = (u for u in mutator.mutable_units if any(c.name == "qkv" for c in u.channels))
    mutator.set_choices({unit.name: 2})
    small: Any = mutator.export(model)
    x = F.linear(X, small.embed.weight, small.embed.bias)
    q, k, v = F.linear(x, small.qkv.weight, small.qkv.bias).reshape(2, 5, 3, 3, 2).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v, scale=2**-0.5).transpose(1, 2).reshape(2, 5, 6)
    expected = F.linear(x + F.linear(y, small.proj.weight, small.proj.bias), small.head.weight, small.head.bias).mean(1)
    assert_close(small(X), expected)
    assert_close(model(X), expected)


@pytest.mark.parametrize(("attention", "active"), [("heads", (1, 4)), ("dims", (3, 2))])
def test_the_report_counts_heads_and_their_size(attention: str, active: tuple[int, int]) -> None:
    mutator = prepared(Apart(), attention)
    (full,) = mutator.report().attentions
    assert (full.module, full.heads, full.head_dim) == ("", 3, 4)
    assert (full.active_heads, full.active_head_dim) == (3, 4)
    unit = next(u for u in mutator.mutable_units if any(c.name == "qkv" for c in u.output_related))
    mutator.set_choices({unit.name: active[0] if attention == "heads" else 6})
    (now,) = mutator.report().attentions
    assert (now.active_heads, now.active_head_dim) == active
    text = {"heads": "1 (of 3) heads of 4: the model", "dims": "3 heads of 2 (of 4): the model"}[attention]
    assert f"attention, at the current choices:\n  {text}" in str(mutator.report())


def test_what_does_not_attend_is_not_listed() -> None:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2)).double(), X)
    assert mutator.report().attentions == ()
    assert "attention" not in str(mutator.report())


def test_single_heads_and_fused_kernels_are_counted() -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.many = nn.MultiheadAttention(8, 1, batch_first=True), nn.Linear(8, 24)
            self.embed, self.head = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            x = x + self.one(x, x, x, need_weights=False)[0]
            q, k, v = self.many(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            return self.head(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    graph = ForwardTracer().trace(Fused().double().eval(), X)
    assert {(a.module, a.heads, a.dims) for a in find_attentions(graph)} == {("one", 1, 8), ("", 2, 4)}


@pytest.mark.parametrize("tracer", [ForwardTracer, BackwardTracer])
def test_another_policy_is_an_error(tracer: type[ForwardTracer]) -> None:
    with pytest.raises(ConfigError, match=r"attention must be one of 'heads', 'dims', 'both', got 'head'"):
        tracer(attention="head")  # type: ignore[arg-type]


@pytest.mark.parametrize("attention", ["heads", "dims", "both"])
@pytest.mark.parametrize("make", [Apart, Joint])
def test_both_tracers_find_the_same(make: type[nn.Module], attention: Any) -> None:
    names = []
    for tracer in (ForwardTracer(attention=attention), BackwardTracer(attention=attention)):
        mutator = ChannelMutator(parse_cfg={"type": type(tracer).__name__, "attention": attention})
        torch.manual_seed(0)
        mutator.prepare_from_supernet(make().double().eval(), X)
        names.append([(u.name, u.is_mutable, u.groups) for u in mutator.units])
    assert names[0] == names[1]


def test_the_policy_is_part_of_the_template() -> None:
    template = prepared(Apart(), "dims").config_template()
    assert template["parse_cfg"]["attention"] == "dims"


def by_hand(small: Any, x: Tensor, heads: int, dims: int) -> Tensor:
    """What :class:`Apart` of these widths computes."""
    x = F.linear(x, small.embed.weight, small.embed.bias)
    q, k, v = F.linear(x, small.qkv.weight, small.qkv.bias).reshape(2, 5, 3, heads, dims).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v, scale=4**-0.5).transpose(1, 2).reshape(2, 5, heads * dims)
    return F.linear(x + F.linear(y, small.proj.weight, small.proj.bias), small.head.weight, small.head.bias).mean(1)


def test_heads_and_dims_apart_from_each_other() -> None:
    model = Apart()
    mutator = prepared(model, "both")
    heads, dims = unit_of(mutator, "qkv"), unit_of(mutator, "qkv+")
    full = model.qkv._parameters["weight"]
    assert full is not None
    for kept_heads, kept_dims in (([0, 1], [0, 1, 2]), ([0, 2], [1, 3]), ([1], [0, 1, 2, 3]), ([0, 1, 2], [2])):
        heads.keep(kept_heads)
        dims.keep([4 * head + place for head in range(3) for place in kept_dims])
        assert (model.num_heads, model.head_dim) == (len(kept_heads), len(kept_dims))
        small: Any = export_subnet(model)
        rows = [12 * part + 4 * head + place for part in range(3) for head in kept_heads for place in kept_dims]
        assert_close(small.qkv.weight, full[rows])
        assert_close(small(X), by_hand(small, X, len(kept_heads), len(kept_dims)))
        assert_close(model(X), small(X))
        (counts,) = mutator.report().attentions
        assert (counts.active_heads, counts.active_head_dim) == (len(kept_heads), len(kept_dims))


def test_the_most_important_heads_and_places_in_them() -> None:
    model = Apart()
    mutator = prepared(model, "both")
    heads, dims = unit_of(mutator, "qkv"), unit_of(mutator, "qkv+")
    heads.rank([1.0, 3.0, 2.0])
    dims.rank([0, 2, 0, 1, 0, 0, 9, 0, 0, 0, 0, 4])  # over all heads: 0, 2, 9, 5
    mutator.set_choices({heads.name: 2, dims.name: 6})
    assert mutator.kept_channels() == {heads.name: [1, 2], dims.name: [2, 3, 6, 7, 10, 11]}
    small: Any = export_subnet(model)
    assert_close(small(X), by_hand(small, X, 2, 2))
    assert_close(model(X), small(X))
    again = ChannelMutator.from_structure(mutator.structure())
    twin = Apart().double().eval()
    twin.load_state_dict(model.state_dict())
    again.prepare_from_supernet(twin)
    assert_close(twin(X), small(X))
    with pytest.raises(ChoiceError, match=r"3 groups of unit .* must keep the same channels"):
        mutator.keep_channels({heads.name: [0], dims.name: [0, 1, 2]})
    assert mutator.kept_channels()[heads.name] == [1, 2]


def test_a_single_head_and_a_single_place_are_left() -> None:
    model = Apart()
    mutator = prepared(model, "both")
    mutator.set_choices(mutator.sample_choices("min"))
    small: Any = export_subnet(model)
    assert small.qkv.weight.shape == (3, 1)
    assert_close(model(X), small(X))


def test_crossing_units_come_back_from_a_template_without_a_tracer() -> None:
    model = Apart()
    mutator = prepared(model, "both")
    mutator.set_choices({unit_of(mutator, "qkv").name: 2, unit_of(mutator, "qkv+").name: 6})
    template = json.loads(json.dumps(mutator.config_template(with_channels=True, with_unit_init_args=True)))
    template["parse_cfg"] = {"type": "Config"}
    again = ChannelMutator(template["channel_unit_cfg"], template["parse_cfg"])
    twin = Apart().double().eval()
    twin.load_state_dict(model.state_dict())
    again.prepare_from_supernet(twin)
    assert again.current_choices == mutator.current_choices
    assert_close(twin(X), model(X))
    channels = [
        entry for unit in template["channel_unit_cfg"]["units"].values() for entry in unit["channels"]["output_related"]
    ]
    assert {"crossing" in entry for entry in channels if entry["name"] == "qkv"} == {True, False}
    assert not any("crossing" in entry for entry in channels if entry["name"] == "embed")


def test_a_copy_has_crossing_units_of_its_own() -> None:
    model = Apart()
    mutator = prepared(model, "both")
    twin = copy.deepcopy(model)
    mutator.set_choices({unit_of(mutator, "qkv").name: 1, unit_of(mutator, "qkv+").name: 3})
    assert model.qkv.weight.shape == (3, 10)
    assert twin.qkv.weight.shape == (36, 10)
    assert pickle.loads(pickle.dumps(export_subnet(model)))(X).shape == (2, 2)


def test_restore_takes_both_off() -> None:
    model = Apart()
    expected = model.double().eval()(X)
    mutator = prepared(model, "both")
    mutator.set_choices(mutator.sample_choices("min"))
    mutator.restore()
    assert type(model.qkv) is nn.Linear
    assert_close(model(X), expected)


class Wide(Apart):
    """Three heads of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim, self.scale = 16, 0.25
        self.qkv, self.proj = nn.Linear(10, 144), nn.Linear(48, 10)


@pytest.mark.parametrize("attention", ["dims", "both"])
@pytest.mark.parametrize(
    ("arguments", "sizes"), [({}, {8, 16}), ({"divisor": 4}, {4, 8, 12, 16}), ({"divisor": 1}, set(range(1, 17)))]
)
def test_sizes_of_heads_suit_attention_kernels(attention: str, arguments: dict[str, Any], sizes: set[int]) -> None:
    """A divisor counts within a head; by default it is 8."""
    unit_cfg = {"type": "SequentialMutableChannelUnit", "default_args": arguments}
    mutator = ChannelMutator(unit_cfg, {"type": "ForwardTracer", "attention": attention})
    mutator.prepare_from_supernet(Wide().double().eval(), X)
    unit = unit_of(mutator, "qkv+" if attention == "both" else "qkv")
    assert {int(unit.check_choice(choice)) // 3 for choice in range(1, 49)} == sizes


def test_a_units_own_divisor_is_left_as_it_is() -> None:
    name = unit_of(prepared(Wide(), "dims"), "qkv").name
    unit_cfg = {"type": "SequentialMutableChannelUnit", "units": {name: {"init_args": {"divisor": 6}}}}
    mutator = ChannelMutator(unit_cfg, {"type": "ForwardTracer", "attention": "dims"})
    mutator.prepare_from_supernet(Wide().double().eval(), X)
    assert {mutator.name2unit[name].check_choice(choice) for choice in range(1, 49)} == set(range(6, 49, 6))
