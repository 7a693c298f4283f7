"""Samplers are pure functions of seed, epoch and batch index."""

import os
import random
import subprocess
import sys

import pytest

from lightning_channels._plain import write_file
from lightning_channels.errors import ConfigError
from lightning_channels.registry import SAMPLERS
from lightning_channels.samplers import RandomSampler, Sampler, build_sampler, generator_for, passes_of, read_choices


class Unit:
    def __init__(self, name, num_channels, choice_mode):
        self.name, self.num_channels, self.choice_mode = name, num_channels, choice_mode


class Mutator:
    """What a sampler may ask of a mutator."""

    mutable_units = [Unit("a", 8, "number"), Unit("b", 3, "number"), Unit("c", 8, "ratio"), Unit("d", 100, "number")]  # noqa: RUF012

    def sample_choices(self, kind="random", rng=None):
        if kind == "random":
            return {unit.name: rng.randint(1, unit.num_channels) for unit in self.mutable_units}
        return {unit.name: 1 if kind == "min" else unit.num_channels for unit in self.mutable_units}


def draw(sampler, seed=0, epoch=0, batch_idx=0):
    return build_sampler(sampler).choices(Mutator(), seed=seed, epoch=epoch, batch_idx=batch_idx)


def test_random_choices_depend_on_seed_epoch_and_index_alone():
    state = random.getstate()
    points = [(seed, epoch, index) for seed in (0, 1) for epoch in (0, 1) for index in (0, 1, 11)]
    first = {point: draw("random", *point) for point in points}
    random.seed(99)
    assert {point: draw("random", *point) for point in reversed(points)} == first
    random.setstate(state)
    assert len({tuple(choices.values()) for choices in first.values()}) == len(points)


def test_the_draw_leaves_the_global_generator_alone():
    random.seed(4)
    state = random.getstate()
    draw("random")
    draw({"type": "random", "ratios": [0.5, 1.0]})
    assert random.getstate() == state


def test_the_draw_is_the_same_in_another_process():
    code = "from lightning_channels.samplers import generator_for; print(generator_for(1, 2, 3).random())"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert float(done.stdout) == generator_for(1, 2, 3).random() == random.Random("1/2/3").random()


def test_max_min_and_fixed():
    assert draw("max") == {"a": 8, "b": 3, "c": 8, "d": 100}
    assert draw("min") == {"a": 1, "b": 1, "c": 1, "d": 1}
    assert draw({"type": "fixed", "choices": {"b": 2}}) == {"a": 8, "b": 2, "c": 8, "d": 100}


def test_ratios_are_drawn_for_each_unit_in_its_own_terms():
    sampler = RandomSampler([0.25, 0.5, 1.0])
    drawn = [sampler.choices(Mutator(), seed=0, epoch=0, batch_idx=index) for index in range(200)]
    assert {choices["a"] for choices in drawn} == {2, 4, 8}
    assert {choices["b"] for choices in drawn} == {1, 2, 3}
    assert {choices["c"] for choices in drawn} == {0.25, 0.5, 1.0}
    assert len({tuple(choices.values()) for choices in drawn}) > 40


def test_a_shared_ratio_is_one_for_all_units():
    sampler = RandomSampler([0.25, 0.5, 1.0], shared=True)
    drawn = [sampler.choices(Mutator(), seed=0, epoch=0, batch_idx=index) for index in range(100)]
    assert {tuple(choices.values()) for choices in drawn} == {(2, 1, 0.25, 25), (4, 2, 0.5, 50), (8, 3, 1.0, 100)}


def test_files_of_choices(tmp_path):
    for name in ("choices.yaml", "choices.json"):
        assert read_choices(write_file(tmp_path / name, {"a": 3, "c": 0.5})) == {"a": 3, "c": 0.5}
    structure = write_file(tmp_path / "x.structure.yaml", {"version": 1, "choices": {"a": 2}, "template": {}})
    assert draw({"type": "fixed", "choices": str(structure)})["a"] == 2
    with pytest.raises(ConfigError, match=r"list\.json must be a dict"):
        read_choices(write_file(tmp_path / "list.json", [1]))
    with pytest.raises(ConfigError, match=r"bad\.yaml: the choice of 'a' must be a number.*, got True"):
        read_choices(write_file(tmp_path / "bad.yaml", {"a": True}))


