"""Mistakes are found before the first step, and the message says what to do."""

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_channels import ChannelPruning
from lightning_channels._plain import write_file
from lightning_channels.callbacks._target import check_can_prepare
from lightning_channels.errors import ChannelsError
from lightning_channels.mutators import ChannelMutator
from tests.callbacks.nets import UNITS, Classifier, loader, trainer


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "randon"}, r"unknown sampler 'randon'; did you mean 'random'\?.*fixed, max, min, random"),
        ({"sampler": 3}, r"a sampler must be a name.*got int"),
        ({"sampler": {"type": "random", "ratio": [1]}}, r"takes no argument 'ratio'; did you mean 'ratios'\?"),
        ({"sampler": {"type": "random", "ratios": []}}, r"ratios must be a list"),
        ({"sampler": {"type": "random", "ratios": [0.5, 2]}}, r"ratios must lie in \(0, 1\], got 2"),
        ({"sampler": {"type": "random", "shared": True}}, r"shared=True needs ratios"),
        ({"sampler": "fixed"}, r"'fixed' needs choices"),
        ({"sampler": "random", "choices": {"a": 1}}, r"choices belong to the sampler 'fixed', not to 'random'"),
        ({"sampler": lambda mutator, **_: {}, "choices": {"a": 1}}, r"choices belong to the sampler 'fixed'"),
        ({"choices": [1, 2]}, r"must be a dict of unit name → choice, got list"),
        ({"choices": {"a": "wide"}}, r"the choice of 'a' must be a number of channels or a ratio, got 'wide'"),
        ({"choices": "missing.yaml"}, r"missing\.yaml"),
        ({"every_n_steps": 0}, r"every_n_steps must be at least 1, got 0"),
        ({"every_n_steps": 1.5}, r"every_n_steps must be an integer, got 1\.5"),
        ({"seed": "0"}, r"seed must be an integer, got '0'"),
        ({"seed": None}, r"seed must be an integer"),
        ({"module": ""}, r"module must be the dotted name"),
        ({"module": nn.Identity()}, r"module must be the dotted name"),
        ({"eval_choices": "maximum"}, r"eval_choices must be one of max, min, current.*did you mean 'max'\?"),
        ({"eval_choices": {"a": None}}, r"must be a number of channels"),
        ({"verify": "yes"}, r"verify must be true or false"),
        ({"exact_resume": 1}, r"exact_resume must be true or false, got 1"),
        ({"unit": "SequentialMutableChanelUnit"}, r"did you mean 'SequentialMutableChannelUnit'\?"),
        ({"unit": {"choice_mode": "ratio"}}, r"needs a 'type'"),
        ({"unit": {"type": "SequentialMutableChannelUnit", "choise_mode": "ratio"}}, r"did you mean 'choice_mode'\?"),
        ({"unit": nn.Conv2d}, r"unit must be a unit type, got Conv2d\. Known: .*MutableChannelUnit"),
        ({"unit": 3}, r"unit must be a name"),
        ({"mutator": ChannelMutator(), "unit": "SequentialMutableChannelUnit"}, r"both given.*leave out one"),
        ({"mutator": 3}, r"mutator must be a ChannelMutator"),
        ({"mutator": ChannelMutator}, r"mutator must be a ChannelMutator"),
        ({"mutator": {"units": {}}}, r"neither a template.*nor a structure"),
        ({"mutator": {"type": "ChanelMutator"}}, r"did you mean 'ChannelMutator'\?"),
        ({"mutator": "nowhere.ckpt"}, r"there is no file nowhere\.ckpt"),
        (
            {"mutator": {"type": "ChannelMutator", "parse_cfg": {"type": "BackwardTracr"}}},
            r"did you mean 'BackwardTracer'\?",
        ),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(MisconfigurationException, match=message) as caught:
        ChannelPruning(**arguments)
    assert isinstance(caught.value.__cause__, ChannelsError)


def refused(tmp_path, pruning, message, module=None, data=None, **kwargs):
    module = module or Classifier()
    steps = []
    module.on_train_batch_start = lambda *args: steps.append(1)
    with pytest.raises(MisconfigurationException, match=message):
        trainer(tmp_path, pruning, **kwargs).fit(module, data or loader())
    assert not steps
    assert type(module.net[0] if isinstance(module.net, nn.Sequential) else module.net) in (
        nn.Conv2d,
        nn.Linear,
        nn.Identity,
    )


def test_unknown_submodule(tmp_path):
    refused(tmp_path, ChannelPruning(module="nets"), r"Classifier has no submodule 'nets'; did you mean 'net'\?")


def test_unknown_unit_in_choices(tmp_path):
    pruning = ChannelPruning(choices={"net.0_(0,8)_8": 4})
    with pytest.raises(
        MisconfigurationException, match=r"unknown unit 'net\.0_\(0,8\)_8'; did you mean 'net\.0_\(0, 8\)_8'\?"
    ):
        trainer(tmp_path, pruning).fit(module := Classifier(), loader())
    assert type(module.net[0]) is nn.Conv2d  # nothing is left half done


