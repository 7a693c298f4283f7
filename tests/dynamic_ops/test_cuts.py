"""Several narrow passes whose gradients are put together once."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from lightning_channels import make_dynamic
from lightning_channels.dynamic_ops import blocks, cuts
from lightning_channels.dynamic_ops.cuts import JointGradients
from lightning_channels.dynamic_ops.state import state_of
from lightning_channels.dynamic_ops.writeback import with_one_copy
from lightning_channels.mutables import SimpleMutableChannel, SquentialMutableChannel
from lightning_channels.mutables.selection import IndexSelection

PREFIXES = [(4, 6), (2, 3), (8, 6), (3, 1)]
"""Outputs and inputs of each pass, of 8 and 6."""


def layer(kind: type = SquentialMutableChannel, **kwargs: object) -> tuple[nn.Module, list]:
    torch.manual_seed(0)
    module = make_dynamic(nn.Conv2d(6, 8, 3, padding=1, dtype=torch.float64, **kwargs))
    outputs, inputs = kind(8), kind(6)
    module.channel_container(True).register_mutable(outputs)
    module.channel_container(False).register_mutable(inputs)
    return module, [outputs, inputs]


def choose(mutables: list, widths: tuple[int, int], seed: int) -> None:
    for mutable, width in zip(mutables, widths, strict=True):
        if isinstance(mutable, SquentialMutableChannel):
            mutable.current_choice = width
        else:
            mask = torch.zeros(mutable.num_channels, dtype=torch.bool)
            mask[torch.randperm(mutable.num_channels, generator=torch.Generator().manual_seed(seed))[:width]] = True
            mutable.current_choice = mask


def loss_of(module: nn.Module, mutables: list) -> Tensor:
    """The sum of the losses of all passes."""
    total = torch.zeros((), dtype=torch.float64)
    for seed, widths in enumerate(PREFIXES):
        choose(mutables, widths, seed)
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(2, widths[1], 5, 5, dtype=torch.float64, generator=generator)
        total = total + module(images).square().sum()
    return total


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("kind", [SquentialMutableChannel, SimpleMutableChannel], ids=["prefix", "indices"])
def test_gradients_are_the_sum_of_the_passes(kind):
    module, mutables = layer(kind)
    loss_of(module, mutables).backward()
    expected = gradients(module)
    module.zero_grad()
    with JointGradients(module, 1):
        loss = loss_of(module, mutables)
    loss.backward()
    for name, value in gradients(module).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)
        assert value.stride() == expected[name].stride()


def test_the_parameter_gets_one_gradient():
    module, mutables = layer()
    seen = []
    module.weight.register_hook(lambda gradient: seen.append(gradient.clone()))
    with JointGradients(module, 1):
        choose(mutables, (4, 3), 0)
        first = module(torch.ones(1, 3, 5, 5, dtype=torch.float64)).sum()
        choose(mutables, (2, 6), 0)
        second = module(torch.ones(1, 6, 5, 5, dtype=torch.float64)).sum()
    (first + second).backward()
    mutables[0].current_choice = 8
    assert len(seen) == 1
    assert torch.equal(seen[0], module.weight.grad)
    assert module.weight.grad[:4, :3].abs().min() > 0
    assert module.weight.grad[4:].abs().max() == 0
    assert module.weight.grad[2:4, 3:].abs().max() == 0


def test_gradients_add_up_and_graphs_are_used_again():
    module, mutables = layer()
    with JointGradients(module, 1):
        loss = loss_of(module, mutables)
    loss.backward(retain_graph=True)
    once = gradients(module)
    loss.backward()
    for name, value in gradients(module).items():
        torch.testing.assert_close(value, 2 * once[name], rtol=1e-12, atol=1e-12)


def test_autograd_grad_takes_nothing_from_a_later_backward():
    module, mutables = layer()
    loss_of(module, mutables).backward()
    expected = gradients(module)
    module.zero_grad()
    with JointGradients(module, 1):
        loss = loss_of(module, mutables)
    choose(mutables, (8, 6), 0)
    (direct,) = torch.autograd.grad(loss, [module.weight], retain_graph=True)
    torch.testing.assert_close(direct, expected["weight"], rtol=1e-12, atol=1e-12)
    assert module.weight.grad is None
    loss.backward()
    torch.testing.assert_close(module.weight.grad, expected["weight"], rtol=1e-12, atol=1e-12)


def test_a_backward_inside_of_a_backward_keeps_its_own():
    """As in reentrant checkpointing, or a hook that asks for gradients."""
    module, mutables = layer()
    with JointGradients(module, 1):
        choose(mutables, (4, 3), 0)
        inner = module(torch.ones(1, 3, 5, 5, dtype=torch.float64)).square().sum()
        outer = module(torch.full((1, 3, 5, 5), 2.0, dtype=torch.float64)).square()
    choose(mutables, (8, 6), 0)
    expected = torch.autograd.grad(inner, module.weight, retain_graph=True)[0]
    whole = torch.autograd.grad(outer.sum(), module.weight, retain_graph=True)[0]
    found = []
    # the later of the two slices has left its gradient when the earlier one's comes
    outer.register_hook(lambda _: found.append(torch.autograd.grad(inner, module.weight, retain_graph=True)[0]))
    (outer.sum() + inner).backward()
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(module.weight.grad, whole + expected)


@pytest.mark.parametrize("kind", [SquentialMutableChannel, SimpleMutableChannel], ids=["prefix", "indices"])
def test_gradients_have_gradients(kind):
    def penalty(module: nn.Module, mutables: list) -> Tensor:
        loss = loss_of(module, mutables)
        choose(mutables, (8, 6), 0)
        (gradient,) = torch.autograd.grad(loss, module.weight, create_graph=True)
        return gradient.square().sum()

    module, mutables = layer(kind)
    (expected,) = torch.autograd.grad(penalty(module, mutables), module.weight)
    module.zero_grad()
    with JointGradients(module, 1):
        value = penalty(module, mutables)
        (own,) = torch.autograd.grad(value, module.weight)
    torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-10)


def test_shared_weights_have_one_hub():
    first, mutables = layer()
    second, others = layer()
    second.weight = first.weight
    both = nn.ModuleList([first, second])
    for inputs in (first, second):
        inputs.zero_grad()
    with JointGradients(both, 1):
        (loss_of(first, mutables) + loss_of(second, others)).backward()
    shared = first._parameters["weight"].grad.clone()
    first.zero_grad()
    (loss_of(first, mutables) + loss_of(second, others)).backward()
    torch.testing.assert_close(shared, first._parameters["weight"].grad)


def test_what_needs_no_gradient_is_sliced_as_ever():
    module, mutables = layer()
    choose(mutables, (4, 3), 0)
    with JointGradients(module, 1), torch.no_grad():
        assert module.weight.grad_fn is None
    module.requires_grad_(False)
    with JointGradients(module, 1):
        assert module.weight.grad_fn is None
    module.requires_grad_(True)
    with JointGradients(module, 1):
        assert "Cut" in type(module.weight.grad_fn).__name__
        assert type(torch.func.grad(lambda x: module(x).sum())(torch.ones(1, 3, 5, 5, dtype=torch.float64))) is Tensor
    assert "AsStrided" in type(module.weight.grad_fn).__name__


def test_small_tensors_are_sliced_as_ever():
    module, mutables = layer()
    choose(mutables, (4, 3), 0)
    with JointGradients(module, 9):
        assert "Cut" in type(module.weight.grad_fn).__name__
        assert "AsStrided" in type(module.bias.grad_fn).__name__


def test_an_exception_ends_it():
    module, mutables = layer()
    choose(mutables, (4, 3), 0)
    with pytest.raises(KeyboardInterrupt), JointGradients(module, 1):
        raise KeyboardInterrupt
    assert state_of(module).joint is None
    assert "AsStrided" in type(module.weight.grad_fn).__name__


def test_copies_made_inside_are_in_no_block():
    module, _ = layer()
    with JointGradients(module, 1):
        twins = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
    assert all(state_of(twin).joint is None for twin in twins)


class TestIndices:
    """A weight that is cut by index, in a single pass."""

    @pytest.fixture(autouse=True)
    def _all_sizes(self, monkeypatch):
        monkeypatch.setattr(cuts, "_LARGE", 1)

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    def test_gradients(self, memory_format):
        module, mutables = layer(SimpleMutableChannel)
        module.to(memory_format=memory_format)
        choose(mutables, (5, 3), 7)
        outputs, inputs = (mutable.current_mask for mutable in mutables)
        images = torch.randn(2, 3, 5, 5, dtype=torch.float64).to(memory_format=memory_format)
        assert "Cut" in type(module.weight.grad_fn).__name__
        module(images).square().sum().backward()
        full = module._parameters["weight"]
        weight = full.detach().requires_grad_()
        bias = module._parameters["bias"].detach()[outputs]
        part = weight[outputs][:, inputs]
        torch.nn.functional.conv2d(images, part, bias, padding=1).square().sum().backward()
        torch.testing.assert_close(full.grad, weight.grad, rtol=1e-12, atol=1e-12)
        assert full.grad.stride() == full.stride()

    def test_gradients_have_gradients(self):
        module, mutables = layer(SimpleMutableChannel)
        choose(mutables, (5, 3), 7)
        images = torch.randn(2, 3, 5, 5, dtype=torch.float64)
        full = module._parameters["weight"]

        def loss(weight: Tensor) -> Tensor:
            return torch.func.functional_call(module, {"weight": weight}, (images,)).tanh().sum()

        weight = full.detach().clone().requires_grad_()
        assert torch.autograd.gradcheck(loss, weight)
        assert torch.autograd.gradgradcheck(loss, weight)

    def test_other_kinds_of_derivatives_go_the_usual_way(self):
        module, mutables = layer(SimpleMutableChannel)
        choose(mutables, (5, 3), 7)
        images = torch.randn(2, 3, 5, 5, dtype=torch.float64)
        full = module._parameters["weight"]
        tangent = torch.ones_like(full)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(full, tangent)
            out = torch.func.functional_call(module, {"weight": dual}, (images,))
            forward = forward_ad.unpack_dual(out).tangent.sum()
        module(images).sum().backward()
        torch.testing.assert_close(forward, full.grad.sum())


class TestBlocks:
    """A weight whose inputs come from several units, each of which keeps its first channels."""

    @pytest.fixture(autouse=True)
    def _all_sizes(self, monkeypatch):
        monkeypatch.setattr(cuts, "_LARGE", 1)
        monkeypatch.setattr(blocks, "_ENTRIES", 1)

    @staticmethod
    def concatenated(kind: type = nn.Conv2d) -> tuple[nn.Module, list[SquentialMutableChannel]]:
        torch.manual_seed(0)
        options = {"padding": 1, "kernel_size": 3} if kind is not nn.Linear else {}
        module = make_dynamic(kind(20, 8, dtype=torch.float64, **options))
        units = [SquentialMutableChannel(size) for size in (8, 4, 4, 4)]
        module.channel_container(False).register_concatenation(units)
        outputs = SquentialMutableChannel(8)
        module.channel_container(True).register_mutable(outputs)
        return module, [*units, outputs]

    @staticmethod
    def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """How many blocks there were, call by call."""
        counts: list[int] = []
        found = blocks.blocks

        def watched(*args: object) -> list[tuple[Tensor, Tensor]]:
            pairs = found(*args)
            counts.append(len(pairs))
            return pairs

        monkeypatch.setattr(cuts, "blocks", watched)
        return counts

    @pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d, nn.Linear])
    @pytest.mark.parametrize(("widths", "count"), [((4, 2, 2, 2, 4), 2), ((5, 1, 3, 2, 8), 4), ((8, 3, 3, 3, 8), 2)])
    def test_they_hold_what_an_index_selects(self, kind, widths, count, monkeypatch):
        module, units = self.concatenated(kind)
        counts = self.seen(monkeypatch)
        for unit, width in zip(units, widths, strict=True):
            unit.current_choice = width
        kept = module.channel_container(False).kept
        full = module._parameters["weight"]
        by = 0 if kind is nn.ConvTranspose2d else 1
        expected = full.index_select(by, kept).narrow(1 - by, 0, widths[-1])
        assert torch.equal(module.weight, expected)
        with torch.no_grad():
            assert torch.equal(module.weight, expected)
        gradient = torch.randn(expected.shape, dtype=torch.float64)
        (wanted,) = torch.autograd.grad(expected, full, gradient)
        for given in (gradient, gradient.transpose(0, 1).contiguous().transpose(0, 1)):
            (found,) = torch.autograd.grad(module.weight, full, given)
            assert torch.equal(found, wanted)
            assert found.stride() == full.stride()
        assert counts
        assert set(counts) == {count}

    def test_a_gradient_that_is_one_number_everywhere(self):
        module, units = self.concatenated()
        for unit in units:
            unit.current_choice = 2
        module.weight.sum().backward()
        full = module._parameters["weight"]
        kept = module.channel_container(False).current_mask
        expected = torch.zeros_like(full)
        expected[:2, kept] = 1
        assert torch.equal(full.grad, expected)

    def test_a_parameter_inside_of_another_tensor(self, monkeypatch):
        module, units = self.concatenated()
        for unit in units:
            unit.current_choice = 2
        before = module.weight.detach().clone()
        flat = torch.zeros(5 + module._parameters["weight"].numel(), dtype=torch.float64)
        inside = flat[5:].view_as(module._parameters["weight"])
        inside.copy_(module._parameters["weight"].detach())
        module._parameters["weight"].data = inside
        counts = self.seen(monkeypatch)
        assert torch.equal(module.weight, before)
        assert set(counts) == {2}

    def test_passes_that_share_a_gradient(self, monkeypatch):
        module, units = self.concatenated()
        counts = self.seen(monkeypatch)
        choices = [(8, 4, 4, 4, 8), (4, 2, 2, 2, 4), (5, 1, 3, 2, 8), (6, 2, 4, 1, 2)]

        def loss() -> Tensor:
            total = torch.zeros((), dtype=torch.float64)
            for widths in choices:
                for unit, width in zip(units, widths, strict=True):
                    unit.current_choice = width
                inputs = module.channel_container(False).kept.numel()
                images = torch.randn(2, inputs, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
                total = total + module(images).square().sum()
            return total

        loss().backward()
        expected = gradients(module)
        module.zero_grad()
        counts.clear()
        with JointGradients(module, 1):
            total = loss()
        total.backward()
        torch.testing.assert_close(gradients(module), expected, rtol=1e-12, atol=1e-12)
        assert max(counts) > 1

    def test_small_ones_and_two_indices_go_by_index(self, monkeypatch):
        module, units = self.concatenated()
        for unit in units:
            unit.current_choice = 2
        counts = self.seen(monkeypatch)
        monkeypatch.setattr(blocks, "_ENTRIES", 1000)
        small = module.weight
        monkeypatch.setattr(blocks, "_ENTRIES", 1)
        units[-1].keep([1, 5])
        both = module.weight
        full, kept = module._parameters["weight"], module.channel_container(False).kept
        assert torch.equal(small, full[:2, kept])
        assert torch.equal(both, full[[1, 5]][:, kept])
        assert not any(counts)

    def test_what_is_found_out_is_not_pickled(self):
        index = IndexSelection(torch.tensor([0, 2, 4]))
        assert index.runs
        index.layouts["key"] = 1
        for copied in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
            assert copied == index
            assert not copied.layouts


class TestOneCopy:
    """An attention reads its weight several times in a forward pass."""

    @staticmethod
    def attention() -> nn.Module:
        torch.manual_seed(0)
        module = make_dynamic(nn.MultiheadAttention(8, 2, batch_first=True), {"in_proj_weight": (0,)})
        heads = SimpleMutableChannel(24)
        state_of(module).container("in_proj_weight[0]").register_mutable(heads)
        heads.current_choice = torch.arange(24) % 8 < 4
        return module

    def test_what_was_read_without_autograd_is_not_trained_on(self):
        module = self.attention()
        read = []

        def forward(self: nn.Module, query: Tensor) -> Tensor:
            with torch.no_grad():
                read.append(self.in_proj_weight)
            read.append(self.in_proj_weight)
            return query @ self.in_proj_weight.T

        with_one_copy(forward)(module, torch.randn(2, 3, 8)).sum().backward()
        assert [part.requires_grad for part in read] == [False, True]
        assert module._parameters["in_proj_weight"].grad[:4].all()

    def test_in_a_forward_and_no_longer(self):
        module = self.attention()
        reads = []
        plain = type(module).plain_class.forward

        def forward(self: nn.Module, query: Tensor) -> Tensor:
            reads.append([self.in_proj_weight, self.in_proj_weight])
            return query

        assert type(module).forward.__wrapped__ is plain
        for _ in range(2):
            with_one_copy(forward)(module, torch.randn(1))
        (a, b), (c, d) = reads
        assert a is b
        assert c is d
        assert a is not c
        assert state_of(module).live is None
        with pytest.raises(ZeroDivisionError):
            with_one_copy(lambda self: 1 / 0)(module)
        assert state_of(module).live is None
