"""The module is prepared after its last builder, and nothing is left on it."""

from copy import deepcopy

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from torch import nn

from lightning_channels import ChannelPruning
from lightning_channels.dynamic_ops import is_dynamic
from tests.callbacks.nets import UNITS, Classifier, conv_net, loader, trainer


class InSetup(Classifier):
    def __init__(self):
        super().__init__(nn.Identity())
        self.built = 0

    def setup(self, stage):
        if self.built == 0:
            torch.manual_seed(3)
            self.net = conv_net()
        self.built += 1


class InConfigureModel(Classifier):
    def __init__(self):
        super().__init__(nn.Identity())
        self.built = 0

    def configure_model(self):
        self.built += 1
        if isinstance(self.net, nn.Identity):
            torch.manual_seed(3)
            self.net = conv_net()


class InBoth(InConfigureModel):
    def setup(self, stage):
        assert isinstance(self.net, nn.Identity) or is_dynamic(self.net[0])


@pytest.mark.parametrize("style", [Classifier, InSetup, InConfigureModel, InBoth])
def test_every_build_style_trains_and_tests(tmp_path, style):
    module, pruning = style(), ChannelPruning()
    before = set(module.__dict__)
    run = trainer(tmp_path, pruning)
    run.fit(module, loader(), loader(shuffle=False))
    assert list(pruning.mutator.current_choices) == UNITS
    assert is_dynamic(module.net[0])
    run.test(module, loader(shuffle=False), verbose=False)
    new = set(module.__dict__) - before
    assert not new & {"setup", "configure_model", "training_step", "on_load_checkpoint"}
    assert all(not callable(module.__dict__[name]) or name.startswith("_") for name in new)


@pytest.mark.parametrize("style", [Classifier, InSetup, InConfigureModel, InBoth])
def test_all_build_styles_train_the_same(tmp_path, style):
    class Seeded(Callback):
        def on_train_start(self, trainer, pl_module):
            torch.manual_seed(0)

    module, reference = style(), Classifier()
    for built in (module, reference):
        trainer(tmp_path, ChannelPruning(), Seeded()).fit(built, loader(shuffle=False))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), reference.parameters(), strict=True))


def test_a_net_that_setup_builds_anew_each_time_is_prepared_anew(tmp_path):
    class Rebuilds(InSetup):
        def setup(self, stage):
            self.net = conv_net()

    module, pruning = Rebuilds(), ChannelPruning()
    run = trainer(tmp_path, pruning)
    run.fit(module, loader())
    first = module.net
    run.test(module, loader(), verbose=False)
    assert module.net is not first
    assert is_dynamic(module.net[0])
    pruning.mutator.set_choices({UNITS[0]: 2})
    assert module.net[0](torch.randn(1, 3, 4, 4)).shape[1] == 2


def test_testing_alone_prepares_too(tmp_path):
    module, pruning = Classifier(), ChannelPruning()
    trainer(tmp_path, pruning).test(module, loader(), verbose=False)
    assert len(pruning.mutator.mutable_units) == 2


@pytest.mark.parametrize("where", ["setup", "configure_model", "train_dataloader", "training_step", "on_fit_start"])
def test_an_exception_leaves_no_method_replaced(tmp_path, where):
    def fail(self, *args, **kwargs):
        raise ZeroDivisionError

    module = type("Fails", (InSetup if where == "setup" else Classifier,), {where: fail})()
    before = {name for name, value in module.__dict__.items() if callable(value)}
    pruning = ChannelPruning()
    run = trainer(tmp_path, pruning)
    methods = {name for name in (*run.__dict__, *run.strategy.__dict__) if callable(getattr(run, name, None))}
    with pytest.raises(ZeroDivisionError):
        run.fit(module, None if where == "train_dataloader" else loader())
    assert {name for name, value in module.__dict__.items() if callable(value)} == before
    assert {name for name in (*run.__dict__, *run.strategy.__dict__) if callable(getattr(run, name, None))} == methods
    if where == "training_step":
        assert pruning.mutator.current_choices == pruning.mutator.sample_choices("max")


def test_a_failing_callback_between_setup_and_the_builder_leaves_nothing(tmp_path):
    class Fails(ChannelPruning):
        def setup(self, trainer, pl_module, stage):
            super().setup(trainer, pl_module, stage)
            raise ZeroDivisionError

    module = InConfigureModel()
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, Fails()).fit(module, loader())
    assert "configure_model" not in module.__dict__


def test_an_attribute_that_stood_in_for_the_builder_is_put_back(tmp_path):
    module, calls = Classifier(), []

    def setup(stage):
        calls.append(stage)

    module.setup = setup
    trainer(tmp_path, ChannelPruning(), max_steps=1).fit(module, loader())
    assert calls == ["fit"]
    assert module.__dict__["setup"] is setup


def test_the_default_device_of_configure_model_is_not_that_of_the_tracer(tmp_path, monkeypatch):
    class Empty(Classifier):
        def configure_model(self):
            assert torch.empty(0).is_meta

    pruning = ChannelPruning()
    run = trainer(tmp_path, pruning, max_steps=1)
    monkeypatch.setattr(run.strategy, "tensor_init_context", lambda: torch.device("meta"))
    run.fit(Empty(), loader())
    assert list(pruning.mutator.current_choices) == UNITS


@pytest.mark.filterwarnings("ignore")  # torch.compile warns about much in Lightning's own code
def test_a_compiled_module_trains_the_same(tmp_path):
    modules = []
    for compiled in (False, True):
        torch.manual_seed(0)
        module, pruning = Classifier(conv_net(dropout=0)), ChannelPruning(every_n_steps=3)
        given = torch.compile(module, backend="eager") if compiled else module
        trainer(tmp_path, pruning).fit(given, loader(shuffle=False))
        assert list(pruning.mutator.current_choices) == UNITS
        modules.append(module)
    for eager, compiled in zip(*(module.parameters() for module in modules), strict=True):
        torch.testing.assert_close(eager, compiled)


def test_a_copy_that_is_made_before_the_module_is_built_stays_plain(tmp_path):
    class Copies(Callback):
        def setup(self, trainer, pl_module, stage):
            self.copy = deepcopy(pl_module)

    copies, module = Copies(), InSetup()
    trainer(tmp_path, ChannelPruning(), copies, max_steps=1).fit(module, loader())
    assert (module.built, copies.copy.built) == (1, 0)
    copies.copy.setup("fit")
    assert (module.built, copies.copy.built) == (1, 1)
    assert type(copies.copy.net[0]) is nn.Conv2d


@pytest.mark.parametrize("first", [True, False])
def test_weight_averaging_beside_it(tmp_path, first):
    pruning, averaging = ChannelPruning(), EMAWeightAveraging(decay=0.5)
    module = Classifier()
    trainer(tmp_path, *((pruning, averaging) if first else (averaging, pruning))).fit(module, loader())
    assert is_dynamic(module.net[0])
    averaged = averaging._average_model.module.state_dict()
    assert all(torch.equal(averaged[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("style", [Classifier, InConfigureModel])
def test_the_builder_is_itself_again_when_it_has_run(tmp_path, style):
    class Look(Callback):
        def on_fit_start(self, trainer, pl_module):
            assert not {"setup", "configure_model"} & set(pl_module.__dict__)

    trainer(tmp_path, ChannelPruning(), Look(), max_steps=1).fit(style(), loader())
