"""Hostile files: each is refused with the package's own error, nothing is run, and nothing changes on the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_channels import ChannelMutator, ChannelPruning, SlimmableChannelMutator, build
from lightning_channels._plain import read_file
from lightning_channels.callbacks._source import MutatorSource
from lightning_channels.cli import main
from lightning_channels.errors import ChannelsError, ConfigError
from lightning_channels.samplers import FixedSampler, read_choices
from tests.files.hostile import OF_CHOICES, OF_STRUCTURES, OF_UNITS, TEXTS, Edit, dumped, edited, planted
from tests.files.hostile_templates import OF_TEMPLATES
from tests.files.nets import GROUPED, STEM, Bomb, Net, facts, inputs, net, structure


@pytest.fixture
def prepared() -> Iterator[tuple[ChannelMutator, Net]]:
    """A prepared model, whose widths stay."""
    model = net()
    mutator = ChannelMutator.from_structure(structure())
    mutator.prepare_from_supernet(model)
    mutator.set_choices({STEM: 2, GROUPED: 4})
    before, choices, state = facts(model), mutator.current_choices, mutator.structure()
    yield mutator, model
    assert facts(model) == before
    assert (mutator.current_choices, mutator.structure()) == (choices, state)


# --- text -------------------------------------------------------------------------------------------------------------


OF_THE_CALLBACK: dict[str, Callable[[Path], Any]] = {
    "mutator": lambda path: ChannelPruning(mutator=path),
    "mutator's path as text": lambda path: ChannelPruning(mutator=str(path)),
    "choices": lambda path: ChannelPruning(choices=path),
    "sampler": lambda path: ChannelPruning(sampler={"type": "fixed", "choices": str(path)}),
    "eval_choices": lambda path: ChannelPruning(eval_choices=path),
    "validate": lambda path: ChannelPruning(validate=[path]),
}
ENTRIES: dict[str, Callable[[Path], Any]] = {
    **OF_THE_CALLBACK,
    "read_file": read_file,
    "read_choices": read_choices,
    "FixedSampler": FixedSampler,
    "units": lambda path: ChannelMutator({"units": path}),
    "slimmable units": lambda path: SlimmableChannelMutator({"units": str(path)}),
    "build": lambda path: build({"type": "ChannelMutator", "channel_unit_cfg": {"units": str(path)}}),
}
_LARGE = {"a huge file", "wide JSON"}  # once is enough


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", TEXTS)
def test_text_that_is_no_data(name: str, entry: str, tmp_path: Path) -> None:
    ending, content, message = TEXTS[name]
    if name in _LARGE and entry != "read_file":
        return
    path = tmp_path / f"file.{ending}"
    sentinel = tmp_path / "executed"
    path.write_bytes(planted(content, sentinel))
    with pytest.raises(MisconfigurationException if entry in OF_THE_CALLBACK else ConfigError) as caught:
        ENTRIES[entry](path)
    assert message in str(caught.value)
    assert "file." in str(caught.value)  # which one it was
    assert len(str(caught.value)) < 5000
    assert not sentinel.exists()


@pytest.mark.parametrize("name", [name for name, (ending, _, _) in TEXTS.items() if ending == "yaml"])
def test_text_on_the_command_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, content, message = TEXTS[name]
    path, sentinel = tmp_path / "model.yaml", tmp_path / "executed"
    path.write_bytes(planted(content, sentinel))
    assert main(["units", str(path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert not sentinel.exists()


@pytest.mark.parametrize("group", ["unit", "tracer", "mutator"])
def test_a_group_on_the_command_line_imports_nothing(
    group: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A config's model is code of the user's, as an import path is; the other groups are data."""
    sentinel = tmp_path / "executed"
    config: dict[str, Any] = {
        "model": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2},
        group: {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": [str(sentinel)]}},
    }
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(config))
    assert main(["units", str(tmp_path / "model.yaml")]) == 2
    assert "_target_" in capsys.readouterr().err
    assert not sentinel.exists()


@pytest.mark.parametrize("kind", ["folder", "device"])
def test_what_is_no_regular_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=r"cannot read .*file\.yaml: it is no regular file"):
        read_file(path)


# --- structures -------------------------------------------------------------------------------------------------------


def expect(edit: Edit, action: Callable[[], Any]) -> None:
    with pytest.raises(edit.error) as caught:
        action()
    assert type(caught.value) is edit.error
    assert edit.message in str(caught.value)


@pytest.mark.parametrize("name", OF_STRUCTURES)
def test_structures(name: str, untouched: Net) -> None:
    data = edited(structure(), OF_STRUCTURES[name])
    before = json.dumps(data)
    expect(OF_STRUCTURES[name], lambda: ChannelMutator.from_structure(data).prepare_from_supernet(untouched))
    assert json.dumps(data) == before


