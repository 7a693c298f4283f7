"""What the callback does to a run: widths before each batch, widths for evaluation, logs, and what it leaves behind."""

import csv
import pickle
import random

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from torch import nn

from lightning_channels import ChannelPruning
from lightning_channels._plain import write_file
from lightning_channels.mutators import ChannelMutator
from lightning_channels.samplers import generator_for
from tests.callbacks.nets import UNITS, WIDTHS, Classifier, Watch, conv_net, loader, trainer


def assert_same_state(one: dict, other: dict) -> None:
    assert list(one) == list(other)
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_at_full_width_a_run_is_bit_identical_to_one_without_the_callback(tmp_path):
    results = []
    for callbacks in ([], [ChannelPruning(sampler="max")]):
        L.seed_everything(1, verbose=False)
        module = Classifier()
        run = trainer(tmp_path, *callbacks, max_epochs=2)
        run.fit(module, loader(), loader(shuffle=False))
        metrics = {
            name: float(value) for name, value in run.callback_metrics.items() if not name.startswith("channels/")
        }
        drawn = (torch.rand(3), random.random())
        results.append((module.state_dict(), run.optimizers[0].state_dict()["state"], metrics, drawn))
    (plain, plain_optimizer, plain_metrics, (torch_next, python_next)), (ours, our_optimizer, our_metrics, drawn) = (
        results
    )
    assert_same_state(plain, ours)
    for key, state in plain_optimizer.items():
        assert torch.equal(state["momentum_buffer"], our_optimizer[key]["momentum_buffer"])
    assert plain_metrics == our_metrics
    assert torch.equal(torch_next, drawn[0])
    assert python_next == drawn[1]


def test_preparing_draws_no_random_number_and_changes_no_statistic(tmp_path):
    class Snoop(Callback):
        def on_fit_start(self, trainer, pl_module):
            self.state = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}
            self.drawn = torch.rand(4)

    states = []
    for callbacks in ([], [ChannelPruning()]):
        module, snoop = Classifier(), Snoop()
        L.seed_everything(5, verbose=False)
        trainer(tmp_path, *callbacks, snoop, max_steps=1).fit(module, loader())
        states.append(snoop)
    assert_same_state(states[0].state, states[1].state)
    assert torch.equal(states[0].drawn, states[1].drawn)


def test_a_forward_that_draws_from_pythons_generator_is_traced_without_a_trace(tmp_path):
    class Draws(Classifier):
        def forward(self, x):
            return super().forward(x) + 0 * random.random()

    class Snoop(Callback):
        def on_fit_start(self, trainer, pl_module):
            self.drawn = random.random()

    drawn = []
    for callbacks in ([], [ChannelPruning()]):
        module, snoop = Draws(), Snoop()
        random.seed(5)
        trainer(tmp_path, *callbacks, snoop, max_steps=1).fit(module, loader())
        drawn.append(snoop.drawn)
    assert drawn[0] == drawn[1]


def test_each_batch_gets_the_choices_of_its_epoch_and_index(tmp_path):
    pruning = ChannelPruning(seed=11)
    watch = Watch(pruning)
    trainer(tmp_path, pruning, watch, max_epochs=2).fit(Classifier(), loader())
    expected = [
        pruning.mutator.sample_choices("random", rng=generator_for(11, epoch, index))
        for epoch in range(2)
        for index in range(6)
    ]
    assert watch.train == expected
    assert len({tuple(choices.values()) for choices in watch.train}) > 6
    assert list(watch.train[0]) == UNITS


def test_every_n_steps_keeps_a_choice_for_n_batches_of_an_epoch(tmp_path):
    pruning = ChannelPruning(every_n_steps=4)
    watch = Watch(pruning)
    trainer(tmp_path, pruning, watch, max_epochs=2).fit(Classifier(), loader())
    first, second = watch.train[:6], watch.train[6:]
    assert first[0] == first[1] == first[2] == first[3] != first[4] == first[5]
    assert second[0] == second[3] != second[4] == second[5]
    assert first[0] != second[0]