def test_own_samplers():
    @SAMPLERS.register("test_alternate")
    class Alternate:
        def choices(self, mutator, *, seed, epoch, batch_idx):
            return mutator.sample_choices("max" if batch_idx % 2 else "min")

    assert isinstance(Alternate(), Sampler)
    for given in ("test_alternate", {"type": "test_alternate"}, Alternate, Alternate()):
        assert draw(given, batch_idx=1)["a"] == 8
        assert draw(given, batch_idx=2)["a"] == 1
    assert draw(lambda mutator, *, seed, epoch, batch_idx: {"a": epoch}, epoch=6) == {"a": 6}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("maximum", r"unknown sampler 'maximum'; did you mean 'max'\? Known: .*random"),
        ("xyzzy", r"unknown sampler 'xyzzy'\. Known: "),
        ({}, r"must be a dict with a 'type'"),
        (None, r"a sampler must be a name"),
        ({"type": "random", "ratios": "0.5"}, "ratios must be a list"),
        ({"type": "random", "ratios": [0]}, r"\(0, 1\], got 0"),
        ({"type": "random", "ratios": [True]}, r"\(0, 1\], got True"),
        ({"type": "random", "ratios": [1.0], "shared": "no"}, "shared must be true or false"),
        ({"type": "fixed"}, "'fixed' needs choices"),
        ({"type": "max", "ratios": [1.0]}, "takes no argument 'ratios'"),
    ],
)
def test_mistakes(given, message):
    with pytest.raises(ConfigError, match=message):
        build_sampler(given)


# --- cycles, sandwiches and patterns


def passes(sampler, seed=0, epoch=0, batch_idx=0, mutator=None):
    return passes_of(build_sampler(sampler), mutator or Mutator(), seed=seed, epoch=epoch, batch_idx=batch_idx)


def test_a_sandwich_has_the_widest_the_narrowest_and_random_ones():
    found = passes({"type": "sandwich", "n_random": 3, "ratios": [0.25, 0.5, 1.0]})
    assert len(found) == 5
    assert found[0] == {"a": 8, "b": 3, "c": 1.0, "d": 100}
    assert found[1] == {"a": 2, "b": 1, "c": 0.25, "d": 25}
    for choices in found[2:]:
        assert choices["a"] in (2, 4, 8)
        assert choices["c"] in (0.25, 0.5, 1.0)
    assert found[2] != found[3]
    assert passes({"type": "sandwich", "n_random": 0}) == [
        {"a": 8, "b": 3, "c": 8, "d": 100},
        {"a": 1, "b": 1, "c": 1, "d": 1},
    ]


def test_the_ends_of_a_sandwich_are_those_of_its_ratios():
    widest, narrowest = passes({"type": "sandwich", "n_random": 0, "ratios": [0.75, 0.5]})
    assert (widest["d"], narrowest["d"]) == (75, 50)
    widest, narrowest = passes({"type": "sandwich", "n_random": 0, "min_ratio": 0.25})
    assert (widest["d"], narrowest["d"]) == (100, 25)


def test_a_sandwich_is_a_function_of_seed_epoch_and_index():
    given = {"type": "sandwich", "n_random": 2, "min_ratio": 0.1}
    points = [(seed, epoch, index) for seed in (0, 1) for epoch in (0, 1) for index in (0, 1)]
    found = [passes(given, *point) for point in points]
    random.seed(3)
    assert found == [passes(given, *point) for point in points]
    assert len({tuple(choices[2].values()) for choices in found}) == len(points)


