"""Switchable batch norms: tensors for each candidate, the widest one's under the plain keys."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_channels import ConfigError, PrepareError, SlimmableMutableChannel
from lightning_channels.dynamic_ops import (
    DynamicBatchNorm2d,
    SwitchableBatchNorm1d,
    SwitchableBatchNorm2d,
    SwitchableBatchNorm3d,
    SwitchableSyncBatchNorm,
    containers,
    make_dynamic,
    make_static,
    make_switchable,
    restore,
)
from lightning_channels.export import export_subnet

WIDTHS = (3, 3, 8)
KEPT = {"prefix": 3, "indices": [0, 3, 4]}


class NormWithSlope(nn.BatchNorm2d):
    """A subclass with a forward of its own and a parameter that no table knows."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.slope = nn.Parameter(torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return torch.where(x > 0, x, x * self.slope.view(1, -1, 1, 1))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], type | None]] = {
    "1d": (lambda: nn.BatchNorm1d(8), (5, 8), SwitchableBatchNorm1d),
    "2d": (lambda: nn.BatchNorm2d(8), (3, 8, 4, 4), SwitchableBatchNorm2d),
    "3d": (lambda: nn.BatchNorm3d(8), (3, 8, 2, 2, 2), SwitchableBatchNorm3d),
    "cumulative": (lambda: nn.BatchNorm2d(8, momentum=None), (3, 8, 4, 4), SwitchableBatchNorm2d),
    "statistics alone": (lambda: nn.BatchNorm2d(8, affine=False), (3, 8, 4, 4), SwitchableBatchNorm2d),
    "parameters alone": (lambda: nn.BatchNorm2d(8, track_running_stats=False), (3, 8, 4, 4), SwitchableBatchNorm2d),
    "sync": (lambda: nn.SyncBatchNorm(8), (3, 8, 4, 4), SwitchableSyncBatchNorm),
    "subclass": (lambda: NormWithSlope(8), (3, 8, 4, 4), None),
}


@pytest.fixture(params=CASES, ids=lambda name: name)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[int, ...], type | None]:
    build, shape, cls = CASES[request.param]
    torch.manual_seed(0)
    module = build().double()
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return module, shape, cls


def switchable(norm: nn.Module, number: int = 3) -> SlimmableMutableChannel:
    """Make a norm switchable, with a mutable at its widest candidate."""
    if isinstance(norm, NormWithSlope):
        make_dynamic(norm, {"slope": [0]})
    make_switchable(norm, number)
    mutable = SlimmableMutableChannel(8)
    for container in containers(norm).values():
        container.register_mutable(mutable)
    mutable.take(number - 1, 8)
    return mutable


def randomised(norm: nn.Module) -> None:
    """Give each candidate other tensors."""
    with torch.no_grad():
        for candidate in norm.candidates:
            for tensor in [*candidate.parameters(), *candidate.buffers()]:
                if tensor.is_floating_point():
                    tensor.uniform_(0.5, 1.5)


def twin_of(plain: nn.Module, source: nn.Module, kept: list[int]) -> nn.Module:
    """A plain narrow norm with a candidate's tensors, cut by hand."""
    twin = copy.deepcopy(plain)
    twin.num_features = len(kept)
    for name in ("weight", "bias", "slope"):
        holder = source if name != "slope" else plain
        if holder._parameters.get(name) is not None:
            twin._parameters[name] = nn.Parameter(holder._parameters[name].detach()[kept].clone())
    for name in ("running_mean", "running_var"):
        if source._buffers[name] is not None:
            twin._buffers[name] = source._buffers[name][kept].clone()
    if source._buffers["num_batches_tracked"] is not None:
        twin._buffers["num_batches_tracked"] = source._buffers["num_batches_tracked"].clone()
    return twin


def test_the_widest_is_the_plain_norm_bit_by_bit(case) -> None:
    plain, shape, cls = case
    norm = copy.deepcopy(plain)
    tensors = {**norm._parameters, **norm._buffers}
    switchable(norm)
    if cls is not None:
        assert type(norm) is cls
    assert isinstance(norm, type(plain))
    assert isinstance(norm, DynamicBatchNorm2d) == (cls is SwitchableBatchNorm2d)
    assert all(
        norm.state_dict(keep_vars=True)[name] is tensor for name, tensor in tensors.items() if tensor is not None
    )
    for _ in range(2):
        results = []
        for module in (plain, norm):
            x = torch.linspace(-1, 2, torch.Size(shape).numel(), dtype=torch.double).sin().reshape(shape)
            x.requires_grad_()
            module.zero_grad(set_to_none=True)
            y = module(x)
            (y * y.detach().cos()).sum().backward()
            grads = [p.grad for p in module._parameters.values() if p is not None]
            results.append((y, x.grad, *grads, *(b for b in module._buffers.values() if b is not None)))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("candidate", [0, 1])