def test_the_gradient_of_a_step_reaches_active_channels_only(tmp_path):
    class Gradients(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.weight = pl_module.net[0]._parameters["weight"].grad.clone()

    pruning, gradients = ChannelPruning(choices={UNITS[0]: 3}), Gradients()
    trainer(tmp_path, pruning, gradients, max_steps=1).fit(Classifier(), loader())
    assert gradients.weight[:3].abs().sum() > 0
    assert not gradients.weight[3:].any()


@pytest.mark.parametrize("ending", ["yaml", "json", None])
def test_fixed_choices_come_from_a_dict_or_a_file(tmp_path, ending):
    choices = {UNITS[1]: 5}
    source = choices if ending is None else write_file(tmp_path / f"choices.{ending}", choices)
    pruning = ChannelPruning(choices=source)
    watch = Watch(pruning)
    trainer(tmp_path, pruning, watch).fit(Classifier(), loader(), loader(shuffle=False))
    subnet = {UNITS[0]: 8, UNITS[1]: 5}
    assert watch.train == [subnet] * 6
    assert {name for name, _ in watch.evaluated} == {"validate"}
    assert all(choices == subnet for _, choices in watch.evaluated)
    assert pruning.mutator.current_choices == subnet


def test_evaluation_runs_at_the_widest_and_puts_the_choices_back(tmp_path):
    class Around(Callback):
        before = after = None

        def on_train_batch_end(self, trainer, *args):
            self.before = dict(pruning.mutator.current_choices)

        def on_train_epoch_end(self, trainer, *args):
            self.after = dict(pruning.mutator.current_choices)

    pruning, around = ChannelPruning(seed=2), Around()
    watch, module = Watch(pruning), Classifier()
    run = trainer(tmp_path, pruning, watch, around, num_sanity_val_steps=1)
    run.fit(module, loader(), loader(shuffle=False))
    run.test(module, loader(shuffle=False), verbose=False)
    run.predict(module, loader(shuffle=False))
    assert {name for name, _ in watch.evaluated} == {"sanity", "validate", "test", "predict"}
    assert all(choices == WIDTHS for _, choices in watch.evaluated)
    assert around.before == around.after != WIDTHS
    assert pruning.mutator.current_choices == WIDTHS


@pytest.mark.parametrize(
    ("told", "expected"),
    [("min", {UNITS[0]: 1, UNITS[1]: 1}), ({UNITS[0]: 2}, {UNITS[0]: 2, UNITS[1]: 12}), ("current", None)],
)
def test_evaluation_at_other_choices(tmp_path, told, expected):
    pruning = ChannelPruning(eval_choices=told)
    watch = Watch(pruning)
    trainer(tmp_path, pruning, watch).fit(Classifier(), loader(), loader(shuffle=False))
    assert watch.evaluated[0][1] == (expected or watch.train[-1])


def test_evaluation_puts_arbitrary_channels_back(tmp_path):
    module, pruning = Classifier(), ChannelPruning()
    run = trainer(tmp_path, pruning)
    run.fit(module, loader())
    pruning.mutator.name2unit[UNITS[0]].keep([1, 6])
    run.test(module, loader(shuffle=False), verbose=False)
    assert pruning.mutator.name2unit[UNITS[0]].mutable_channel.kept.tolist() == [1, 6]


def test_after_an_exception_in_validation_the_module_stands_at_the_widest(tmp_path):
    class Breaks(Classifier):
        def validation_step(self, batch, batch_idx):
            raise ZeroDivisionError

    pruning = ChannelPruning(eval_choices="min")
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, pruning).fit(Breaks(), loader(), loader(shuffle=False))
    assert pruning.mutator.current_choices == WIDTHS
    assert pruning._held is None


def read_metrics(path):
    with open(path / "metrics.csv") as file:
        return [row for row in csv.DictReader(file) if row.get("channels/flops")]


def test_active_shares_are_logged_at_each_step(tmp_path):
    pruning = ChannelPruning(choices={UNITS[0]: 4, UNITS[1]: 6}, prog_bar=True)
    run = trainer(tmp_path, pruning, logger=CSVLogger(tmp_path, name="", version=""))
    run.fit(Classifier(), loader())
    rows = read_metrics(tmp_path)
    # by hand: 6x6 pictures, 3x3 kernels, 3 -> 8 -> 12 channels, 4 classes; a norm has two parameters a channel
    macs = [36 * 9 * (3 * a + a * b) + 4 * b for a, b in ((8, 12), (4, 6))]
    params = [a * 27 + a + 2 * a + 9 * a * b + b + 2 * b + 4 * b + 4 for a, b in ((8, 12), (4, 6))]
    assert len(rows) == 6
    assert {round(float(row["channels/params"]), 5) for row in rows} == {round(params[1] / params[0], 5)}
    assert {round(float(row["channels/flops"]), 2) for row in rows} == {round(macs[1] / macs[0], 2)}
    assert {"channels/flops", "channels/params"} <= set(run.progress_bar_metrics)


