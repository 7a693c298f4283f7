"""The slimmable mutator: subnets, equally many candidates, statistics of their own, templates."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
import torch
from invariants import check_exported, check_full_width, run
from torch import Tensor, nn
from zoo import ZOO, cast, randomise

from lightning_channels import (
    ChannelMutator,
    ChoiceError,
    ConfigError,
    DynamicBatchNorm2d,
    DynamicConv2d,
    MutableChannelContainer,
    ResourceCounter,
    SlimmableChannelMutator,
    SlimmableMutableChannel,
    build,
    count_resources,
    recalibrate_batch_norm,
)
from lightning_channels.dynamic_ops import is_dynamic
from lightning_channels.dynamic_ops.switching import SwitchableMixin

FIRST, SECOND = "0_(0, 8)_8", "3_(0, 6)_6"
TRACER = {"type": "ForwardTracer", "input_shape": [1, 3, 6, 6]}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 2, 1),
    )


def units(first: list[Any], second: list[Any], **default_args: Any) -> dict[str, Any]:
    own = {FIRST: {"init_args": {"candidate_choices": first}}, SECOND: {"init_args": {"candidate_choices": second}}}
    return {"type": "SlimmableChannelUnit", "default_args": default_args, "units": own}


def prepared(first: list[Any], second: list[Any], **default_args: Any) -> SlimmableChannelMutator:
    mutator = SlimmableChannelMutator(units(first, second, **default_args), TRACER)
    mutator.prepare_from_supernet(net())
    return mutator


def batches(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 3, 6, 6, generator=generator) for _ in range(count)]


def test_subnet_i_is_the_ith_candidate_of_every_unit() -> None:
    mutator = prepared([8, 2, 5], [1, 6, 6])
    assert mutator.subnets == [{FIRST: 2, SECOND: 1}, {FIRST: 5, SECOND: 6}, {FIRST: 8, SECOND: 6}]
    assert (mutator.num_subnets, mutator.current_subnet) == (3, 2)
    for number, subnet in enumerate(mutator.subnets):
        mutator.set_choices(subnet)
        assert (mutator.current_subnet, mutator.current_choices) == (number, subnet)
        assert [unit.current_candidate for unit in mutator.mutable_units] == [number, number]
        mutator.set_subnet(2 - number)
        assert mutator.current_subnet == 2 - number
    mutator.set_choices({FIRST: 2, SECOND: 6})  # of two subnets: allowed, each unit by its own width
    assert mutator.current_subnet is None
    assert mutator.current_choices == {FIRST: 2, SECOND: 6}
    mutator.set_choices({SECOND: 1})  # one unit alone completes a subnet
    assert mutator.current_subnet == 0


def test_samples_are_subnets() -> None:
    mutator = prepared([2, 4, 8], [1, 3, 6])
    assert mutator.sample_choices("max") == mutator.subnets[2]
    assert mutator.sample_choices("min") == mutator.subnets[0]
    drawn = [mutator.subnets.index(mutator.sample_choices("random", random.Random(seed))) for seed in range(40)]
    assert set(drawn) == {0, 1, 2}
    with pytest.raises(ConfigError, match="kind must be one of random, max, min, got 'mx'; did you mean 'max'"):
        mutator.sample_choices("mx")
    for wrong in (3, -1, None, 0.0):
        with pytest.raises(ChoiceError, match=r"there is no subnet .*; allowed are 0 to 2"):
            mutator.set_subnet(wrong)
    with pytest.raises(ChoiceError, match="none of its candidates"):
        mutator.set_choices({FIRST: 2, SECOND: 2})
    assert mutator.current_subnet == 2


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([2, 8], [1, 3, 6], r"equally many candidate_choices.*1 unit has 2, but not '3_\(0, 6\)_6' \(3\)"),
        ([2, 8], [], r"1 unit has 2, but not '3_\(0, 6\)_6' \(1\)"),
    ],
)
def test_units_need_equally_many_candidates(first: list[int], second: list[int], message: str) -> None:
    model = net()
    before = model.state_dict()
    mutator = SlimmableChannelMutator(units(first, second), TRACER)
    with pytest.raises(ConfigError, match=message):
        mutator.prepare_from_supernet(model)
    assert not any(is_dynamic(module) for module in model.modules())
    assert list(model.state_dict()) == list(before)
    assert "_channel_mutator" not in model.__dict__


def test_units_that_cannot_change_need_no_candidates() -> None:
    mutator = prepared([2, 8], [1, 6], candidate_choices=[4, 7])
    by_name = mutator.name2unit
    assert by_name["0_(0, 3)_3"].candidate_choices == [3]
    assert by_name["6_(0, 2)_2"].candidate_choices == [2]
    assert set(mutator.subnets[0]) == {FIRST, SECOND}


@pytest.mark.parametrize("given", ["SequentialMutableChannelUnit", {"type": "one_shot"}])
def test_other_unit_types_are_refused(given: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"needs units of the type SlimmableChannelUnit, got \w+; ChannelMutator takes"
    ):
        SlimmableChannelMutator(given)


def test_equally_wide_subnets_have_statistics_of_their_own() -> None:
    mutator = prepared([4, 4, 8], [3, 6, 6])
    model = mutator.model.train()
    with torch.no_grad():
        for subnet, batch in enumerate(batches()):
            mutator.set_choices(mutator.subnets[subnet])
            model(batch * (subnet + 1))
    norm = model[1]
    holders = [*norm.candidates, norm]
    means = [holder._buffers["running_mean"][:4] for holder in holders]
    assert [int(holder._buffers["num_batches_tracked"]) for holder in holders] == [1, 1, 1]
    for number, mean in enumerate(means):
        expected = 0.1 * net()[0](batches()[number] * (number + 1)).mean((0, 2, 3))[:4]
        torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(means[0], means[1])


def test_export_takes_the_subnets_own_statistics() -> None:
    mutator = prepared([4, 4, 8], [3, 6, 6])
    model = mutator.model.train()
    with torch.no_grad():
        for subnet, batch in enumerate(batches()):
            mutator.set_subnet(subnet)
            model(batch * (subnet + 1))
    mutator.set_subnet(1)
    state = mutator.model.state_dict()
    model.eval()
    for number, subnet in enumerate(mutator.subnets):
        small = mutator.export(choices=subnet)
        assert mutator.current_subnet == 1
        assert list(small.state_dict()) == list(net().state_dict())
        holder = [*model[1].candidates, model[1]][number]
        assert torch.equal(small[1].running_mean, holder._buffers["running_mean"][: subnet[FIRST]])
        assert torch.equal(small[1].running_var, holder._buffers["running_var"][: subnet[FIRST]])
        mutator.set_subnet(number)
        assert all(torch.equal(a, b) for a, b in zip(run(small, batches()[0]), run(model, batches()[0]), strict=True))
        mutator.set_subnet(1)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_recalibration_is_that_of_the_active_subnet() -> None:
    mutator = prepared([4, 4, 8], [3, 6, 6])
    model = mutator.model
    mutator.set_subnet(0)
    before = copy.deepcopy(model.state_dict())
    recalibrate_batch_norm(model, batches())
    with torch.no_grad():
        outputs = [net()[0](batch)[:, :4] for batch in batches()]
    mean = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
    torch.testing.assert_close(model[1].candidates[0].running_mean[:4], mean)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"{i}.candidates.0.running_{what}" for i in (1, 4) for what in ("mean", "var")}
    assert model[1].candidates[0].running_mean[4:].tolist() == [0] * 4


def test_templates_build_an_equal_mutator() -> None:
    mutator = prepared([4, 4, 8], [3, 6, 6])
    mutator.set_choices(mutator.subnets[0])
    template = mutator.config_template(with_unit_init_args=True)
    assert (template["type"], template["channel_unit_cfg"]["type"]) == (
        "SlimmableChannelMutator",
        "SlimmableChannelUnit",
    )
    again = build(json.loads(json.dumps(template)))
    assert isinstance(again, SlimmableChannelMutator)
    again.prepare_from_supernet(net())
    assert again.config_template(with_unit_init_args=True) == template
    assert (again.subnets, again.current_subnet) == (mutator.subnets, 0)
    structure = json.loads(json.dumps(mutator.structure()))
    untraced = ChannelMutator.from_structure(structure)
    assert isinstance(untraced, SlimmableChannelMutator)
    model = net()
    untraced.prepare_from_supernet(model)
    assert (untraced.subnets, untraced.current_subnet) == (mutator.subnets, 0)
    mutator.model[4].candidates[0].weight.data.fill_(3)
    model.load_state_dict(mutator.model.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(run(mutator.model, batches()[0]), run(model, batches()[0]), strict=True)
    )


def test_a_default_for_all_units() -> None:
    mutator = build({"type": "slimmable", "channel_unit_cfg": {"default_args": {"candidate_choices": []}}})
    model = net()
    mutator.prepare_from_supernet(model, batches()[0])
    assert mutator.subnets == [{FIRST: 8, SECOND: 6}]
    assert not any(isinstance(module, SwitchableMixin) for module in model.modules())
    assert list(model.state_dict()) == list(net().state_dict())  # one subnet has nothing to keep apart


def test_what_is_counted_is_one_subnet() -> None:
    plain = net()
    mutator = prepared([4, 8], [3, 6])
    counter = ResourceCounter(mutator)
    assert counter.total_params == sum(parameter.numel() for parameter in plain.parameters())
    for subnet in mutator.subnets:
        mutator.set_choices(subnet)
        small = mutator.export()
        assert count_resources(mutator.model)["params"] == sum(parameter.numel() for parameter in small.parameters())
    mutator.set_subnet(0)
    report = mutator.report()
    assert not [parameter for parameter in report.unassigned if "candidates" in parameter.name]
    assert mutator.current_subnet == 0  # a report looks at half the width, and comes back


def test_restore_takes_the_candidates_away() -> None:
    mutator = prepared([4, 8], [3, 6])
    model = mutator.restore()
    assert [type(module) for module in model.modules()] == [type(module) for module in net().modules()]
    assert list(model.state_dict()) == list(net().state_dict())
    mutator.prepare_from_supernet(model)
    assert mutator.num_subnets == 2


@pytest.mark.parametrize("name", ["everything", "mobilenet_v3_small", "densenet121", "shufflenet_v2_x1_0"])
def test_networks(name: str) -> None:
    """Norms over several units, groups and interleaved channels: at every subnet, sliced is exported."""
    entry = next(entry for entry in ZOO if entry.name == name)
    plain = randomise(entry.build()).double().eval()
    model = copy.deepcopy(plain)
    inputs = cast(entry.inputs(), torch.float64)
    unit = {"type": "slimmable", "default_args": {"candidate_choices": [0.3, 0.5, 1.0], "choice_mode": "ratio"}}
    mutator = SlimmableChannelMutator(unit)
    mutator.prepare_from_supernet(model, inputs)
    assert len(mutator.mutable_units) == entry.mutable
    assert [key for key in model.state_dict() if ".candidates." not in key] == list(plain.state_dict())
    if name == "everything":
        check_full_width(plain, model, inputs)
    norms = [module for module in model.modules() if isinstance(module, SwitchableMixin)]
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for norm in norms:
            for candidate in norm.candidates:
                candidate.weight.copy_(torch.rand(candidate.weight.shape, generator=generator) + 0.5)
                candidate.running_mean.copy_(torch.rand(candidate.weight.shape, generator=generator))
    assert norms
    outputs = []
    for number in range(3):
        mutator.set_subnet(number)
        check_exported(model, inputs, 1e-10)
        with torch.no_grad():
            outputs.append(run(model, inputs)[0])
        mutator.set_subnet(0)
        mutator.set_choices(mutator.subnets[number])
        with torch.no_grad():
            assert torch.equal(run(model, inputs)[0], outputs[-1])
    assert torch.equal(outputs[-1], run(plain, inputs)[0].detach())
    assert not torch.allclose(outputs[0], outputs[1])


class Predefined(nn.Module):
    """Written with dynamic ops and a mutable that knows its candidate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = DynamicConv2d(3, 8, 3), DynamicBatchNorm2d(8), DynamicConv2d(8, 2, 1)
        self.mutable = SlimmableMutableChannel(8)
        for module, is_output in ((self.conv, True), (self.norm, True), (self.head, False)):
            MutableChannelContainer.register_mutable_channel_to_module(module, self.mutable, is_output)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)))


