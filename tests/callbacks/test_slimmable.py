"""Several slimmable subnets in one run: each step trains one of them, with batch-norm statistics of its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_channels import ChannelMutator, ChannelPruning, SlimmableChannelMutator
from lightning_channels._plain import read_file
from lightning_channels.callbacks._sync_norm import KeepDynamic
from lightning_channels.dynamic_ops import SwitchableSyncBatchNorm
from lightning_channels.samplers import generator_for
from tests.callbacks import slimmable_ddp
from tests.callbacks.nets import Classifier, Watch, conv_net, loader, trainer
from tests.callbacks.ranks import found_by_ranks, run_ranks

FIRST, SECOND = "0_(0, 8)_8", "3_(0, 12)_12"
WIDTHS = [(3, 5), (3, 8), (8, 12)]  # the first unit has two candidates of one width
UNITS = {
    FIRST: {"init_args": {"candidate_choices": [3, 3, 8]}},
    SECOND: {"init_args": {"candidate_choices": [5, 8, 12]}},
}
TEMPLATE = {"type": "SlimmableChannelMutator", "channel_unit_cfg": {"type": "SlimmableChannelUnit", "units": UNITS}}


class Net(Classifier):
    def __init__(self) -> None:
        torch.manual_seed(3)
        super().__init__(conv_net(dropout=0.0))


def fit(path: Path, epochs: int = 2, **kwargs: Any) -> tuple[Net, ChannelPruning, Watch, Any]:
    module, pruning = Net(), ChannelPruning(mutator=TEMPLATE, module="net", seed=4)
    watch = Watch(pruning)
    run = trainer(path, pruning, watch, max_epochs=epochs)
    run.fit(module, loader(shuffle=False), loader(shuffle=False), **kwargs)
    return module, pruning, watch, run


class ByHand:
    """The same training with slices and tensors for each subnet, written out."""

    def __init__(self) -> None:
        net = Net().net
        self.shared = [net[0].weight, net[0].bias, net[3].weight, net[3].bias, net[9].weight, net[9].bias]
        self.norms = [(copy.deepcopy(net[1]), copy.deepcopy(net[4])) for _ in WIDTHS]
        own = [parameter for pair in self.norms for norm in pair for parameter in norm.parameters()]
        for parameter in [*self.shared, *own]:
            parameter.grad = torch.zeros_like(parameter)  # decay reaches what a step leaves out, as under DDP
        self.optimizer = torch.optim.SGD([*self.shared, *own], lr=0.05, momentum=0.9, weight_decay=1e-3)

    def forward(self, x: Tensor, subnet: int, training: bool) -> Tensor:
        a, b = WIDTHS[subnet]
        w0, b0, w1, b1, w2, b2 = self.shared
        x = self.norm(F.conv2d(x, w0[:a], b0[:a], padding=1), self.norms[subnet][0], a, training)
        x = self.norm(F.conv2d(x, w1[:b, :a], b1[:b], padding=1), self.norms[subnet][1], b, training)
        return F.linear(x.mean((2, 3)), w2[:, :b], b2)

    def norm(self, x: Tensor, norm: nn.Module, n: int, training: bool) -> Tensor:
        mean, var = norm.running_mean[:n], norm.running_var[:n]
        return F.relu(F.batch_norm(x, mean, var, norm.weight[:n], norm.bias[:n], training, 0.1))

    def step(self, batch: list[Tensor], subnet: int) -> None:
        self.optimizer.zero_grad(set_to_none=False)
        F.cross_entropy(self.forward(batch[0], subnet, True), batch[1]).backward()
        self.optimizer.step()


def test_a_run_is_that_of_a_loop_written_by_hand(tmp_path) -> None:
    module, pruning, watch, _ = fit(tmp_path)
    mutator = pruning.mutator
    assert isinstance(mutator, SlimmableChannelMutator)
    subnets = [dict(zip((FIRST, SECOND), widths, strict=True)) for widths in WIDTHS]
    assert mutator.subnets == subnets
    steps = len(loader())
    drawn = [mutator.sample_choices(rng=generator_for(4, e, s)) for e in range(2) for s in range(steps)]
    assert watch.train == drawn
    numbers = [subnets.index(choices) for choices in drawn]
    assert set(numbers) == {0, 1, 2}
    assert all(choices == subnets[2] for _, choices in watch.evaluated)
    assert mutator.current_subnet == 2

    twin = ByHand()
    for number, batch in zip(numbers, [*loader(shuffle=False), *loader(shuffle=False)], strict=True):
        twin.step(batch, number)
    state = module.net.state_dict()
    for name, tensor in zip(
        ("0.weight", "0.bias", "3.weight", "3.bias", "9.weight", "9.bias"), twin.shared, strict=True
    ):
        torch.testing.assert_close(state[name], tensor, rtol=1e-5, atol=1e-6)
    for number, pair in enumerate(twin.norms):
        for place, norm in zip((1, 4), pair, strict=True):
            prefix = f"{place}." if number == 2 else f"{place}.candidates.{number}."
            for key in ("weight", "bias", "running_mean", "running_var"):
                torch.testing.assert_close(state[prefix + key], getattr(norm, key), rtol=1e-5, atol=1e-6)
            assert int(state[f"{prefix}num_batches_tracked"]) == numbers.count(number)

    x = next(iter(loader(shuffle=False)))[0]
    for number, subnet in enumerate(subnets):
        small = mutator.export(choices=subnet).eval()
        assert list(small.state_dict()) == list(conv_net().state_dict())
        torch.testing.assert_close(small(x), twin.forward(x, number, False), rtol=1e-4, atol=1e-5)


def test_resuming_is_as_if_nothing_had_happened(tmp_path) -> None:
    whole, _, _, _ = fit(tmp_path / "whole", 3)
    _, _, _, run = fit(tmp_path / "first", 1)
    run.save_checkpoint(tmp_path / "one.ckpt")
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert "net.1.candidates.0.running_mean" in checkpoint["state_dict"]
    resumed, pruning, _, _ = fit(tmp_path / "second", 3, ckpt_path=tmp_path / "one.ckpt")
    assert pruning.mutator.current_subnet == 2
    assert list(whole.state_dict()) == list(resumed.state_dict())
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_the_structure_file_rebuilds_the_slimmable_network(tmp_path) -> None:
    module, pruning, _, run = fit(tmp_path, 1)
    run.save_checkpoint(tmp_path / "some.ckpt")
    mutator = ChannelMutator.from_structure(read_file(tmp_path / "some.structure.yaml"))
    net = conv_net(dropout=0.0)
    mutator.prepare_from_supernet(net)
    net.load_state_dict(module.net.state_dict())
    x = next(iter(loader()))[0]
    module.eval(), net.eval()
    for number in range(3):
        mutator.set_subnet(number)
        pruning.mutator.set_subnet(number)
        assert torch.equal(net(x), module(x))


def test_evaluation_puts_the_subnet_back_even_among_equal_widths(tmp_path) -> None:
    seen: list[Any] = []

    class Snoop(Watch):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            seen.append(self.pruning.mutator.current_subnet)

        def on_validation_end(self, trainer: Any, *args: Any) -> None:
            seen.append(("after", self.pruning.mutator.current_subnet))

        def on_validation_batch_start(self, trainer: Any, *args: Any) -> None:
            seen.append(("during", self.pruning.mutator.current_subnet))

    choices = {FIRST: 3, SECOND: 5}
    pruning = ChannelPruning(mutator=TEMPLATE, module="net", choices=choices, eval_choices={FIRST: 3, SECOND: 8})
    run = trainer(tmp_path, pruning, Snoop(pruning), limit_train_batches=1, limit_val_batches=1)
    run.fit(Net(), loader(), loader())
    assert seen == [0, ("during", 1), ("after", 0)]
    assert pruning.mutator.current_subnet == 0


def test_unequal_candidates_are_refused_before_the_run(tmp_path) -> None:
    units = {**UNITS, SECOND: {"init_args": {"candidate_choices": [5, 12]}}}
    template = {**TEMPLATE, "channel_unit_cfg": {"type": "SlimmableChannelUnit", "units": units}}
    module = Net()
    before = [type(child) for child in module.modules()]
    with pytest.raises(MisconfigurationException, match="must have equally many candidate_choices"):
        trainer(tmp_path, ChannelPruning(mutator=template, module="net")).fit(module, loader())
    assert [type(child) for child in module.modules()] == before


def test_a_model_prepared_without_subnets_is_no_slimmable_one(tmp_path) -> None:
    unit = {"type": "SlimmableChannelUnit", "default_args": {"candidate_choices": [1, 2]}}
    module = Net()
    ChannelMutator(unit).prepare_from_supernet(module.net, torch.randn(1, 3, 6, 6))
    template = {"type": "SlimmableChannelMutator", "channel_unit_cfg": unit}
    with pytest.raises(MisconfigurationException, match="the model is prepared already, with other units than the"):
        trainer(tmp_path, ChannelPruning(mutator=template, module="net")).fit(module, loader())
    trainer(tmp_path, ChannelPruning(unit=unit, module="net"), max_steps=1).fit(module, loader())


def test_the_unit_alone_lets_each_unit_draw_for_itself(tmp_path) -> None:
    unit = {"type": "slimmable", "candidate_choices": [0.25, 0.5, 1.0], "choice_mode": "ratio"}
    module, pruning = Net(), ChannelPruning(unit=unit, module="net")
    watch = Watch(pruning)
    trainer(tmp_path, pruning, watch, max_epochs=2).fit(module, loader())
    assert len({tuple(choices.values()) for choices in watch.train}) > 3
    tracked = [int(norm.num_batches_tracked) for norm in [*module.net[1].candidates, module.net[1]]]
    assert sum(tracked) == len(watch.train) == 12
    assert [next(iter(choices.values())) for choices in watch.train].count(0.25) == tracked[0]


def test_synchronised_norms_switch_too(tmp_path) -> None:
    module, pruning = Net(), ChannelPruning(mutator=TEMPLATE, module="net", sampler="min")
    run = trainer(tmp_path, pruning, max_steps=2)
    run.strategy._layer_sync = TorchSyncBatchNorm()
    setup = run.strategy.setup

    def converting_setup(trainer):
        run.strategy.model = run.strategy._layer_sync.apply(run.strategy.model)
        setup(trainer)

    run.strategy.setup = converting_setup
    run.fit(module, loader())
    assert isinstance(run.strategy._layer_sync, KeepDynamic)
    for norm in (module.net[1], module.net[4]):
        assert type(norm) is SwitchableSyncBatchNorm
        assert [int(holder.num_batches_tracked) for holder in norm.candidates] == [2, 0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("slimmable_ddp")
    run_ranks("tests.callbacks.slimmable_ddp", folder)
    return folder


def test_two_processes_need_no_search_for_unused_parameters(folder: Path) -> None:
    ranks = found_by_ranks(folder)
    assert ranks[0]["choices"] == ranks[1]["choices"]
    assert len({tuple(choices.values()) for choices in ranks[0]["choices"]}) == 3
    initial = slimmable_ddp.Module().net.state_dict()
    for name, tensor in ranks[0]["weights"].items():
        if "running" not in name:  # batch statistics are each rank's own, as ever
            assert torch.equal(tensor, ranks[1]["weights"][name]), name
        if name.endswith("candidates.0.weight"):
            plain = initial[name.removeprefix("net.").replace("candidates.0.", "")]
            assert not torch.equal(tensor, plain)
