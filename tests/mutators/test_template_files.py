"""Units and templates read from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from zoo import Toy, images

from lightning_channels import ChannelMutator, ConfigError

SETTINGS = {"net.conv0_(0, 8)_8": {"init_args": {"divisor": 4}, "choice": 3}, "net.conv1_(0, 16)_16": {"choice": 3}}


def prepared(config: Any) -> ChannelMutator:
    mutator = ChannelMutator(config)
    mutator.prepare_from_supernet(Toy(), images())
    return mutator


@pytest.mark.parametrize("ending", ["json", "yaml", "yml"])
@pytest.mark.parametrize("whole", [False, True])
def test_units_are_read_from_a_file(tmp_path: Path, ending: str, whole: bool) -> None:
    path = tmp_path / f"units.{ending}"
    dump = json.dumps if ending == "json" else yaml.safe_dump
    template = {"type": "ChannelMutator", "channel_unit_cfg": {"type": "sequential", "units": SETTINGS}}
    path.write_text(dump(template if whole else SETTINGS))
    for given in (str(path), path):
        mutator = prepared({"type": "SequentialMutableChannelUnit", "units": given})
        assert mutator.current_choices == {"net.conv0_(0, 8)_8": 4, "net.conv1_(0, 16)_16": 3}
        assert [unit.divisor for unit in mutator.mutable_units] == [4, 1]
        again = mutator.config_template()  # holds the units themselves, and needs the file no more
        assert again["channel_unit_cfg"]["units"]["net.conv0_(0, 8)_8"] == {"choice": 4}


def test_a_template_from_a_file_of_its_own(tmp_path: Path) -> None:
    """What the command line writes with -o is a file of units."""
    mutator = prepared("OneShotMutableChannelUnit")
    mutator.set_choices(mutator.sample_choices("min"))
    path = tmp_path / "template.json"
    path.write_text(json.dumps(mutator.config_template(with_unit_init_args=True)))
    again = prepared({"type": "OneShotMutableChannelUnit", "units": str(path)})
    assert again.current_choices == mutator.current_choices


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("units.json", None, r"cannot read .*units\.json: No such file"),
        ("units.txt", "{}", r"must be a \.yaml, \.yml or \.json file"),
        ("units.json", "{", "is not valid JSON"),
        ("units.yaml", "a: !!python/name:os.system", "is not valid YAML"),
        ("units.json", "[1]", "must hold a dict, unit name"),
        ("units.json", '{"net.conv0_(0, 8)_8": 3}', "must hold a dict, unit name"),
        ("units.yaml", "channel_unit_cfg: [3]", "must hold a dict, unit name"),
        ("units.json", '{"net.conv0_(0, 8)_8": {"choise": 3}}', "takes no key 'choise'; did you mean 'choice'"),
        ("units.json", '{"a": {"init_args": {"divisr": 3}}}', "no argument 'divisr'; did you mean 'divisor'"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        ChannelMutator({"units": str(tmp_path / name)})
