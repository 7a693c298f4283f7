"""Checkpoints: what is in them, what lies beside them, and going on from them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils._pytree import tree_flatten_with_path

import lightning_channels
from lightning_channels import ChannelPruning
from lightning_channels._plain import read_file, to_plain, write_file
from lightning_channels.callbacks._checkpoints import structure_path
from lightning_channels.mutators import ChannelMutator
from tests.callbacks import resume
from tests.callbacks.nets import UNITS, WIDTHS, Classifier, Watch, conv_net, loader, trainer

ROOT = Path(lightning_channels.__file__).parents[1]


def fit_and_save(tmp_path, module=None, pruning=None, **kwargs):
    pruning = pruning or ChannelPruning(choices={UNITS[0]: 3})
    run = trainer(tmp_path, pruning, **kwargs)
    run.fit(module or Classifier(), loader())
    path = tmp_path / "some.ckpt"
    run.save_checkpoint(path)
    return path


def assert_identical(one, other):
    ours, spec = tree_flatten_with_path(one)
    theirs, other_spec = tree_flatten_with_path(other)
    assert spec == other_spec
    for (key, a), (_, b) in zip(ours, theirs, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, key


def test_two_epochs_equal_one_then_another_in_a_new_process(tmp_path):
    straight = resume.run(tmp_path / "straight", 2)
    first = resume.run(tmp_path / "first", 1, save=tmp_path / "epoch.ckpt")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [
        sys.executable,
        "-m",
        "tests.callbacks.resume",
        str(tmp_path / "epoch.ckpt"),
        str(tmp_path / "second.pt"),
    ]
    subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True, timeout=120)
    second = torch.load(tmp_path / "second.pt", weights_only=True)
    assert_identical(straight["weights"], second["weights"])
    assert_identical(straight["optimizer"], second["optimizer"])
    assert straight["choices"] == first["choices"] + second["choices"]
    assert len(second["choices"]) == 6
    assert straight["active"] == second["active"]
    assert straight["scheduler"] == second["scheduler"]


def test_a_checkpoint_is_plain_data_with_the_structure_in_it(tmp_path):
    path = fit_and_save(tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    state = checkpoint["callbacks"]["ChannelPruning"]
    assert to_plain(state) == state
    assert set(state) == {"version", "template", "choices", "fingerprint"}
    assert state["choices"] == {UNITS[0]: 3, UNITS[1]: 12}
    assert state["template"]["channel_unit_cfg"]["units"][UNITS[0]]["channels"]["output_related"]
    assert set(checkpoint["state_dict"]) == set(Classifier().state_dict())


def test_the_plain_module_loads_the_weights(tmp_path):
    path = fit_and_save(tmp_path)
    plain = Classifier.load_from_checkpoint(path)
    assert type(plain.net[0]) is nn.Conv2d
    weights = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(weights[name], tensor) for name, tensor in plain.state_dict().items())
    trainer(tmp_path, max_epochs=2).fit(Classifier(), loader(), ckpt_path=path)


def test_a_plain_checkpoint_is_taken_up(tmp_path):
    run = trainer(tmp_path)
    run.fit(Classifier(), loader())
    run.save_checkpoint(tmp_path / "plain.ckpt")
    assert not list(tmp_path.glob("*.structure.yaml"))
    pruning = ChannelPruning()
    trainer(tmp_path, pruning, max_epochs=2).fit(Classifier(), loader(), ckpt_path=tmp_path / "plain.ckpt")
    assert len(pruning.mutator.mutable_units) == 2


class Untraceable(Classifier):
    """Its forward fails until training begins: nothing can have traced it."""

    def forward(self, x):
        if not self.trainer.fit_loop._combined_loader:
            raise AssertionError("traced")
        return self.net(x)


def test_the_untraceable_module_is_refused_where_it_is_traced(tmp_path):
    with pytest.raises(MisconfigurationException, match="traced"):
        trainer(tmp_path, ChannelPruning(), max_steps=1).fit(Untraceable(), loader())


@pytest.mark.parametrize("source", ["checkpoint", "file", "dict", "json"])
def test_a_structure_rebuilds_the_mutator_without_tracing(tmp_path, source):
    path = fit_and_save(tmp_path)
    file = tmp_path / "some.structure.yaml"
    source = {
        "checkpoint": path,
        "file": str(file),
        "dict": read_file(file),
        "json": write_file(tmp_path / "copy.json", read_file(file)),
    }[source]
    pruning = ChannelPruning(mutator=source, sampler=lambda mutator, **_: {})
    watch, module = Watch(pruning), Untraceable()
    run = trainer(tmp_path, pruning, watch)
    run.fit(module, loader())
    assert watch.train[0] == {UNITS[0]: 3, UNITS[1]: 12}
    assert 0 < float(run.callback_metrics["channels/flops"]) < 1


def test_a_structure_file_steers_a_model_without_lightning(tmp_path):
    fit_and_save(tmp_path)
    module = Untraceable()
    mutator = ChannelMutator.from_structure(read_file(tmp_path / "some.structure.yaml"))
    mutator.prepare_from_supernet(module)
    assert mutator.current_choices == {UNITS[0]: 3, UNITS[1]: 12}
    assert module.net[0](torch.randn(1, 3, 4, 4)).shape[1] == 3


def test_each_checkpoint_has_its_file_and_loses_it(tmp_path):
    checkpoints = ModelCheckpoint(
        tmp_path / "c", monitor="loss", save_top_k=1, mode="max", every_n_train_steps=1, save_last=True
    )
    run = trainer(tmp_path, ChannelPruning(), checkpoints, max_epochs=3)
    run.fit(Classifier(), loader())
    names = {path.name for path in (tmp_path / "c").glob("*.ckpt")}
    assert 1 < len(names) <= 3
    assert {path.name for path in (tmp_path / "c").glob("*.yaml")} == {
        Path(structure_path(name)).name for name in names
    }


def test_weights_only_checkpoints_have_the_file(tmp_path):
    checkpoints = ModelCheckpoint(tmp_path, filename="light", save_weights_only=True)
    trainer(tmp_path, ChannelPruning(), checkpoints).fit(Classifier(), loader())
    assert "callbacks" not in torch.load(tmp_path / "light.ckpt", weights_only=True)
    pruning = ChannelPruning(mutator=tmp_path / "light.ckpt")
    trainer(tmp_path, pruning, max_steps=1).fit(Untraceable(), loader())
    assert list(pruning.mutator.current_choices) == UNITS


def test_the_file_can_be_left_out(tmp_path):
    path = fit_and_save(tmp_path, pruning=ChannelPruning(save_structure=False))
    assert "ChannelPruning" in torch.load(path, weights_only=True)["callbacks"]
    assert not list(tmp_path.rglob("*.structure.yaml"))


def test_remote_checkpoints_have_the_file(tmp_path):
    import fsspec

    run = trainer(tmp_path, ChannelPruning())
    run.fit(Classifier(), loader())
    run.save_checkpoint("memory://runs/last.ckpt")
    fs = fsspec.filesystem("memory")
    assert UNITS[0].encode() in fs.cat("/runs/last.structure.yaml")
    run.strategy.remove_checkpoint("memory://runs/last.ckpt")
    assert not fs.exists("/runs/last.structure.yaml")


def test_resuming_sets_the_choices(tmp_path):
    path = fit_and_save(tmp_path)
    pruning = ChannelPruning(eval_choices="current")
    watch = Watch(pruning)
    trainer(tmp_path, pruning, watch).test(Classifier(), loader(), ckpt_path=path, verbose=False)
    assert watch.evaluated[0][1] == {UNITS[0]: 3, UNITS[1]: 12} != WIDTHS


@pytest.mark.parametrize("how", ["resume", "structure"])
def test_other_units_are_refused_by_name(tmp_path, how):
    path = fit_and_save(tmp_path)
    wider = Classifier(conv_net(width=10))
    pruning = ChannelPruning(mutator=path) if how == "structure" else ChannelPruning()
    with pytest.raises(MisconfigurationException, match=r"net\.0_\(0, 8\)_8|net\.0_\(0, 10\)_10") as caught:
        trainer(tmp_path, pruning, max_epochs=2).fit(wider, loader(), ckpt_path=path if how == "resume" else None)
    assert UNITS[1] not in str(caught.value)


def test_another_head_is_no_difference(tmp_path):
    path = fit_and_save(tmp_path)
    pruning = ChannelPruning(mutator=path)
    trainer(tmp_path, pruning, max_steps=1).fit(Classifier(conv_net(classes=7)), loader())
    assert list(pruning.mutator.current_choices) == UNITS

    class NewHead(Classifier):
        def __init__(self):
            super().__init__(conv_net(classes=7))
            self.strict_loading = False

        def on_load_checkpoint(self, checkpoint):
            for name in ("net.9.weight", "net.9.bias"):
                del checkpoint["state_dict"][name]

    pruning = ChannelPruning(eval_choices="current")
    watch = Watch(pruning)
    trainer(tmp_path, pruning, watch).test(NewHead(), loader(), ckpt_path=path, verbose=False)
    assert watch.evaluated[0][1] == {UNITS[0]: 3, UNITS[1]: 12}


def test_a_broken_structure_is_refused(tmp_path):
    path = fit_and_save(tmp_path)
    structure = read_file(tmp_path / "some.structure.yaml")
    with pytest.raises(MisconfigurationException, match="version"):
        ChannelPruning(mutator={**structure, "version": 99})
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"]["ChannelPruning"]["choices"] = {**WIDTHS, UNITS[0]: 99}
    torch.save(checkpoint, path)
    with pytest.raises(MisconfigurationException, match=r"checkpoint doesn't fit the model.*net\.0_\(0, 8\)_8"):
        trainer(tmp_path, ChannelPruning(), max_epochs=2).fit(Classifier(), loader(), ckpt_path=path)
