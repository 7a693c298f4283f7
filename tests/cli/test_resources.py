"""``lightning-channels resources``: a table, JSON, and other widths than the full ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FULL = "stem.0_(0, 16)_16: 16 of 16"


def test_a_table_by_module_and_unit(cli) -> None:
    code, out, err = cli("resources", "model/digits_resnet")
    assert (code, err) == (0, "")
    total, modules, units = out.strip().split("\n\n")
    assert total.splitlines()[0].split() == ["MACs", "parameters", "bytes", "made"]
    assert modules.splitlines()[1].split() == ["stem.0", "9.22", "K", "1.2%", "144", "0.2%", "4.10", "K", "8.1%"]
    assert units.splitlines()[1].startswith(FULL)


def test_json_at_other_widths(cli, tmp_path: Path) -> None:
    _, full, _ = cli("resources", "model/digits_resnet", "--json")
    choices = tmp_path / "widths.json"
    choices.write_text(json.dumps({"stem.0_(0, 16)_16": 0.5}))
    path = tmp_path / "resources.json"
    code, out, err = cli("resources", "model/digits_resnet", "--json", "--choices", choices, "-o", path)
    assert (code, out, err) == (0, "", f"resources of 6 mutable units written to {path}\n")
    narrow, full = json.loads(path.read_text()), json.loads(full)
    assert list(narrow) == ["totals", "full", "modules", "units", "channels"]
    assert narrow["channels"]["stem.0_(0, 16)_16"] == [8, 16]
    assert narrow["full"] == full["full"] == full["totals"]
    assert narrow["modules"]["stem.0"]["macs"] * 2 == full["modules"]["stem.0"]["macs"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"stem": 0.5}', "unknown unit 'stem'. The model has 7 units"),
        ('{"stem.0_(0, 16)_16": "half"}', "the choice of 'stem.0_(0, 16)_16' must be a number of channels or a ratio"),
        ('{"stem.0_(0, 16)_16": 17.0}', "17.0"),
        ("{", "is not valid JSON"),
    ],
)
def test_choices_that_do_not_fit(cli, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "widths.json"
    path.write_text(text)
    code, out, err = cli("resources", "model/digits_resnet", "--choices", path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_help(cli) -> None:
    code, out, _ = cli("resources", "--help")
    assert code == 0
    assert "--choices FILE" in out
    assert "OVERRIDES are Hydra's" in out