@pytest.mark.parametrize("name", OF_STRUCTURES)
@pytest.mark.parametrize("ending", ["yaml", "json", "ckpt"])
def test_structures_in_files(name: str, ending: str, untouched: Net, tmp_path: Path) -> None:
    data = edited(structure(), OF_STRUCTURES[name])
    path = tmp_path / f"net.{ending}"
    if ending == "ckpt":
        torch.save({"callbacks": {"ChannelPruning": data}}, path)
    else:
        path.write_text(dumped(data, ending))
    with pytest.raises(ChannelsError):
        MutatorSource(path, None, None).build().prepare_from_supernet(untouched)


@pytest.mark.parametrize("name", OF_STRUCTURES)
def test_structures_in_checkpoints(name: str, prepared: tuple[ChannelMutator, Net]) -> None:
    mutator, _ = prepared
    before = mutator.current_choices
    data = edited(structure(), OF_STRUCTURES[name])
    try:
        mutator.load_structure(data)
    except ChannelsError:
        return
    # what is said of the model's tensors is compared where units are made from a structure; here they are there already
    assert OF_STRUCTURES[name].path[0] in ("fingerprint", "template")
    assert mutator.current_choices == structure()["choices"]
    mutator.set_choices(before)


# --- templates, choices, units ----------------------------------------------------------------------------------------


def template() -> dict[str, Any]:
    found: dict[str, Any] = structure()["template"]
    return found


@pytest.mark.parametrize("name", OF_TEMPLATES)
def test_templates(name: str, untouched: Net, tmp_path: Path) -> None:
    data = edited(template(), OF_TEMPLATES[name])
    expect(OF_TEMPLATES[name], lambda: build(data).prepare_from_supernet(untouched))
    (tmp_path / "net.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises((ChannelsError, MisconfigurationException)):
        ChannelPruning(mutator=tmp_path / "net.yaml")._source.build().prepare_from_supernet(untouched)


@pytest.mark.parametrize("name", OF_CHOICES)
@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_choices(name: str, ending: str, prepared: tuple[ChannelMutator, Net], tmp_path: Path) -> None:
    mutator, _ = prepared
    data, message = OF_CHOICES[name]
    path = tmp_path / f"choices.{ending}"
    path.write_text(dumped(data, ending))
    with pytest.raises(ConfigError) as caught:
        mutator.set_choices(read_choices(path))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", OF_UNITS)
def test_candidates_of_slimmable_units(name: str, untouched: Net, tmp_path: Path) -> None:
    data, message = OF_UNITS[name]
    (tmp_path / "units.json").write_text(json.dumps(data))
    default_args = {"candidate_choices": [0.5, 1.0], "choice_mode": "ratio"}
    with pytest.raises(ConfigError) as caught:
        SlimmableChannelMutator({"units": tmp_path / "units.json", "default_args": default_args}).prepare_from_supernet(
            untouched, inputs()
        )
    assert message in str(caught.value)


# --- pickles ----------------------------------------------------------------------------------------------------------


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def exploding(depth: int) -> list[Any]:
    found: list[Any] = ["x"]
    for _ in range(depth):
        found = [found] * 9
    return found


PICKLES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "code": (lambda sentinel: {"callbacks": {"ChannelPruning": Bomb(sentinel)}}, "can't be read as plain data"),
    "code elsewhere": (lambda sentinel: {"callbacks": {}, "hparams": Bomb(sentinel)}, "can't be read as plain data"),
    "a module": (lambda _: {"callbacks": {"ChannelPruning": nn.Linear(1, 1)}}, "can't be read as plain data"),
    "a tensor": (lambda _: {"callbacks": {"ChannelPruning": torch.zeros(2)}}, "holds a Tensor"),
    "no dict": (lambda _: [1], "can't be read as plain data"),
    "callbacks that are a list": (lambda _: {"callbacks": ["a"]}, "it holds no state of ChannelPruning, only of a"),
    "text": (lambda _: {"callbacks": {"ChannelPruning": "os.system"}}, "mutator must be a ChannelMutator, a template"),
    "a deep list": (lambda _: {"callbacks": {"ChannelPruning": nested(200)}}, "nested more than 32 levels deep"),
    "an exploding list": (
        lambda _: {"callbacks": {"ChannelPruning": exploding(20)}},
        "holds more than 1,000,000 values",
    ),
    "NaN": (lambda _: {"callbacks": {"ChannelPruning": {"version": float("nan")}}}, "numbers must be finite"),
}


@pytest.mark.parametrize("name", PICKLES)
def test_checkpoints_that_are_no_data(name: str, tmp_path: Path) -> None:
    make, message = PICKLES[name]
    sentinel = tmp_path / "executed"
    torch.save(make(sentinel), tmp_path / "net.ckpt")
    with pytest.raises(MisconfigurationException) as caught:
        ChannelPruning(mutator=tmp_path / "net.ckpt")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert not sentinel.exists()