def test_shares_follow_the_choices_and_can_be_left_out(tmp_path):
    run = trainer(tmp_path, ChannelPruning(), logger=CSVLogger(tmp_path / "with", name="", version=""))
    run.fit(Classifier(), loader())
    assert len({row["channels/params"] for row in read_metrics(tmp_path / "with")}) > 3
    assert "channels/flops" not in run.progress_bar_metrics
    run = trainer(tmp_path, ChannelPruning(log_resources=False))
    run.fit(Classifier(), loader())
    assert not any(name.startswith("channels/") for name in run.callback_metrics)


def test_setup_says_what_was_found(tmp_path, caplog):
    with caplog.at_level("INFO"):
        trainer(tmp_path, ChannelPruning(), max_steps=1).fit(Classifier(), loader())
    line = next(record.getMessage() for record in caplog.records if "ChannelPruning" in record.getMessage())
    assert "4 units, 2 of them mutable" in line
    assert "% of 1,192 parameters" in line


def test_restore_gives_the_plain_classes_back(tmp_path):
    module = Classifier()
    pruning = ChannelPruning()
    trainer(tmp_path, pruning).fit(module, loader())
    assert type(module.net[0]) is not nn.Conv2d
    parameters = dict(module.named_parameters())
    assert ChannelPruning.restore(module) is module
    assert [type(layer) for layer in module.net] == [type(layer) for layer in conv_net()]
    assert all(parameters[name] is parameter for name, parameter in module.named_parameters())
    assert ChannelPruning.restore(module) is module


def test_several_runs_of_the_same_module_prepare_it_once(tmp_path):
    module, pruning = Classifier(), ChannelPruning()
    run = trainer(tmp_path, pruning)
    run.fit(module, loader())
    mutator, conv = pruning.mutator, module.net[0]
    trainer(tmp_path, pruning).fit(module, loader())
    again = ChannelPruning(sampler="min")
    watch = Watch(again)
    trainer(tmp_path, again, watch).fit(module, loader())
    assert pruning.mutator is again.mutator is mutator
    assert module.net[0] is conv
    assert watch.train[0] == {UNITS[0]: 1, UNITS[1]: 1}


def test_one_callback_prepares_several_models(tmp_path):
    pruning = ChannelPruning(unit={"type": "SequentialMutableChannelUnit", "choice_mode": "ratio"})
    mutators = []
    for _ in range(2):
        trainer(tmp_path, pruning, max_steps=1).fit(Classifier(), loader())
        mutators.append(pruning.mutator)
    assert mutators[0] is not mutators[1]
    assert set(mutators[1].current_choices.values()) == {1.0}


def test_a_module_that_was_prepared_by_hand_is_adopted(tmp_path):
    module = Classifier()
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(module, torch.randn(1, 3, 6, 6))
    pruning = ChannelPruning()
    trainer(tmp_path, pruning, max_steps=1).fit(module, loader())
    assert pruning.mutator is mutator
    by_part = Classifier()
    part = ChannelMutator()
    part.prepare_from_supernet(by_part.net, torch.randn(1, 3, 6, 6))
    pruning = ChannelPruning()
    trainer(tmp_path, pruning, max_steps=1).fit(by_part, loader())
    assert pruning.mutator is part


def test_another_unit_than_the_one_it_was_prepared_with_is_refused(tmp_path):
    module = Classifier()
    trainer(tmp_path, ChannelPruning(), max_steps=1).fit(module, loader())
    other = ChannelPruning(unit={"type": "OneShotMutableChannelUnit", "candidate_choices": [0.5, 1.0]})
    with pytest.raises(MisconfigurationException, match=r"prepared already, with other units.*restore\(model\)"):
        trainer(tmp_path, other, max_steps=1).fit(module, loader())
    ChannelPruning.restore(module)
    trainer(tmp_path, other, max_steps=1).fit(module, loader())
    assert other.mutator.name2unit[UNITS[0]].candidate_choices == [0.5, 1.0]