def test_a_predefined_model_becomes_slimmable_and_comes_back() -> None:
    model = Predefined()
    keys = list(model.state_dict())
    unit = {"type": "SlimmableChannelUnit", "default_args": {"candidate_choices": [2, 8]}}
    mutator = SlimmableChannelMutator(unit, {"type": "Predefined"})
    mutator.prepare_from_supernet(model)
    assert list(mutator.subnets[0].values()) == [2]
    mutator.set_subnet(0)
    model.train()(batches()[0])
    assert bool(model.norm.candidates[0].running_mean.any())
    assert not bool(model.norm._buffers["running_mean"].any())
    mutator.restore()
    assert type(model.norm) is DynamicBatchNorm2d
    assert list(model.state_dict()) == keys
    assert model(batches()[0]).shape == (5, 2, 4, 4)


def test_candidates_of_the_most_important_channels_have_norms_of_their_own() -> None:
    mutator = prepared([3, 8], [2, 6])
    model: Any = mutator.model
    with torch.no_grad():
        model[1].candidates[0].weight.copy_(torch.arange(8.0))
    mutator.name2unit[FIRST].rank([3, 9, 0, 8, 0, 0, 7, 0])
    mutator.name2unit[SECOND].rank([0, 0, 1, 0, 0, 2])
    mutator.set_subnet(0)
    assert mutator.kept_channels() == {FIRST: [1, 3, 6], SECOND: [2, 5]}
    assert model[1].weight.tolist() == [1.0, 3.0, 6.0]
    model.train()(batches()[0])
    assert model[1]._buffers["running_mean"].count_nonzero() == 0  # the widest one's
    assert model[1].candidates[0].running_mean.nonzero().flatten().tolist() == [1, 3, 6]
    small = mutator.export(model.eval())
    torch.testing.assert_close(small(batches()[0]), model(batches()[0]))
    kept = mutator.kept_channels()
    mutator.set_choices({FIRST: 8})
    assert (mutator.current_subnet, mutator.kept_channels()) == (None, {SECOND: [2, 5]})
    mutator.keep_channels(kept)
    assert mutator.current_subnet == 0
    mutator.keep_channels({FIRST: [0, 1]})  # as many as no candidate has
    assert (mutator.current_subnet, mutator.kept_channels()[FIRST]) == (None, [0, 1])
    with pytest.raises(ChoiceError, match="has no channel 6"):
        mutator.keep_channels({FIRST: [0, 4, 5], SECOND: [0, 6]})
    assert mutator.kept_channels() == {FIRST: [0, 1], SECOND: [2, 5]}


def test_compiled() -> None:
    mutator = prepared([4, 4, 8], [3, 6, 6])
    model = mutator.model.eval()
    with torch.no_grad():
        model[1].candidates[0].running_mean.fill_(1.0)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for subnet in (2, 0, 1, 0):
        mutator.set_subnet(subnet)
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                torch.testing.assert_close(compiled(batches()[0]), model(batches()[0]))
