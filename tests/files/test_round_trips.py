"""Good files come back exactly, and what was changed in them anywhere is refused or holds all invariants."""

from __future__ import annotations

import copy
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from invariants import check_exported, check_full_width, check_state_untouched
from torch import nn

from lightning_channels import ChannelMutator, OneShotMutableChannelUnit, SlimmableChannelMutator, build
from lightning_channels._plain import read_file, write_file
from lightning_channels.errors import ChannelsError
from lightning_channels.samplers import read_choices
from tests.files.nets import STEM, facts, inputs, net, structure

quick = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 12),
    st.floats(),
    st.sampled_from(["", "stem", "mix", "mix.qkv", "heads", "gain", "../stem", "__class__", "os.system", "nan"]),
    st.text(max_size=6),
)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything that is in some data."""
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


def spoiled(draw: st.DrawFn, data: dict[str, Any]) -> dict[str, Any]:
    """Replace, remove or double something at one or two random places."""
    data = copy.deepcopy(data)
    for _ in range(draw(st.integers(1, 2))):
        *path, last = draw(st.sampled_from(list(places(data))))
        place: Any = data
        for part in path:
            place = place[part]
        how = draw(st.sampled_from(["replace", "remove", "double"]))
        if how == "replace":
            place[last] = draw(PLAIN)
        elif how == "remove":
            del place[last]
        elif isinstance(place, list):
            place.insert(last, copy.deepcopy(place[last]))
        else:
            place[f"{last}{draw(st.sampled_from(['', ' ', '2']))}"] = copy.deepcopy(place[last])
    return data


def check(model: nn.Module, mutator: ChannelMutator, narrow: bool) -> None:
    """The invariants, after which the model is restored."""
    plain = net()
    check_state_untouched(plain, model, dict([*model.named_parameters(), *model.named_buffers()]))
    if narrow:
        for kind in ("current", "min"):
            mutator.set_choices({} if kind == "current" else mutator.sample_choices("min"))
            check_exported(model.eval(), inputs(), 1e-5)
    mutator.set_choices(mutator.sample_choices("max"))
    if all(unit.mutable_channel.activated_channels == unit.num_channels for unit in mutator.units):
        check_full_width(plain, model.train(), inputs())
    mutator.restore()


@quick
@given(st.data())
def test_structures(data: st.DataObject) -> None:
    spoilt = data.draw(st.composite(spoiled)(structure()))
    model = net()
    before = facts(model)
    try:
        mutator = ChannelMutator.from_structure(spoilt)
        mutator.prepare_from_supernet(model)
    except ChannelsError:
        pass
    else:
        check(model, mutator, narrow=True)
        model.train()
    assert facts(model) == before


@quick
@given(st.data())
def test_templates(data: st.DataObject) -> None:
    """Nobody vouches for the channels of a template; at full width the model is its own, and it can be restored."""
    spoilt = data.draw(st.composite(spoiled)(structure()["template"]))
    model = net()
    before = facts(model)
    try:
        mutator = build(spoilt)
        mutator.prepare_from_supernet(model, inputs(), verify=False)
    except ChannelsError:
        pass
    else:
        check(model, mutator, narrow=False)
        model.train()
    assert facts(model) == before


@pytest.fixture(scope="module")
def prepared() -> ChannelMutator:
    mutator = ChannelMutator.from_structure(structure())
    mutator.prepare_from_supernet(net())
    return mutator


@quick
@given(st.data())
def test_checkpoints(prepared: ChannelMutator, data: st.DataObject) -> None:
    spoilt = data.draw(st.composite(spoiled)(structure()))
    before, choices = facts(prepared.model), prepared.current_choices
    try:
        prepared.load_structure(spoilt)
    except ChannelsError:
        assert prepared.current_choices == choices
    else:
        assert prepared.current_choices == spoilt["choices"]
        prepared.set_choices(choices)
    assert facts(prepared.model) == before


@quick
@given(st.data())
def test_choices(prepared: ChannelMutator, data: st.DataObject) -> None:
    spoilt = data.draw(st.composite(spoiled)(structure()["choices"]))
    before, choices = facts(prepared.model), prepared.current_choices
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "choices.json"
        path.write_text(json.dumps(spoilt))
        try:
            prepared.set_choices(read_choices(path))
        except ChannelsError:
            assert prepared.current_choices == choices
        else:
            prepared.set_choices(choices)
    assert facts(prepared.model) == before


@quick
@given(st.data())
def test_text(data: st.DataObject) -> None:
    """A good file with some characters less, or twice."""
    ending = data.draw(st.sampled_from(["yaml", "json"]))
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(Path(folder) / f"net.{ending}", structure())
        text = path.read_text()
        start = data.draw(st.integers(0, len(text) - 1))
        end = start + data.draw(st.integers(1, 40))
        path.write_text(
            text[:start] + data.draw(st.sampled_from(["", text[start:end] * 2, "&a *a", "\t"])) + text[end:]
        )
        try:
            found = read_file(path)
        except ChannelsError:
            return
        assert json.loads(json.dumps(found, allow_nan=False)) == found


# --- good ones --------------------------------------------------------------------------------------------------------


@settings(quick, max_examples=25)
@given(
    ending=st.sampled_from(["yaml", "yml", "json"]),
    mode=st.sampled_from(["number", "ratio"]),
    divisor=st.sampled_from([1, 2, 4]),
    one_shot=st.booleans(),
    seed=st.integers(0, 2**20),
    ranked=st.booleans(),
    by_hand=st.booleans(),
)
def test_a_structure_comes_back(
    ending: str, mode: str, divisor: int, one_shot: bool, seed: int, ranked: bool, by_hand: bool
) -> None:
    arguments: dict[str, Any] = {"choice_mode": mode, "divisor": divisor}
    if one_shot:
        arguments["candidate_choices"] = [1, 2, 4] if mode == "number" else [0.25, 0.5, 1.0]
    kind = OneShotMutableChannelUnit if one_shot else "SequentialMutableChannelUnit"
    template = structure()["template"]
    for unit in template["channel_unit_cfg"]["units"].values():
        del unit["init_args"], unit["choice"]
    config = {**template["channel_unit_cfg"], "type": kind, "default_args": arguments}
    first = ChannelMutator(config, {"type": "Config", "costs": template["parse_cfg"]["costs"]})
    first.prepare_from_supernet(net())
    rng = random.Random(seed)
    for unit in first.mutable_units if ranked else ():
        unit.rank([rng.random() for _ in range(unit.num_channels)])
    first.set_choices(first.sample_choices(rng=rng))
    if by_hand:  # any number, whether or not it is one that can be chosen
        unit = first.name2unit[STEM]
        places = rng.sample(range(unit.num_channels // unit.groups), rng.randint(1, 3))
        unit.keep([place + 4 * group for group in range(unit.groups) for place in places])
    written = first.structure()
    assert ("order" in written) is ranked
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(Path(folder) / f"net.{ending}", written)
        assert read_file(path) == written
        choices = write_file(Path(folder) / f"choices.{ending}", first.current_choices)
        assert read_choices(choices) == first.current_choices
        assert read_choices(path) == {**first.current_choices, **first.kept_channels()}
        second = ChannelMutator.from_structure(read_file(path))
    model = net()
    second.prepare_from_supernet(model)
    assert second.structure() == written
    assert [repr(unit) for unit in second.units] == [repr(unit) for unit in first.units]
    assert which(second) == which(first)
    first.set_choices(first.sample_choices("max"))
    for unit in first.mutable_units:
        unit.rank(None)
    first.load_structure(second.structure())
    assert (first.structure(), which(first)) == (written, which(second))


def which(mutator: ChannelMutator) -> list[tuple[list[int], list[int] | None]]:
    """What is active, and in which order channels are kept."""
    return [(unit.mutable_channel.kept.tolist(), unit.order) for unit in mutator.mutable_units]


def test_slimmable_structures_come_back(tmp_path: Path) -> None:
    arguments = {"candidate_choices": [0.25, 0.5, 1.0], "choice_mode": "ratio"}
    first = SlimmableChannelMutator({"default_args": arguments})
    first.prepare_from_supernet(net(), inputs())
    for subnet in range(4):
        if subnet == 3:  # the most important channels of a candidate, with the norms of that candidate
            subnet = 1
            first.name2unit[STEM].rank([1, 0, 3, 2, 1, 0, 3, 2])
        first.set_subnet(subnet)
        written = first.structure()
        second = ChannelMutator.from_structure(read_file(write_file(tmp_path / "net.yaml", written)))
        second.prepare_from_supernet(net())
        assert isinstance(second, SlimmableChannelMutator)
        assert (second.structure(), second.current_subnet, which(second)) == (written, subnet, which(first))
    assert first.kept_channels() == {STEM: [2, 3, 6, 7]}


def test_a_tied_head_comes_back() -> None:
    """Its weight bears another name among the model's tensors."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(7, 6), nn.Linear(6, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.embed(ids)))

    first = ChannelMutator()
    first.prepare_from_supernet(Tied(), torch.arange(4)[None])
    assert len(first.mutable_units) == 1
    second = ChannelMutator.from_structure(first.structure())
    second.prepare_from_supernet(Tied())
    assert second.structure() == first.structure()


def test_anchors_are_data(tmp_path: Path) -> None:
    text = "half: &half {choice: 4}\nsame: *half\nmore: {<<: *half, init_args: {divisor: 2}}\n"
    (tmp_path / "units.yaml").write_text(text)
    assert read_file(tmp_path / "units.yaml") == yaml.safe_load(text)