@pytest.mark.parametrize(
    "unit", ["one_shot", "OneShotMutableChannelUnit", "class", "dict", "full dict", "mutator", "template"]
)
def test_ways_to_say_which_units(tmp_path, unit):
    from lightning_channels.units import OneShotMutableChannelUnit

    kind = "OneShotMutableChannelUnit"
    full = {"type": kind, "default_args": {"candidate_choices": [0.5, 1.0]}, "units": {}}
    arguments = {
        "class": {"unit": OneShotMutableChannelUnit},
        "dict": {"unit": {"type": kind, "candidate_choices": [0.5, 1.0]}},
        "full dict": {"unit": full},
        "mutator": {"mutator": ChannelMutator(channel_unit_cfg=full)},
        "template": {
            "mutator": {"type": "ChannelMutator", "channel_unit_cfg": full, "parse_cfg": {"type": "ForwardTracer"}}
        },
    }.get(unit, {"unit": unit})
    pruning = ChannelPruning(**arguments)
    trainer(tmp_path, pruning, max_steps=1).fit(Classifier(), loader())
    assert all(isinstance(found, OneShotMutableChannelUnit) for found in pruning.mutator.mutable_units)
    assert full == {"type": kind, "default_args": {"candidate_choices": [0.5, 1.0]}, "units": {}}


def test_a_function_and_an_object_can_sample(tmp_path):
    def alternate(mutator, *, seed, epoch, batch_idx):
        return mutator.sample_choices("min" if batch_idx % 2 else "max")

    class Alternate:
        def choices(self, mutator, *, seed, epoch, batch_idx):
            return alternate(mutator, seed=seed, epoch=epoch, batch_idx=batch_idx)

    seen = []
    for sampler in (alternate, Alternate(), Alternate):
        pruning = ChannelPruning(sampler=sampler)
        watch = Watch(pruning)
        trainer(tmp_path, pruning, watch).fit(Classifier(), loader())
        seen.append([sum(choices.values()) for choices in watch.train])
    assert seen == [[20, 2, 20, 2, 20, 2]] * 3


def test_a_dotted_submodule_is_found(tmp_path):
    class Deep(Classifier):
        def __init__(self):
            super().__init__()
            self.net = nn.ModuleDict({"body": conv_net()})

        def forward(self, x):
            return self.net["body"](x)

    pruning = ChannelPruning(module="net.body")
    trainer(tmp_path, pruning, max_steps=1).fit(Deep(), loader())
    assert len(pruning.mutator.mutable_units) == 2


def test_manual_optimization_and_accumulation(tmp_path):
    class Manual(Classifier):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    for module, arguments in ((Manual(), {}), (Classifier(), {"accumulate_grad_batches": 3})):
        pruning = ChannelPruning(every_n_steps=3)
        watch = Watch(pruning)
        trainer(tmp_path, pruning, watch, **arguments).fit(module, loader())
        assert watch.train[0] == watch.train[2] != watch.train[3] == watch.train[5]


def test_the_callback_pickles_before_and_after_a_run(tmp_path):
    fresh = pickle.loads(pickle.dumps(ChannelPruning(seed=4)))
    assert (fresh.state_key, fresh.seed) == ("ChannelPruning", 4)
    trainer(tmp_path, fresh, max_steps=1).fit(Classifier(), loader())
    fresh.mutator.set_choices({UNITS[0]: 2})
    again = pickle.loads(pickle.dumps(fresh))
    assert again.mutator.current_choices == fresh.mutator.current_choices == {**WIDTHS, UNITS[0]: 2}


def test_ratios_with_units_that_choose_among_candidates(tmp_path):
    unit = {"type": "OneShotMutableChannelUnit", "candidate_choices": [0.25, 0.5, 1.0]}
    pruning = ChannelPruning(unit=unit, sampler={"type": "random", "ratios": [0.25, 1.0], "shared": True})
    watch = Watch(pruning)
    trainer(tmp_path, pruning, watch, max_epochs=2).fit(Classifier(), loader())
    assert {tuple(choices.values()) for choices in watch.train} == {(0.25, 0.25), (1.0, 1.0)}


def test_omegaconf_containers_are_taken_as_plain_data(tmp_path):
    config = OmegaConf.create(
        {
            "unit": {"type": "SequentialMutableChannelUnit", "choice_mode": "ratio"},
            "sampler": {"type": "random", "ratios": [0.5, 1.0]},
            "eval_choices": {UNITS[0]: 0.5},
        }
    )
    pruning = ChannelPruning(unit=config.unit, sampler=config.sampler, eval_choices=config.eval_choices)
    run = trainer(tmp_path, pruning)
    run.fit(Classifier(), loader())
    run.save_checkpoint(tmp_path / "omega.ckpt")
    assert "ChannelPruning" in torch.load(tmp_path / "omega.ckpt", weights_only=True)["callbacks"]