def test_each_candidate_has_its_own_parameters_and_statistics(case, candidate: int, kind: str) -> None:
    plain, shape, _ = case
    norm = copy.deepcopy(plain)
    mutable = switchable(norm)
    randomised(norm)
    kept = list(range(3)) if kind == "prefix" else KEPT[kind]
    mutable.take(candidate, KEPT[kind])
    twin = twin_of(plain, norm.candidates[candidate], kept)
    before = copy.deepcopy(norm.state_dict())
    x = torch.randn(shape[0], 3, *shape[2:], dtype=torch.double, generator=torch.Generator().manual_seed(3))
    outputs = []
    for module in (norm, twin):
        for _ in range(2):
            module.zero_grad(set_to_none=True)
            y = module(x)
            if y.requires_grad:
                (y * y.detach().cos()).sum().backward()
        outputs.append(y)
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    own = norm.candidates[candidate]
    for name in ("running_mean", "running_var"):
        if twin._buffers[name] is not None:
            torch.testing.assert_close(own._buffers[name][kept], twin._buffers[name], rtol=1e-12, atol=1e-12)
    if twin._buffers["num_batches_tracked"] is not None:
        assert int(own.num_batches_tracked) == int(twin.num_batches_tracked) == 2
    for name in ("weight", "bias"):
        if twin._parameters[name] is not None:
            torch.testing.assert_close(own._parameters[name].grad[kept], twin._parameters[name].grad)
            rest = [i for i in range(8) if i not in kept]
            assert not bool(own._parameters[name].grad[rest].any())
            for other in (norm, norm.candidates[1 - candidate]):  # in the graph, as DDP wants it, and untouched
                assert other._parameters[name].grad is not None
                assert not bool(other._parameters[name].grad.any())
    now = norm.state_dict()
    changed = [key for key in now if not torch.equal(now[key], before[key])]
    assert all(key.startswith(f"candidates.{candidate}.") for key in changed)


def test_outside_of_a_forward_the_active_tensor_is_a_view() -> None:
    norm = nn.BatchNorm2d(8)
    mutable = switchable(norm)
    mutable.take(1, 3)
    nn.init.constant_(norm.weight, 7)
    norm.weight.data.mul_(2)
    assert norm.candidates[1].weight.tolist() == [14] * 3 + [1] * 5
    assert norm._parameters["weight"].tolist() == [1] * 8
    norm.running_mean = torch.full((3,), 4.0)
    norm.num_batches_tracked = torch.tensor(9)
    assert norm.candidates[1].running_mean.tolist() == [4] * 3 + [0] * 5
    assert int(norm.candidates[1].num_batches_tracked) == 9
    norm.reset_running_stats()
    assert not bool(norm.candidates[1].running_mean.any())
    mutable.take(2, 8)
    assert norm.weight is norm._parameters["weight"]
    assert int(norm.num_batches_tracked) == 0


def test_frozen_parameters_stay_so() -> None:
    norm = nn.BatchNorm2d(8).requires_grad_(False)
    norm.weight.no_decay = True
    mutable = switchable(norm)
    mutable.take(0, 3)
    assert not norm(torch.randn(2, 3, 2, 2)).requires_grad
    assert norm.candidates[0].weight.no_decay
    assert not any(parameter.requires_grad for parameter in norm.parameters())


def test_state_dict_has_the_plain_keys_for_the_widest_and_one_prefix_for_the_others() -> None:
    plain = nn.BatchNorm2d(8)
    norm = copy.deepcopy(plain)
    switchable(norm)
    own = list(plain.state_dict())
    assert list(norm.state_dict()) == [*own, *(f"candidates.{i}.{key}" for i in range(2) for key in own)]


