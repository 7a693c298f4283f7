"""Subnets of channels that aren't the first ones: trained, evaluated, written down and taken up again."""

import copy

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_channels import ChannelPruning, export_subnet
from lightning_channels._plain import read_file, write_file
from lightning_channels.samplers import read_choices
from tests.callbacks.nets import UNITS, WIDTHS, Classifier, conv_net, loader, trainer
from tests.callbacks.test_widths import Ends, Net, measured

KEPT = {UNITS[0]: [1, 4, 6], UNITS[1]: [0, 3, 5, 7, 11]}


class Which(L.Callback):
    """Writes down what is kept at each batch."""

    def __init__(self, pruning):
        self.pruning = pruning
        self.trained, self.evaluated = [], []

    def on_train_batch_end(self, *args):
        self.trained.append(self.pruning.mutator.kept_channels())

    def on_validation_batch_start(self, *args):
        self.evaluated.append(self.pruning.mutator.kept_channels())


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A structure file that keeps these channels, beside its checkpoint."""
    folder = tmp_path_factory.mktemp("kept")
    pruning = ChannelPruning(sampler="max")
    run = trainer(folder, pruning, limit_train_batches=1)
    run.fit(Classifier(), loader())
    pruning.mutator.keep_channels(KEPT)
    run.save_checkpoint(folder / "net.ckpt")
    return folder / "net.structure.yaml"


@pytest.mark.parametrize("told", [{"choices": 0}, {"mutator": 0, "sampler": lambda mutator, **_: {}}])
def test_a_structure_file_s_channels_are_trained_and_evaluated(tmp_path, file, told):
    pruning = ChannelPruning(**{name: file if value == 0 else value for name, value in told.items()})
    if "mutator" in told:
        pruning.eval_choices = "current"
    which, module = Which(pruning), Classifier(conv_net(dropout=0.0))
    before = copy.deepcopy(module.net.state_dict())
    run = trainer(tmp_path, pruning, which, limit_train_batches=3)
    run.fit(module, loader(shuffle=False), loader(shuffle=False))
    assert which.trained == [KEPT] * 3
    assert which.evaluated == [KEPT] * 6
    moved = (module.net.state_dict()["0.bias"] != before["0.bias"]).nonzero().flatten().tolist()
    assert set(KEPT[UNITS[0]]) <= set(moved)
    if "choices" in told:  # the net is left at what it was trained at
        assert pruning.mutator.kept_channels() == KEPT
        exported = export_subnet(module)
        assert exported.net[0].weight.shape[0] == 3
        torch.testing.assert_close(exported.net[0].weight, module.net[0]._parameters["weight"][KEPT[UNITS[0]]])


def test_checkpoints_and_their_files_have_the_channels(tmp_path, file):
    state = torch.load(file.parent / "net.ckpt", weights_only=True)["callbacks"]["ChannelPruning"]
    assert state == read_file(file)
    assert state["kept"] == KEPT
    assert "order" not in state
    assert state["choices"] == {UNITS[0]: 3, UNITS[1]: 5}
    for source in (file, file.parent / "net.ckpt"):
        pruning = ChannelPruning(mutator=source)
        trainer(tmp_path, pruning).validate(Classifier(), loader(shuffle=False), verbose=False)
        assert pruning.mutator.kept_channels() == KEPT  # put back after the widest was validated


def test_each_width_keeps_its_own_channels(tmp_path, file):
    other = {UNITS[0]: [0, 7], UNITS[1]: [2, 4, 6]}
    structure = {**read_file(file), "kept": other, "choices": {name: len(kept) for name, kept in other.items()}}
    path = write_file(tmp_path / "other.json", structure)
    ends, module = Ends(), Net()
    pruning = ChannelPruning(sampler="sandwich", validate={"one": file, "two": path}, eval_choices=path)
    which = Which(pruning)
    trainer(tmp_path, pruning, which, ends).fit(module, loader(shuffle=False), loader(shuffle=False))
    metrics = ends.metrics[-1]
    for name, source in (("one", file), ("two", path)):
        loss, _ = measured(export_subnet(module.net, read_choices(source)))
        assert metrics[f"val_loss/{name}"] == pytest.approx(loss, rel=1e-5)
    assert metrics["val_loss"] == metrics["val_loss/two"]
    assert which.evaluated == [KEPT] * 6 + [other] * 6  # the second is the ordinary one, and needs no run of its own
    assert which.trained == [{}] * 6
    assert pruning.mutator.current_choices == WIDTHS


def test_current_channels_are_not_those_of_equal_widths(tmp_path, file):
    """The same numbers, but the first channels: another subnet."""
    plain = {**read_file(file)}
    del plain["kept"]
    path = write_file(tmp_path / "plain.yaml", plain)
    pruning = ChannelPruning(mutator=file, validate={"first": path}, eval_choices="current")
    which = Which(pruning)
    trainer(tmp_path, pruning, which).validate(Classifier(), loader(shuffle=False), verbose=False)
    assert which.evaluated == [{}] * 6 + [KEPT] * 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": {UNITS[0]: [1, 4]}}, "has the choice 3 .*keeps 2"),
        ({"kept": {UNITS[0]: [1, 4, 8]}}, "has no channel 8"),
        ({"kept": {"net.1": [1, 4, 6]}}, "'kept' of the structure names the unit 'net.1', which has no choice there"),
        ({"order": {UNITS[0]: [0]}}, r"the order of unit 'net.0_\(0, 8\)_8' must be a list of 8 integers"),
    ],
)
def test_channels_that_cant_be_kept_are_refused_before_the_run(tmp_path, file, change, message):
    path = write_file(tmp_path / "wrong.yaml", {**read_file(file), **change})
    module = Classifier()
    with pytest.raises(MisconfigurationException, match=message):
        trainer(tmp_path, ChannelPruning(mutator=path)).fit(module, loader())
    assert type(module.net[0]) is torch.nn.Conv2d
    if "kept" in change:
        with pytest.raises(MisconfigurationException, match=message):
            trainer(tmp_path, ChannelPruning(choices=path)).fit(module, loader())
        assert type(module.net[0]) is torch.nn.Conv2d
