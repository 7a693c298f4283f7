"""channels_last: inputs, weights, all that flows through the net, gradients, and what is exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_channels import ChannelMutator, ChannelPruning, export_subnet
from tests.callbacks.nets import Classifier, conv_net, images, trainer

LAST = torch.channels_last


class Net(nn.Sequential):
    """Convolutions with and without groups, a norm, a transposed one."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.Conv2d(8, 6, 1),
            nn.ConvTranspose2d(6, 10, 2, stride=2),
            nn.GroupNorm(1, 10),
            nn.Conv2d(10, 4, 3),
        )


def flows(model: nn.Module, x: Tensor) -> dict[str, tuple[int, ...]]:
    """The strides of each module's output and of each weight's gradient."""
    found: dict[str, tuple[int, ...]] = {}
    hooks = [
        module.register_forward_hook(lambda m, args, output, name=name: found.update({name: output.stride()}))  # type: ignore[misc]
        for name, module in model.named_modules()
    ]
    model.zero_grad()
    model(x).square().sum().backward()
    for hook in hooks:
        hook.remove()
    return found | {f"grad {name}": p.grad.stride() for name, p in model.named_parameters() if p.grad is not None}


def build(weights: bool) -> nn.Module:
    torch.manual_seed(0)
    return Net().to(memory_format=LAST) if weights else Net()


def data(inputs: bool) -> Tensor:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return x.to(memory_format=LAST) if inputs else x


BOTH = pytest.mark.parametrize(("weights", "inputs"), [(True, True), (True, False), (False, True)])


@BOTH
def test_at_full_width_everything_lies_as_in_the_plain_net(weights: bool, inputs: bool) -> None:
    plain, model, x = build(weights), build(weights), data(inputs)
    ChannelMutator().prepare_from_supernet(model, x)
    assert flows(model, x) == flows(plain, x)


@BOTH
@pytest.mark.parametrize("kind", ["prefix", "index"])
def test_a_narrow_net_lies_as_its_export(weights: bool, inputs: bool, kind: str) -> None:
    model, x = build(weights), data(inputs)
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, x)
    for unit in mutator.mutable_units:
        unit.keep(list(range(unit.num_channels // 2)) if kind == "prefix" else list(range(0, unit.num_channels, 2)))
    small = export_subnet(model)
    for name, module in small.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            assert module.weight.is_contiguous(memory_format=LAST if weights else torch.contiguous_format), name
    narrow, static = flows(model, x), flows(small, x)
    outputs = [name for name in narrow if not name.startswith("grad")]
    assert {name: narrow[name] for name in outputs} == {name: static[name] for name in outputs}
    torch.testing.assert_close(model(x), small(x))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        strides = zip(parameter.shape, parameter.grad.stride(), parameter.stride(), strict=True)
        assert all(size == 1 or given == expected for size, given, expected in strides), name


def test_training_at_the_widest_is_the_run_without_the_callback(tmp_path: Path) -> None:
    """The format of weights, momentum and inputs included."""
    modules, states = [], []
    for callbacks in ([], [ChannelPruning(sampler="max")]):
        torch.manual_seed(0)
        module = Classifier(conv_net(dropout=0.0)).to(memory_format=LAST)
        batches = [(x.unsqueeze(0).to(memory_format=LAST), y.unsqueeze(0)) for x, y in images(8)]
        batches = [
            (torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(batches[::2], batches[1::2], strict=True)
        ]
        run = trainer(tmp_path, *callbacks)
        run.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
        modules.append(module)
        states.append([tensor["momentum_buffer"] for tensor in run.optimizers[0].state.values()])
    plain, pruned = ([*module.state_dict().values(), *state] for module, state in zip(modules, states, strict=True))
    for one, other in zip(plain, pruned, strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()
