"""What holds for every dynamic op, at full width and at prefix and index selections."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_channels.dynamic_ops import containers, is_dynamic, make_dynamic, make_static, restore
from tests.dynamic_ops.cases import CASES, Case, prepared

KINDS = ["prefix", "index"]
TOLERANCE = {torch.float32: {"rtol": 1e-5, "atol": 1e-6}, torch.float64: {"rtol": 1e-10, "atol": 1e-12}}

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
every_kind = pytest.mark.parametrize("kind", KINDS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def narrowed(case: Case, kind: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """(dynamic module, its static twin, full input, narrow input)"""
    module = case.module(dtype)
    mutables = prepared(case, module)
    for side, keep in case.keep(kind).items():
        mutables[side].keep(keep)
    twin = make_static(copy.deepcopy(module))
    x = case.input(dtype)
    return module, twin, x, select(x, module, case.into, case.dim)


def full_tensor(module: nn.Module, name: str) -> Tensor:
    return (module._parameters if name in module._parameters else module._buffers)[name]  # type: ignore[return-value]


def kept(module: nn.Module, side: str | None) -> Tensor | None:
    return None if side is None else containers(module)[side].kept


def select(x: Tensor, module: nn.Module, side: str | None, dim: int) -> Tensor:
    index = kept(module, side)
    return x if index is None else x.index_select(dim, index)


def run(module: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
    """Output, gradients of the parameters, and of the input."""
    if x.is_floating_point():
        x = x.clone().requires_grad_()
    y = module(x)
    weights = torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).view(y.shape)
    (y * y.tanh() * weights).sum().backward()
    gradients = {name: p.grad for name, p in module.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    return y.detach(), gradients, x.grad


@every_case
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_full_width_is_bit_identical_to_the_plain_module(case: Case, training: bool) -> None:
    module = case.module().train(training)
    plain = copy.deepcopy(module)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    keys = list(module.state_dict())
    mutables = prepared(case, module)

    assert list(module.state_dict()) == keys
    assert all(full_tensor(module, n) is tensors[n] for n, _ in plain.named_parameters())
    assert all(full_tensor(module, n) is tensors[n] for n, _ in plain.named_buffers())
    assert isinstance(module, type(plain))
    for _ in range(2):  # the second time after everything has been narrow in between
        expected, got = run(plain, case.input()), run(module, case.input())
        assert torch.equal(got[0], expected[0])
        for name in expected[1]:
            assert torch.equal(got[1][name], expected[1][name]), name
        for name, buffer in plain.named_buffers():
            assert torch.equal(full_tensor(module, name), buffer), name
        for side, keep in case.index.items():
            mutables[side].keep(keep)
            mutables[side].keep(mutables[side].num_channels)


@every_case
@every_kind
@every_dtype
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_narrow_equals_the_static_twin(case: Case, kind: str, dtype: torch.dtype, training: bool) -> None:
    module, twin, _, x = narrowed(case, kind, dtype)
    module.train(training)
    twin.train(training)
    assert type(twin) is type(case.module())
    expected, got = run(twin, x), run(module, x)
    assert_close(got[0], expected[0], **TOLERANCE[dtype])
    if case.out is not None:
        assert got[0].shape[case.out_dim] == len(kept(module, case.out))
    if expected[2] is not None:
        assert_close(got[2], expected[2], **TOLERANCE[dtype])
    where = positions(case, kind, dtype)
    for name, gradient in expected[1].items():
        full = got[1][name]
        assert full.shape == full_tensor(module, name).shape
        inactive = torch.ones(full.numel(), dtype=torch.bool)
        inactive[where[name].flatten()] = False
        assert_close(full.flatten()[where[name].flatten()].view(gradient.shape), gradient, **TOLERANCE[dtype])
        assert full.flatten()[inactive].count_nonzero() == 0, name


def positions(case: Case, kind: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """For each parameter of the twin, where in the full one its entries come from."""
    module = case.module(torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.arange(parameter.numel(), dtype=torch.float64).view(parameter.shape))
    mutables = prepared(case, module)
    for side, keep in case.keep(kind).items():
        mutables[side].keep(keep)
    return {name: parameter.long() for name, parameter in make_static(module).named_parameters()}


# where a normalisation runs over the channels, the masked module computes other values by nature
@pytest.mark.parametrize("case", [case for case in CASES if case.masked], ids=lambda case: case.name)
@every_kind
def test_narrow_equals_the_full_module_with_inactive_inputs_at_zero(case: Case, kind: str) -> None:
    module, _, full, narrow = narrowed(case, kind, torch.float64)
    plain = case.module(torch.float64)
    masked = full
    if case.into is not None:
        mask = torch.zeros(full.shape[case.dim], dtype=full.dtype)
        mask[kept(module, case.into)] = 1
        masked = full * mask.view([-1 if d == case.dim % full.dim() else 1 for d in range(full.dim())])
    expected = select(plain(masked), module, case.out, case.out_dim)
    got = module(narrow)
    assert_close(got, expected, **TOLERANCE[torch.float64])
    if not expected.requires_grad:
        return  # no parameters
    weights = torch.linspace(0.5, 1.5, got.numel(), dtype=got.dtype).view(got.shape)
    (expected * expected.tanh() * weights).sum().backward()
    (got * got.tanh() * weights).sum().backward()
    for name, parameter in plain.named_parameters():
        # the masked run's gradients are zero where nothing is active, without any slicing
        assert_close(full_tensor(module, name).grad, parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "case", [c for c in CASES if any(b.dim() for b in c.build().buffers())], ids=lambda case: case.name
)
@every_kind
def test_running_statistics_change_where_active_and_nowhere_else(case: Case, kind: str) -> None:
    module, twin, _, x = narrowed(case, kind, torch.float64)
    statistics = [n for n, buffer in module.named_buffers() if buffer.is_floating_point()]
    before = {name: full_tensor(module, name).clone() for name in statistics}
    for _ in range(3):
        module.train()(x)
        twin.train()(x)
    for name in statistics:
        full, active = full_tensor(module, name), kept(module, case.out)
        assert_close(full[active], full_tensor(twin, name), rtol=1e-12, atol=0)
        assert (full[active] != before[name][active]).all()
        inactive = torch.ones(len(full), dtype=torch.bool)
        inactive[active] = False
        assert torch.equal(full[inactive], before[name][inactive])
    frozen = {name: full_tensor(module, name).clone() for name in statistics}
    module.eval()(x)
    assert all(torch.equal(full_tensor(module, name), frozen[name]) for name in statistics)


def through_torch_save(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "torch.save": through_torch_save,
}


@every_case
@every_kind
@pytest.mark.parametrize("way", COPIES)
def test_copies_are_equal_and_independent(case: Case, kind: str, way: str) -> None:
    module, _, full, x = narrowed(case, kind)
    module.eval()
    expected = module(x)
    other = COPIES[way](module)
    assert type(other) is type(module)
    assert torch.equal(other(x), expected)
    for side, container in containers(other).items():
        assert container is not containers(module)[side]
        mutable = container.mutable_channels[0, container.num_channels]
        mutable.keep(container.num_channels)
    assert torch.equal(other(full), case.module().eval()(full))
    assert torch.equal(module(x), expected)


@every_case
@every_kind
def test_restore_leaves_nothing_behind(case: Case, kind: str) -> None:
    module, _, x, _ = narrowed(case, kind)
    plain = case.module()
    assert is_dynamic(module)
    assert restore(module) is module
    assert type(module) is type(plain)
    assert list(module.__dict__) == list(plain.__dict__)
    assert torch.equal(module.eval()(x), plain.eval()(x))


@every_case
@every_kind
def test_functional_call_narrows_what_it_is_given(case: Case, kind: str) -> None:
    module, _, _, x = narrowed(case, kind)
    module.eval()
    given = {name: (t.detach() * 2 if t.is_floating_point() else t) for name, t in module.state_dict().items()}
    got = torch.func.functional_call(module, given, (x,))
    module.load_state_dict(given)
    assert torch.equal(got, module(x))


@every_case
@every_kind
def test_state_dict_is_full_whatever_is_selected(case: Case, kind: str) -> None:
    module, _, _, _ = narrowed(case, kind)
    plain = case.module()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor)
    doubled = {name: tensor * 2 for name, tensor in plain.state_dict().items()}
    for assign in (False, True):
        module.load_state_dict(doubled, strict=True, assign=assign)
        assert all(torch.equal(tensor, doubled[name]) for name, tensor in module.state_dict().items())


@every_case
@every_kind
def test_sizes_are_those_of_the_static_twin(case: Case, kind: str) -> None:
    module, twin, _, _ = narrowed(case, kind)
    numbers = (int, tuple)
    for name, value in vars(twin).items():
        if isinstance(value, numbers) and not name.startswith("_"):
            assert getattr(module, name) == value, name


@pytest.mark.parametrize(
    "name", ["conv2d", "conv2d-depthwise", "linear", "batchnorm2d", "layernorm", "bare", "subclass"]
)
@every_kind
def test_compiles(name: str, kind: str) -> None:
    case = next(case for case in CASES if case.name == name)
    module, twin, _, x = narrowed(case, kind, torch.float64)
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="eager")
    assert_close(compiled(x), twin(x), **TOLERANCE[torch.float64])
    for container in containers(module).values():  # and a change of the choice is seen
        container.mutable_channels[0, container.num_channels].keep(container.num_channels)
    x = case.input(torch.float64)
    assert_close(compiled(x), case.module(torch.float64)(x), **TOLERANCE[torch.float64])


def test_pickled_classes_are_made_again_in_a_new_process(tmp_path: Path) -> None:
    for case in CASES:
        module, _, _, _ = narrowed(case, "index")
        if type(module).__module__ == "tests.dynamic_ops.cases":
            continue  # its plain class is in this test suite
        torch.save(module, tmp_path / f"{case.name}.pt")
    code = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "for path in sorted(Path(sys.argv[1]).glob('*.pt')):\n"
        "    module = torch.load(path, weights_only=False)\n"
        "    assert type(module).__name__.startswith('Dynamic'), path\n"
        "    print(path.stem, sum(c.activated_channels for c in module.mutable_attrs.values()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = dict(line.split() for line in done.stdout.splitlines())
    assert rows["conv2d"] == "6"
    assert rows["torchvision-layernorm2d"] == "4"


@every_case
def test_converting_twice_changes_nothing(case: Case) -> None:
    module = case.module()
    prepared(case, module)
    cls, before = type(module), dict(containers(module))
    assert make_dynamic(module, case.tensors) is module
    assert make_dynamic(module) is module
    assert type(module) is cls
    assert containers(module) == before
