"""Compiled networks: right at each width, and compiled once for all of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from lightning_channels import ChannelMutator, ChannelPruning, export_subnet
from tests.callbacks.nets import UNITS, Classifier, Watch, conv_net, loader, trainer
from tests.robust.compiled_nets import PREFIXES, Dense, Grouped, Norms

WIDTHS = 16

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.compile warns about much in torch's and Lightning's own code


@pytest.fixture(autouse=True)
def _no_compiled_code() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def prepared(model: nn.Module, x: Tensor) -> ChannelMutator:
    # a size of one is compiled apart, by PyTorch's rule for all sizes
    mutator = ChannelMutator({"type": "SequentialMutableChannelUnit", "default_args": {"min_value": 2}})
    mutator.prepare_from_supernet(model, x)
    return mutator


def one_pass(call: Callable[[Tensor], Tensor], model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Everything that a training pass gives or changes; the model is as before."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.zero_grad()
    output = call(x)
    output.square().sum().backward()
    gradients = {f"grad of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    found = {"output": output, **gradients, **model.state_dict()}
    found = {name: tensor.detach().clone() for name, tensor in found.items()}
    model.load_state_dict(before)
    return found


def compilations(model: nn.Module, x: Tensor, backend: str, draws: list[str]) -> int:
    """Run the compiled model at each width, beside the model itself."""
    mutator, counter = prepared(model, x), CompileCounterWithBackend(backend)
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    rng = random.Random(1)
    for kind in draws:
        choices = mutator.sample_choices(kind, rng)
        if kind == "random" and backend != "eager":  # narrower than the widest in each unit
            widest = mutator.sample_choices("max")
            choices = {name: min(choice, widest[name] - 1) for name, choice in choices.items()}
        mutator.set_choices(choices)
        torch.testing.assert_close(one_pass(compiled, model, x), one_pass(model, model, x), rtol=1e-4, atol=1e-5)
    return counter.frame_count


@pytest.mark.parametrize("name", PREFIXES)
def test_one_compilation_for_all_widths(name: str) -> None:
    torch.manual_seed(0)
    build, shape = PREFIXES[name]
    draws = ["max", "min", *["random"] * (WIDTHS - 2)]
    assert compilations(build(), torch.randn(shape), "eager", draws) == 1


@pytest.mark.parametrize("name", ["norms", "concatenated"])
def test_autograd_is_compiled_twice_at_most(name: str) -> None:
    """Once where no unit is at full width, and once where all are."""
    torch.manual_seed(0)
    build, shape = PREFIXES[name]
    draws = [*["random"] * (WIDTHS - 2), "max", "random"]
    assert compilations(build(), torch.randn(shape), "aot_eager", draws) <= 2


@pytest.mark.slow
def test_inductor() -> None:
    torch.manual_seed(0)
    assert compilations(Dense(), torch.randn(4, 6), "inductor", ["random", "max", *["random"] * (WIDTHS - 2)]) <= 2


def test_what_keeps_no_prefix_is_right_too() -> None:
    """The same channels of each group, and any channels."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4)
    for model, keep in ((Grouped(), None), (Norms(), [0, 3, 5])):
        mutator, rng = prepared(model, x), random.Random(0)
        compiled = torch.compile(model, backend="eager")
        for _ in range(3):
            mutator.set_choices(mutator.sample_choices("random", rng))
            if keep is not None:
                mutator.mutable_units[0].keep(keep)
            torch.testing.assert_close(one_pass(compiled, model, x), one_pass(model, model, x), rtol=1e-4, atol=1e-5)


# --- compiled before it is prepared ----------------------------------------------------------------------------------


def in_place(net: nn.Sequential) -> nn.Module:
    net.compile(backend="eager")
    return net


def inside(net: nn.Sequential) -> nn.Module:
    net[0] = torch.compile(net[0], backend="eager")
    return net