@pytest.mark.parametrize(("choice", "message"), [(9, UNITS[0][:5]), (0, UNITS[0][:5]), (2.5, UNITS[0][:5])])
def test_wrong_choice(tmp_path, choice, message):
    for arguments in ({"choices": {UNITS[0]: choice}}, {"eval_choices": {UNITS[0]: choice}}):
        with pytest.raises(MisconfigurationException, match=message):
            trainer(tmp_path, ChannelPruning(**arguments)).fit(Classifier(), loader())


def test_a_sampler_that_returns_nonsense(tmp_path):
    pruning = ChannelPruning(sampler=lambda mutator, *, seed, epoch, batch_idx: {"conv": 1})
    with pytest.raises(MisconfigurationException, match="unknown unit 'conv'"):
        trainer(tmp_path, pruning).fit(Classifier(), loader())
    late = ChannelPruning(sampler=lambda mutator, *, seed, epoch, batch_idx: {"conv": 1} if batch_idx > 2 else {})
    with pytest.raises(MisconfigurationException, match=r"the sampler's choices don't fit.*unknown unit 'conv'"):
        trainer(tmp_path, late).fit(Classifier(), loader())


def test_nothing_to_prune(tmp_path):
    module = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(108, 4)))
    with pytest.raises(MisconfigurationException, match=r"none of them is mutable.*nothing to prune"):
        trainer(tmp_path, ChannelPruning()).fit(module, loader())
    assert type(module.net[1]) is nn.Linear


def test_a_model_that_fails_on_its_example(tmp_path):
    refused(
        tmp_path, ChannelPruning(example_inputs=torch.randn(1, 5, 6, 6)), r"failed on its example input.*\[1, 5, 6, 6\]"
    )


def test_no_example_and_no_loader(tmp_path):
    class NoData(Classifier):
        def setup(self, stage):
            self.trainer.fit_loop._data_source.instance = self  # as if the loader's method were missing

    refused(tmp_path, ChannelPruning(), r"no example inputs, and no train_dataloader.*example_input_array", NoData())


def test_a_model_without_parameters(tmp_path):
    class Late(Classifier):
        def __init__(self):
            super().__init__(nn.Identity())

        def forward(self, x):
            return self.net(x)

    with pytest.raises(MisconfigurationException, match=r"no parameters.*build the net in one of these"):
        trainer(tmp_path, ChannelPruning()).fit(Late(), loader())


def test_a_sharded_model(tmp_path):
    class Sharded(nn.Parameter):
        pass

    Sharded.__name__ = "FlatParameter"
    module = Classifier()
    module.net[0].weight = Sharded(module.net[0].weight.data)
    refused(tmp_path, ChannelPruning(), r"'net\.0\.weight' is sharded already.*before fully_shard", module)


def test_a_model_on_the_meta_device():
    module = Classifier()
    module.net[3].to("meta")
    with pytest.raises(MisconfigurationException, match=r"'net\.3\.weight' is on the meta device"):
        check_can_prepare(module, module)


def test_fsdp():
    class Trainer:
        strategy = FSDPStrategy.__new__(FSDPStrategy)

    with pytest.raises(MisconfigurationException, match="FSDPStrategy flattens parameters"):
        ChannelPruning().setup(Trainer(), Classifier(), "fit")


def test_a_mutator_that_steers_another_model(tmp_path):
    mutator = ChannelMutator()
    trainer(tmp_path, ChannelPruning(mutator), max_steps=1).fit(Classifier(), loader())
    with pytest.raises(MisconfigurationException, match="prepared already"):
        trainer(tmp_path, ChannelPruning(mutator), max_steps=1).fit(Classifier(), loader())


def test_no_mutator_before_the_setup():
    with pytest.raises(MisconfigurationException, match="no mutator yet"):
        _ = ChannelPruning().mutator
    mutator = ChannelMutator()
    assert ChannelPruning(mutator).mutator is mutator


def test_modules_that_are_replaced_after_preparing(tmp_path):
    class Replaces(L.Callback):
        def setup(self, trainer, pl_module, stage):
            strategy_setup = trainer.strategy.setup

            def setup(trainer):
                pl_module.net[1] = nn.BatchNorm2d(8)
                strategy_setup(trainer)

            trainer.strategy.setup = setup

    with pytest.raises(MisconfigurationException, match=r"1 prepared modules were replaced.*'net\.1'"):
        trainer(tmp_path, ChannelPruning(), Replaces()).fit(Classifier(), loader())


def test_files_that_hold_something_else(tmp_path):
    with pytest.raises(MisconfigurationException, match="neither a template"):
        ChannelPruning(write_file(tmp_path / "wrong.yaml", {"trainer": {}}))
    torch.save({"state_dict": {}}, tmp_path / "plain.ckpt")
    with pytest.raises(
        MisconfigurationException, match=r"no state of ChannelPruning; and there is no plain\.structure\.yaml"
    ):
        ChannelPruning(tmp_path / "plain.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(MisconfigurationException, match="can't be read as plain data"):
        ChannelPruning(tmp_path / "text.ckpt")
