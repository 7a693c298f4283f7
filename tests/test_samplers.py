"""Samplers are pure functions of seed, epoch and batch index."""

import os
import random
import subprocess
import sys

import pytest

from lightning_channels._plain import write_file
from lightning_channels.errors import ConfigError
from lightning_channels.registry import SAMPLERS
from lightning_channels.samplers import RandomSampler, Sampler, build_sampler, generator_for, read_choices


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
    with pytest.raises(ConfigError, match=r"bad\.yaml: the choice of 'a' must be a number, got True"):
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