def test_any_share_from_the_smallest_on():
    drawn = {draw({"type": "random", "min_ratio": 0.5}, batch_idx=index)["d"] for index in range(200)}
    assert min(drawn) >= 50
    assert len(drawn) > 30
    shared = draw({"type": "random", "min_ratio": 0.5, "shared": True})
    assert abs(shared["d"] / 100 - shared["c"]) <= 0.005


def test_ratios_by_pattern():
    given = {"type": "random", "ratios": {"[ab]": [0.5], "c": [0.25, 0.75]}}
    found = [draw(given, batch_idx=index) for index in range(20)]
    assert {choices["a"] for choices in found} == {4}
    assert {choices["c"] for choices in found} == {0.25, 0.75}
    assert {choices["d"] for choices in found} == {100}
    first = draw({"type": "random", "ratios": {"a": [1.0], "*": [0.5]}})
    assert (first["a"], first["d"]) == (8, 50)
    shared = [
        draw({"type": "random", "ratios": {"[ab]": [0.5, 1.0], "d": [0.1, 0.9]}, "shared": True}, 0, 0, i)
        for i in range(30)
    ]
    assert {(choices["a"], choices["b"]) for choices in shared} == {(4, 2), (8, 3)}
    assert {choices["d"] for choices in shared} == {10, 90}
    widest, narrowest, _ = passes({"type": "sandwich", "n_random": 1, "ratios": {"a": [0.5, 0.75]}})
    assert (widest["a"], narrowest["a"], narrowest["d"]) == (6, 4, 100)


def test_cycles():
    class Slimmable(Mutator):
        subnets = [{"a": 2}, {"a": 4}, {"a": 8}]  # noqa: RUF012

    turns = [
        passes("cycle", epoch=epoch, batch_idx=index, mutator=Slimmable()) for epoch in (0, 1) for index in range(4)
    ]
    assert [choices["a"] for (choices,) in turns] == [2, 4, 8, 2, 4, 8, 2, 4]
    given = {"type": "cycle", "ratios": [0.5, 1.0]}
    assert [draw(given, batch_idx=index)["d"] for index in range(3)] == [50, 100, 50]
    with pytest.raises(ConfigError, match="give it ratios"):
        draw("cycle")


def test_own_samplers_of_several_passes():
    class Twice:
        def choices(self, mutator, *, seed, epoch, batch_idx):
            return mutator.sample_choices("max")

        def passes(self, mutator, *, seed, epoch, batch_idx):
            return [mutator.sample_choices("max"), mutator.sample_choices("min")]

    assert [choices["a"] for choices in passes(Twice())] == [8, 1]
    assert [choices["a"] for choices in passes("max")] == [8]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"type": "random", "shared": True}, "shared=True needs ratios"),
        ({"type": "random", "ratios": [0.5], "min_ratio": 0.5}, "ratios or min_ratio, not both"),
        ({"type": "random", "min_ratio": 0}, r"min_ratio must lie in \(0, 1\], got 0"),
        ({"type": "random", "ratios": {}}, "at least one pattern"),
        ({"type": "random", "ratios": {"a": []}}, "must be a list of numbers"),
        ({"type": "sandwich", "n_random": 1.5}, "n_random must be an integer"),
        ({"type": "sandwich", "n_random": True}, "n_random must be an integer"),
        ({"type": "sandwich", "reduction": "average"}, "must be 'sum' or 'mean', got 'average'"),
        ({"type": "sandwich", "n": 3}, "takes no argument 'n'"),
        ({"type": "cycle", "ratios": []}, "must be a list of numbers"),
        ({"type": "cycle", "ratios": [2]}, r"must lie in \(0, 1\], got 2"),
    ],
)
def test_mistakes_in_several_widths(given, message):
    with pytest.raises(ConfigError, match=message):
        build_sampler(given)


def test_a_pattern_that_matches_nothing():
    with pytest.raises(ConfigError, match=r"pattern 'layer\.\*' matches no unit"):
        draw({"type": "random", "ratios": {"layer.*": [0.5]}})