def test_a_plain_state_dict_loads_into_every_candidate() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    switchable(model[1])
    randomised(model[1])
    plain = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    with torch.no_grad():
        plain[1].weight.uniform_(), plain[1].running_mean.uniform_(), plain[1].num_batches_tracked.fill_(4)
    state = plain.state_dict()
    keys = list(state)
    for assign in (False, True):
        model.load_state_dict(state, assign=assign)
        assert list(state) == keys
        holders = [model[1], *model[1].candidates]
        for name in plain[1].state_dict():
            tensors = [{**holder._parameters, **holder._buffers}[name] for holder in holders]
            assert all(torch.equal(tensor, state[f"1.{name}"]) for tensor in tensors)
            assert len({tensor.data_ptr() for tensor in tensors}) == 3
    del state["1.weight"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "1.weight", "1.candidates.0.weight"'):
        model.load_state_dict(state)


def test_its_own_state_dict_loads_and_another_number_of_candidates_does_not() -> None:
    norm, other, more = nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
    switchable(norm), switchable(other), switchable(more, 4)
    randomised(norm)
    other.load_state_dict(norm.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(norm.state_dict().values(), other.state_dict().values(), strict=True))
    with pytest.raises(RuntimeError, match=r"candidates\.2\.weight"):
        more.load_state_dict(norm.state_dict())
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\).*candidates\.2\.weight"):
        other.load_state_dict(more.state_dict())


@pytest.mark.parametrize("kind", KEPT)
def test_static_and_restored(case, kind: str) -> None:
    plain, shape, _ = case
    norm = copy.deepcopy(plain)
    mutable = switchable(norm)
    randomised(norm)
    mutable.take(0, KEPT[kind])
    kept = list(range(3)) if kind == "prefix" else KEPT[kind]
    twin = twin_of(plain, norm.candidates[0], kept).eval()
    norm.eval()
    x = torch.randn(shape[0], 3, *shape[2:], dtype=torch.double)
    expected = twin(x) if plain.track_running_stats or plain.training else norm(x)
    static = export_subnet(nn.Sequential(norm))[0]
    assert type(static) is type(plain)
    assert list(static.state_dict()) == list(plain.state_dict())
    assert "candidates" not in static._modules
    torch.testing.assert_close(static(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(make_static(copy.deepcopy(norm))(x), expected, rtol=1e-12, atol=1e-12)
    restore(norm)
    assert type(norm) is type(plain)
    assert set(norm.__dict__) == set(plain.__dict__)
    assert "candidates" not in norm._modules
    assert all(torch.equal(a, b) for a, b in zip(norm.state_dict().values(), plain.state_dict().values(), strict=True))


def test_copies_and_pickles_have_candidates_of_their_own(case) -> None:
    norm, shape, _ = case
    mutable = switchable(norm)
    randomised(norm)
    mutable.take(1, 3)
    norm.eval()
    x = torch.randn(shape[0], 3, *shape[2:], dtype=torch.double)
    for other in (copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))):
        assert type(other) is type(norm)
        assert torch.equal(other(x), norm(x))
        own = next(iter(containers(other).values())).mutable_channels[0, 8]
        assert own.candidate == 1
        own.take(0, 3)
        if norm.affine or norm.track_running_stats:
            assert not torch.equal(other(x), norm(x))
        assert mutable.candidate == 1


def test_constructed_directly() -> None:
    norm = SwitchableBatchNorm2d(8, eps=1e-3)
    assert list(norm.state_dict()) == list(nn.BatchNorm2d(8).state_dict())
    assert norm(torch.randn(2, 8, 3, 3)).shape == (2, 8, 3, 3)
    norm.init_candidates(2)
    norm.init_candidates(2)
    assert [candidate.eps for candidate in norm.candidates] == [1e-3]
    with pytest.raises(ConfigError, match="SwitchableBatchNorm2d has 2 candidates already; it can't have 3 as well"):
        norm.init_candidates(3)


@pytest.mark.parametrize(
    ("module", "number", "error", "message"),
    [
        (nn.LayerNorm(8), 2, PrepareError, "LayerNorm is no batch norm"),
        (nn.BatchNorm2d(8), 0, ConfigError, "the number of candidates must be a whole number of at least 1, got 0"),
        (nn.BatchNorm2d(8), True, ConfigError, "the number of candidates must be a whole number"),
    ],
)
def test_what_cannot_switch(module: nn.Module, number: int, error: type[Exception], message: str) -> None:
    cls = type(module)
    with pytest.raises(error, match=message):
        make_switchable(module, number)
    assert type(module) is cls


def test_a_name_that_is_taken() -> None:
    norm = nn.BatchNorm2d(8)
    norm.candidates = nn.Identity()
    with pytest.raises(PrepareError, match="BatchNorm2d has something called 'candidates'; rename that"):
        make_switchable(norm, 2)