@pytest.mark.parametrize("way", [in_place, inside, lambda net: torch.compile(net, backend="eager")])
def test_compiled_first(way: Callable[[nn.Sequential], nn.Module]) -> None:
    """Prepared as the plain one is; what is exported, or copied, doesn't call the model that it comes from."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6)
    model = way(conv_net(dropout=0.0).eval())
    mutator = prepared(model, x)
    assert [unit.num_channels for unit in mutator.mutable_units] == [8, 12]
    mutator.set_choices(dict.fromkeys(mutator.current_choices, 5))
    expected, static = model(x), export_subnet(model)
    mutator.set_choices(mutator.sample_choices("min"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    torch.testing.assert_close(static(x), expected)


# --- trained ---------------------------------------------------------------------------------------------------------


class Compilations(L.Callback):
    """How often there was something to compile, after each batch."""

    def __init__(self) -> None:
        self.backend = CompileCounterWithBackend("eager")
        self.after: list[int] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.after.append(self.backend.frame_count)


def whole(module: Classifier, backend: Any) -> Any:
    return torch.compile(module, backend=backend)


def inner(module: Classifier, backend: Any) -> Any:
    module.net.compile(backend=backend)
    return module


WAYS = pytest.mark.parametrize("way", [whole, inner])


def trained(path: Path, way: Any, *pruning: ChannelPruning, epochs: int = 3) -> tuple[Classifier, list[int]]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    module, counter = Classifier(conv_net(dropout=0.0)), Compilations()
    trainer(path, *pruning, counter, max_epochs=epochs).fit(
        way(module, counter.backend), loader(shuffle=False), loader(shuffle=False)
    )
    return module, counter.after


@WAYS
def test_the_widest_is_the_run_without_the_callback(tmp_path: Path, way: Any) -> None:
    """Bit for bit, and with as many compilations."""
    plain, expected = trained(tmp_path, way)
    pruned, found = trained(tmp_path, way, ChannelPruning(sampler="max"))
    assert found == expected
    assert all(torch.equal(*pair) for pair in zip(plain.parameters(), pruned.parameters(), strict=True))
    assert all(torch.equal(*pair) for pair in zip(plain.buffers(), pruned.buffers(), strict=True))


@WAYS
def test_training_at_random_widths(tmp_path: Path, way: Any) -> None:
    """As in a run that isn't compiled, with two compilations more than at one width at most."""
    unit = {"type": "SequentialMutableChannelUnit", "min_value": 2}
    expected, _ = trained(tmp_path, lambda module, backend: module, ChannelPruning(unit=unit))
    _, fewest = trained(tmp_path, way)
    pruning = ChannelPruning(unit=unit)
    module, found = trained(tmp_path, way, pruning)
    assert list(pruning.mutator.current_choices) == UNITS
    assert len(found) > WIDTHS
    assert found[-1] <= fewest[-1] + 2
    torch.testing.assert_close(module.state_dict(), expected.state_dict())


def test_a_sandwich_wants_the_net_compiled_and_not_the_module(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="Compile the net and not the LightningModule"):
        trained(tmp_path, whole, ChannelPruning(sampler="sandwich"))


@pytest.mark.parametrize("memory", ["fast", "lean"])
def test_a_sandwich_of_a_compiled_net(tmp_path: Path, memory: Any) -> None:
    expected, _ = trained(
        tmp_path, lambda module, backend: module, ChannelPruning(sampler="sandwich", memory=memory), epochs=1
    )
    pruning = ChannelPruning(sampler="sandwich", memory=memory)
    module, found = trained(tmp_path, inner, pruning, epochs=1)
    assert found[-1] <= 5
    torch.testing.assert_close(module.state_dict(), expected.state_dict())


def test_evaluation_of_a_compiled_module(tmp_path: Path) -> None:
    """Each width of validate=, in a compiled validation_step."""
    seen = []
    for way in (lambda module, backend: module, whole):
        pruning = ChannelPruning(sampler="max", validate=["min", 0.5])
        watch, run = Watch(pruning), None
        torch._dynamo.reset()
        torch.manual_seed(0)
        module = Classifier(conv_net(dropout=0.0))
        run = trainer(tmp_path, pruning, watch)
        run.fit(way(module, "eager"), loader(shuffle=False), loader(shuffle=False))
        seen.append({name: float(value) for name, value in run.callback_metrics.items() if "val" in name})
    assert sorted(seen[0]) == ["val_loss", "val_loss/0.5", "val_loss/min"]
    assert seen[1] == pytest.approx(seen[0], rel=1e-4)
