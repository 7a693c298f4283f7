"""Batch-norm statistics of the active width: right, and nothing else touched."""

import random

import pytest
import torch
from torch import nn

from lightning_channels.errors import ConfigError
from lightning_channels.mutators import ChannelMutator
from lightning_channels.recalibration import recalibrate_batch_norm

UNIT = "0_(0, 8)_8"


def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(8, 6, 3),
        nn.BatchNorm2d(6, momentum=0.3),
    )
    for norm in (model[1], model[5]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(1, 2)
        norm.num_batches_tracked.fill_(17)
    return model


def batches(count=3, size=5):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, 6, 6, generator=generator) for _ in range(count)]


def prepared(choice=None):
    model = net()
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, torch.randn(1, 3, 6, 6))
    if choice is not None:
        mutator.name2unit[UNIT].keep(choice)
    return model, mutator


def statistics(norm):
    return norm._buffers["running_mean"], norm._buffers["running_var"]


@pytest.mark.parametrize("kept", [[0, 1, 2], [1, 4, 6], list(range(8))])
def test_active_statistics_are_the_average_over_batches(kept):
    model, _ = prepared(kept)
    plain = net()
    before = [tensor.clone() for tensor in statistics(model[1])]
    recalibrate_batch_norm(model, batches())
    # by hand: the plain net's first convolution on the same pictures, then each channel's mean and variance
    with torch.no_grad():
        outputs = [plain[0](batch)[:, kept] for batch in batches()]
    mean = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
    var = torch.stack([output.var((0, 2, 3)) for output in outputs]).mean(0)
    rest = [channel for channel in range(8) if channel not in kept]
    for now, was, expected in zip(statistics(model[1]), before, (mean, var), strict=True):
        torch.testing.assert_close(now[kept], expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(now[rest], was[rest])


def test_a_prepared_model_and_its_export_get_the_same_statistics():
    model, mutator = prepared([1, 4, 6])
    twin = mutator.export(model)
    recalibrate_batch_norm(model, batches())
    recalibrate_batch_norm(twin, batches())
    for ours, theirs in zip(statistics(model[1]), statistics(twin[1]), strict=True):
        torch.testing.assert_close(ours[[1, 4, 6]], theirs)
    for ours, theirs in zip(statistics(model[5]), statistics(twin[5]), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_nothing_else_changes():
    model, _ = prepared([0, 3])
    model.train()
    model[3].eval()
    modes = [module.training for module in model.modules()]
    momenta = [norm.momentum for norm in (model[1], model[5])]
    buffers = dict(model.named_buffers())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random.seed(3)
    torch.manual_seed(3)
    generators = (random.getstate(), torch.get_rng_state())
    shuffled = torch.utils.data.DataLoader(torch.cat(batches()), batch_size=5, shuffle=True)
    recalibrate_batch_norm(model, shuffled)
    assert (random.getstate(), torch.get_rng_state().tolist()) == (generators[0], generators[1].tolist())
    assert [module.training for module in model.modules()] == modes
    assert [norm.momentum for norm in (model[1], model[5])] == momenta == [0.1, 0.3]
    assert all(buffers[name] is buffer for name, buffer in model.named_buffers())
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])}
    assert changed == {"1.running_mean", "1.running_var", "5.running_mean", "5.running_var"}
    assert not any(hook for module in model.modules() for hook in module._forward_pre_hooks)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_is_off():
    one, other = net(), net()
    other[3] = nn.Identity()
    recalibrate_batch_norm(one.train(), batches())
    recalibrate_batch_norm(other, batches())
    assert torch.equal(one[5].running_mean, other[5].running_mean)


def test_values_that_are_not_finite_are_repaired():
    model = net()
    model[1].running_var.fill_(float("nan"))
    recalibrate_batch_norm(model, batches())
    assert model[1].running_var.isfinite().all()


def test_the_number_of_batches_can_be_limited():
    one, other = net(), net()
    recalibrate_batch_norm(one, batches(5), num_batches=2)
    recalibrate_batch_norm(other, batches(5)[:2])
    assert torch.equal(one[1].running_mean, other[1].running_mean)

    def endless():
        while True:
            yield from batches()

    recalibrate_batch_norm(one, endless(), num_batches=4)


def test_kinds_of_batches():
    reference = net()
    recalibrate_batch_norm(reference, batches())
    kinds = [
        lambda x: (x, 1),
        lambda x: [x],
        lambda x: {"label": 0, "image": x},
        lambda x: {"x": x},
        lambda x: {"pixel_values": x, "x": None},
    ]
    for kind in kinds:
        model = net()
        recalibrate_batch_norm(model, [kind(batch) for batch in batches()])
        assert torch.equal(model[1].running_mean, reference[1].running_mean)
    model = net()
    recalibrate_batch_norm(model, [{"picture": batch} for batch in batches()], lambda net, batch: net(batch["picture"]))
    assert torch.equal(model[1].running_mean, reference[1].running_mean)


def test_a_norm_that_runs_twice_averages_over_its_calls():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x):
            self.norm(x)
            return self.norm(x + 2)

    model, x = Shared(), torch.randn(64, 2)
    recalibrate_batch_norm(model, [x])
    torch.testing.assert_close(model.norm.running_mean, x.mean(0) + 1)


def test_instance_norm_with_statistics_and_norms_without():
    tracked, untracked = nn.InstanceNorm2d(3, track_running_stats=True), nn.BatchNorm2d(3, track_running_stats=False)
    model, x = nn.Sequential(tracked, untracked), torch.randn(4, 3, 5, 5)
    recalibrate_batch_norm(model, [x, x + 2])
    torch.testing.assert_close(tracked.running_mean, x.mean((0, 2, 3)) + 1)
    recalibrate_batch_norm(nn.Linear(2, 2), [])


def test_a_norm_that_is_not_reached_keeps_its_statistics():
    model = net()
    before = [tensor.clone() for tensor in statistics(model[5])]
    recalibrate_batch_norm(model, batches(), lambda model, x: model[1](model[0](x)))
    assert all(torch.equal(now, was) for now, was in zip(statistics(model[5]), before, strict=True))


class Fails(Exception):
    pass


def failing():
    yield batches()[0]
    raise Fails


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], ConfigError, "there are no batches"),
        (iter(()), ConfigError, "consumed before"),
        ([["word"]], ConfigError, "no input in a batch of type list"),
        ([{"a": 1}], ConfigError, r"type dict with the keys a.*pass forward="),
        (failing(), Fails, None),
        ([torch.randn(2, 5, 6, 6)], RuntimeError, "channels"),
    ],
)
def test_after_an_exception_all_is_as_before(data, error, message):
    model, _ = prepared([0, 2])
    model[3].train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    with pytest.raises(error, match=message):
        recalibrate_batch_norm(model, data)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert (model[1].momentum, model[5].momentum) == (0.1, 0.3)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True])
def test_a_wrong_number_of_batches(wrong):
    with pytest.raises(ConfigError, match="num_batches"):
        recalibrate_batch_norm(net(), batches(), num_batches=wrong)
