"""Criteria that collect leave the training as it is, and count each backward pass once."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_channels import ChannelMutator, ConfigError, PrepareError, build_criterion, export_subnet
from tests.criteria.nets import FIRST, SECOND, Residual, batch, chain, prepared

COLLECTING = ["taylor", "fisher"]


def started(net: nn.Module, name: str = "fisher", **arguments: Any) -> tuple[Any, ChannelMutator, dict[str, Any]]:
    mutator, units = prepared(net, batch())
    criterion: Any = build_criterion({"type": name, **arguments})
    criterion.start(net, list(units.values()))
    return criterion, mutator, units


def hooks(net: nn.Module) -> int:
    on_parameters = sum(len(parameter._backward_hooks or ()) for parameter in net.parameters())
    return on_parameters + sum(len(m._forward_pre_hooks) + len(m._forward_pre_hooks_with_kwargs) for m in net.modules())


def passed(net: nn.Module, criterion: Any, x: Tensor, scale: float = 1.0) -> None:
    (net(x).square().sum() * scale).backward()
    criterion.after_backward()


def scores(criterion: Any, units: dict[str, Any]) -> dict[str, Tensor]:
    return {name: criterion(unit) for name, unit in units.items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


class Dropping(Residual):
    """Draws, and joins what it computes by several paths, whose gradients are added in some order."""

    def forward(self, x: Tensor, gates: Any = None) -> Tensor:
        x = nn.functional.dropout(self.stem(x), 0.3)
        y = x + self.left(x) + self.left(x * 1.7) + x.sin()
        return self.head(y.mean((2, 3))) + self.side(self.right(x).relu().amax((2, 3)))


@pytest.mark.parametrize("name", COLLECTING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_training_is_bit_for_bit_what_it_is_without(name: str, dtype: torch.dtype) -> None:
    def trained(with_it: bool) -> list[Tensor]:
        net = Dropping()
        mutator = ChannelMutator()
        mutator.prepare_from_supernet(net, batch())
        net.to(dtype)
        criterion: Any = build_criterion(name)
        if with_it:
            criterion.start(net, mutator.mutable_units)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        torch.manual_seed(5)
        seen = []
        for step in range(4):
            for _ in range(2):
                outputs = net(torch.randn(3, 2, 6, 6, dtype=dtype))
                outputs.square().mean().backward()
                seen += [outputs.detach().clone()]
                if with_it:
                    criterion.after_backward()
            seen += [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
            if with_it:
                assert all(criterion(unit).isfinite().all() for unit in mutator.mutable_units)
            optimizer.step()
            optimizer.zero_grad()
            units = mutator.mutable_units
            units[step % len(units)].keep_first(units[step % len(units)].num_channels - 1)
        return [*seen, torch.get_rng_state()]

    with_it, without = trained(True), trained(False)
    assert len(with_it) == len(without)
    assert all(torch.equal(a, b) for a, b in zip(with_it, without, strict=True))


@pytest.mark.parametrize("name", COLLECTING)
def test_accumulated_passes_count_as_passes_of_their_own(name: str) -> None:
    (apart, _, units), (together, _, twins) = started(one := chain(), name), started(other := chain(), name)
    one.eval(), other.eval()
    for x in (batch(), batch() * 3, batch() - 1):
        one.zero_grad()
        passed(one, apart, x)
        passed(other, together, x)
    assert apart.passes == together.passes == 3
    assert equal(scores(apart, units), scores(together, twins))


@pytest.mark.parametrize("name", COLLECTING)
def test_the_scale_of_the_loss_does_not_matter(name: str) -> None:
    (plain, _, units), (scaled, _, twins) = started(one := chain(), name), started(other := chain(), name)
    for exponent in (16, 15, 15):  # a power of two, as GradScaler's, changes no digit
        passed(one, plain, batch())
        scaled.loss_scale = 2.0**exponent
        passed(other, scaled, batch(), scaled.loss_scale)
    assert equal(scores(plain, units), scores(scaled, twins))


@pytest.mark.parametrize("name", COLLECTING)
def test_a_pass_that_overflows_counts_nowhere(name: str) -> None:
    criterion, _, units = started(net := chain(), name)
    passed(net, criterion, batch())
    before = scores(criterion, units)
    passed(net, criterion, batch(), math.inf)
    assert criterion.passes == 1
    assert equal(scores(criterion, units), before)
    passed(net, criterion, batch())
    assert criterion.passes == 2


@pytest.mark.parametrize("name", COLLECTING)
def test_validation_gives_nothing(name: str) -> None:
    criterion, _, _ = started(net := chain(), name)
    with torch.no_grad():
        net(batch())
    criterion.after_backward()
    assert not criterion.ready


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_net_that_computes_its_activations_again(reentrant: bool) -> None:
    (criterion, _, units), (again, _, twins) = started(net := chain()), started(other := chain())
    net.eval(), other.eval()
    passed(net, criterion, batch())
    x = batch().requires_grad_()
    checkpoint(lambda x: other(x), x, use_reentrant=reentrant).square().sum().backward()
    again.after_backward()
    found = scores(again, twins)
    assert all(torch.allclose(value, found[key], rtol=1e-12) for key, value in scores(criterion, units).items())


@pytest.mark.parametrize("name", [*COLLECTING, "bn_scale"])
def test_hooks_go_with_stop_and_after_an_error(name: str) -> None:
    net = chain()
    _, units = prepared(net, batch())
    before = hooks(net)
    criterion: Any = build_criterion({"type": name, "penalty": 0.1} if name == "bn_scale" else name)
    criterion.start(net, [units[FIRST]])
    assert hooks(net) > before
    criterion.start(net, [units[FIRST]])  # again: not twice
    once = hooks(net)
    criterion.stop()
    criterion.stop()
    assert hooks(net) == before < once
    units[SECOND].model = None
    with pytest.raises(PrepareError, match="belongs to no prepared model"):
        criterion.start(net, list(units.values()))
    assert hooks(net) == before


@pytest.mark.parametrize("name", COLLECTING)
def test_copies_collect_nothing_and_disturb_nothing(name: str) -> None:
    criterion, _, units = started(net := chain(), name)
    loss = net(batch()).square().sum()  # with what belongs to a pass at hand
    copied = copy.deepcopy(net)
    pickled = pickle.loads(pickle.dumps(net))
    other = copy.deepcopy(criterion)
    for twin in (copied, pickled):
        twin(batch()).square().sum().backward()
    loss.backward()
    criterion.after_backward()
    alone, _, twins = started(plain := chain(), name)
    passed(plain, alone, batch())
    assert equal(scores(criterion, units), scores(alone, twins))
    with pytest.raises(PrepareError, match="isn't collecting"):
        other.after_backward()
    assert equal(scores(pickle.loads(pickle.dumps(criterion)), units), scores(criterion, units))
    assert hooks(export_subnet(net)) == 0
    criterion.stop()


@pytest.mark.parametrize("name", COLLECTING)
def test_a_run_goes_on_from_its_state(name: str) -> None:
    whole, _, units = started(net := chain(), name)
    passed(net, whole, batch())
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    passed(net, whole, batch() * 2)
    for early in (True, False):
        net = chain()
        _, twins = prepared(net, batch())
        resumed: Any = build_criterion(name)
        if early:
            resumed.load_state_dict(state)
        resumed.start(net, list(twins.values()))
        if not early:
            resumed.load_state_dict(state)
        passed(net, resumed, batch() * 2)
        assert resumed.passes == 2
        assert equal(scores(resumed, twins), scores(whole, units))
    whole.reset()
    assert not whole.ready
    with pytest.raises(ConfigError, match="collected nothing for unit"):
        whole(units[FIRST])
    assert whole.state_dict() == {"sums": {}, "passes": 0}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([], "must be a dict"),
        ({"sum": {}}, "takes no key 'sum'; did you mean 'sums'"),
        ({"sums": {}, "passes": -1}, "number of 'passes'"),
        ({"sums": {}, "passes": True}, "number of 'passes'"),
        ({"sums": {FIRST: [1.0]}, "passes": 1}, "a tensor of finite numbers for unit"),
        ({"sums": {FIRST: torch.tensor([math.nan] * 3)}, "passes": 1}, "a tensor of finite numbers for unit"),
        ({"sums": {FIRST: torch.ones(2), SECOND: torch.ones(4)}, "passes": 1}, r"has \(2,\) numbers"),
        ({"sums": {FIRST: torch.ones(3)}, "passes": 1}, "is one of the units"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(state: Any, message: str) -> None:
    criterion, _, units = started(net := chain())
    passed(net, criterion, batch())
    before = scores(criterion, units)
    with pytest.raises(ConfigError, match=message):
        criterion.load_state_dict(state)
    assert equal(scores(criterion, units), before)


def test_what_was_collected_for_other_units_is_not_taken() -> None:
    criterion, _, units = started(net := chain())
    passed(net, criterion, batch())
    with pytest.raises(ConfigError, match=r"call reset\(\) to begin anew"):
        criterion.start(net, [units[FIRST]])
    criterion.reset()
    criterion.start(net, [units[FIRST]])


def test_processes_are_summed_by_the_function_given() -> None:
    """Two ranks of which each sees a half, and one that sees both halves as passes."""
    (one, _, _), (both, _, units) = started(net := chain().eval()), started(other := chain().eval())
    net(batch() * 2).square().sum().backward()
    of_other_rank: list[Tensor] = []
    one.sum_over_ranks = lambda values: of_other_rank.append(values.clone()) or values
    one.after_backward()
    (rank, _, twins), x = started(third := chain().eval()), batch()
    rank.sum_over_ranks = lambda values: values + of_other_rank[0]
    passed(third, rank, x)
    passed(other, both, x)
    passed(other, both, x * 2)
    assert rank.passes == both.passes == 2
    assert all(torch.allclose(rank(twins[name]), both(unit), rtol=1e-12) for name, unit in units.items())


def test_a_compiled_net_tells_the_sum_over_the_batch() -> None:
    criterion, _, units = started(net := chain().eval(), normalizer=None)
    compiled = torch.compile(net, backend="eager")
    compiled(batch()).square().sum().backward()
    criterion.after_backward()
    plain = chain().eval()
    plain(batch()).square().sum().backward()
    assert plain[3].weight.grad is not None
    expected = (plain[3].weight.detach() * plain[3].weight.grad).sum((0, 2, 3)).square()
    assert torch.allclose(criterion(units[FIRST]), expected, rtol=1e-10)


@pytest.mark.parametrize("name", COLLECTING)
def test_units_are_comparable_by_default(name: str) -> None:
    """Else a unit whose gradients are small throughout would be cut off as a whole."""
    criterion, _, units = started(net := chain(), name)
    passed(net, criterion, batch())
    for found in scores(criterion, units).values():
        assert found.mean().item() == pytest.approx(1.0, rel=1e-10)
