"""Unit types, criteria and dynamic ops of a user's own, as the examples and the README show them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_channels import UNITS, ChannelPruning, export_subnet
from lightning_channels._config import examples_dir
from tests.callbacks.nets import Classifier, Watch, loader, trainer
from tests.examples.app import TINY, run_example

POWERS = {2**k for k in range(10)}


@pytest.fixture
def my_unit() -> Iterator[type]:
    """The example's unit type, taken out of the registry again afterwards."""
    UNITS.names()
    known = dict(UNITS._classes)
    UNITS._classes.pop("MyUnit", None)
    from custom_unit import MyUnit

    UNITS._classes["MyUnit"] = MyUnit
    yield MyUnit
    UNITS._classes = known


def test_hydra_finds_the_unit_by_its_name_in_a_config_of_ones_own(tmp_path: Path) -> None:
    own = ["--config-dir", str(examples_dir() / "custom_conf"), "unit=my_unit"]
    done = run_example("custom_unit.py", *own, *TINY, "report.widths=[0.3,1.0]", "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    structure = yaml.safe_load((tmp_path / "out" / "slimmable.structure.yaml").read_text())
    config = structure["template"]["channel_unit_cfg"]
    assert (config["type"], config["default_args"]) == ("MyUnit", {"choice_mode": "ratio"})
    for name, choice in structure["choices"].items():
        assert choice * config["units"][name]["init_args"]["num_channels"] in POWERS
    small = yaml.safe_load((tmp_path / "out" / "results.json").read_text())["rows"][0]
    assert small["parameters"] < 77754 / 4  # 0.3 of 16, 32 and 64 channels are 4, 8 and 16


def test_the_callback_takes_the_unit_by_its_name(my_unit: type, tmp_path: Path) -> None:
    pruning = ChannelPruning(unit="MyUnit")
    watch = Watch(pruning)
    trainer(tmp_path, pruning, watch, max_epochs=2).fit(Classifier(), loader(), loader(shuffle=False))
    assert all(isinstance(unit, my_unit) for unit in pruning.mutator.units)
    drawn = [choice for choices in watch.train for choice in choices.values()]
    assert set(drawn) <= {*POWERS, 12}  # the second convolution has 12 channels
    assert len(set(drawn)) > 2


@pytest.mark.parametrize(("asked", "kept"), [(1, 1), (3, 4), (20, 16), (40, 32), (44, 32), (46, 48), (48, 48)])
def test_choices_are_rounded_to_what_the_unit_allows(my_unit: type, asked: int, kept: int) -> None:
    by_number, by_ratio = my_unit(48), my_unit(48, "ratio")
    by_number.current_choice = asked
    by_ratio.current_choice = asked / 48
    assert (by_number.current_choice, by_ratio.current_choice) == (kept, kept / 48)


def test_hydra_finds_the_criterion_by_its_name_in_a_config_of_ones_own(tmp_path: Path) -> None:
    own = ["--config-dir", str(examples_dir() / "custom_conf"), "criterion=spread"]
    ranked = ["unit=ranked", "unit.criterion=${criterion}", "callback.criterion=null"]
    ranked += ["report.widths=[0.5]", "hydra.run.dir=out"]
    done = run_example("custom_criterion.py", *own, *ranked, *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    structure = yaml.safe_load((tmp_path / "out" / "slimmable.structure.yaml").read_text())
    config = structure["template"]["channel_unit_cfg"]
    assert config["type"] == "RankedMutableChannelUnit"
    assert config["default_args"]["criterion"] == {"type": "spread", "reduction": "first"}


def test_the_layer_with_a_dynamic_op_of_its_own() -> None:
    done = run_example("custom_op.py", cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    assert "DynamicTransposedLinear(" in done.stdout
    assert "(out_features): MutableChannelContainer(num_channels=64, activated_channels=24)" in done.stdout
    assert done.stdout.endswith("exported: TransposedLinear with a weight of (24, 16)\n")


def test_the_callback_prunes_the_layer(tmp_path: Path) -> None:
    """As it is in a LightningModule: trained at random widths, checkpointed, rebuilt and exported."""
    from custom_op import DynamicTransposedLinear, TransposedLinear

    net = nn.Sequential(nn.Flatten(), TransposedLinear(108, 16), nn.ReLU(), TransposedLinear(16, 4))
    pruning = ChannelPruning()
    watch = Watch(pruning)
    saving = ModelCheckpoint(tmp_path, filename="last")
    module = Classifier(net)
    trainer(tmp_path, pruning, watch, saving, max_epochs=2).fit(module, loader(), loader(shuffle=False))
    name = "net.1_(0, 16)_16"
    assert len({choices[name] for choices in watch.train}) > 3
    assert type(net[1]) is DynamicTransposedLinear
    again = ChannelPruning(str(tmp_path / "last.structure.yaml"))
    other = Classifier(nn.Sequential(nn.Flatten(), TransposedLinear(108, 16), nn.ReLU(), TransposedLinear(16, 4)))
    trainer(tmp_path, again, max_epochs=1).fit(other, loader(), loader(shuffle=False))
    small = export_subnet(module.net, {name: 5})
    assert [type(layer) for layer in small] == [nn.Flatten, TransposedLinear, nn.ReLU, TransposedLinear]
    assert (small[1].weight.shape, small[3].weight.shape) == ((108, 5), (5, 4))
