"""Copies of prepared modules: independent of the original, with a mutator of their own."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from lightning_channels import ChannelMutator, ChannelPruning, export_subnet
from lightning_channels.mutators import find_mutator
from tests.callbacks.nets import UNITS, Classifier, conv_net, loader, trainer
from tests.robust.compiled_nets import PREFIXES

WAYS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


def saved(model: Any, path: Path) -> Any:
    torch.save(model, path)
    return torch.load(path, weights_only=False)


def prepared(name: str) -> tuple[nn.Module, ChannelMutator, Tensor]:
    torch.manual_seed(0)
    build, shape = PREFIXES[name]
    model, x = build(), torch.randn(shape)
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, x)
    return model.eval(), mutator, x


def steer(mutator: ChannelMutator, kind: str) -> None:
    """Half of each unit's channels: the first ones, or others."""
    for unit in mutator.mutable_units:
        half = range(1, unit.num_channels, 2) if kind == "index" else range(unit.num_channels // 2)
        unit.keep(list(half))


@pytest.mark.parametrize("way", [*WAYS, "save"])
@pytest.mark.parametrize("kind", ["prefix", "index"])
@pytest.mark.parametrize("name", PREFIXES)
def test_a_copy_and_its_original_go_ways_of_their_own(tmp_path: Path, name: str, kind: str, way: str) -> None:
    model, mutator, x = prepared(name)
    steer(mutator, kind)
    twin = saved(model, tmp_path / "model.pt") if way == "save" else WAYS[way](model)
    other = find_mutator(twin)
    assert other is not None
    assert other is not mutator
    assert other.current_choices == mutator.current_choices
    narrow = model(x)
    torch.testing.assert_close(twin(x), narrow, rtol=0, atol=0)
    other.set_choices(other.sample_choices("max"))
    full = twin(x)
    assert not torch.equal(full, narrow)
    assert torch.equal(model(x), narrow)
    mutator.set_choices(mutator.sample_choices("max"))
    assert torch.equal(model(x), full)
    mutator.set_choices(mutator.sample_choices("min"))
    assert torch.equal(twin(x), full)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(twin(x), full)
    steer(other, kind)
    torch.testing.assert_close(export_subnet(twin)(x), narrow)
    other.restore()
    assert torch.equal(twin(x), full)
    assert find_mutator(model) is mutator


def test_a_mutator_and_its_model_are_copied_together() -> None:
    """Whichever of the two is copied."""
    model, mutator, x = prepared("norms")
    other = copy.deepcopy(mutator)
    assert other.model is not model
    other.set_choices(other.sample_choices("min"))
    assert mutator.current_choices == mutator.sample_choices("max")
    model_twin, mutator_twin = copy.deepcopy((model, mutator))
    assert mutator_twin.model is model_twin
    mutator_twin.set_choices(mutator_twin.sample_choices("min"))
    assert torch.equal(model_twin(x), other.model(x))
    assert not torch.equal(model(x), model_twin(x))


def test_a_shallow_copy_shares_what_a_plain_one_shares() -> None:
    """Parameters and submodules; and the widths, which are theirs."""
    model, mutator, x = prepared("norms")
    for original in (model, model[0]):  # type: ignore[index]
        shallow = copy.copy(original)
        assert type(shallow) is type(original)
        assert all(a is b for a, b in zip(shallow.parameters(), original.parameters(), strict=True))
        for kind in ("min", "max"):
            mutator.set_choices(mutator.sample_choices(kind))
            assert torch.equal(shallow(x), original(x))


def test_a_part_of_a_prepared_model() -> None:
    """Alone it keeps its width; nobody else's units change with it."""
    model, mutator, x = prepared("norms")
    mutator.set_choices({mutator.mutable_units[0].name: 4})
    part = copy.deepcopy(model[0])  # type: ignore[index]
    expected = part(x)
    mutator.set_choices(mutator.sample_choices("max"))
    assert torch.equal(part(x), expected)
    assert expected.shape[1] == 4


def test_a_trained_module_and_its_copy(tmp_path: Path) -> None:
    """The copy of a LightningModule is trained by a callback of its own."""
    module, pruning = Classifier(conv_net(dropout=0.0)), ChannelPruning(seed=1)
    trainer(tmp_path, pruning, max_steps=1).fit(module, loader(shuffle=False))
    twin, own = copy.deepcopy(module), ChannelPruning(seed=1)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    trainer(tmp_path, own).fit(twin, loader(shuffle=False))
    assert own.mutator.model is twin
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    trainer(tmp_path, pruning).fit(module, loader(shuffle=False))
    assert all(torch.equal(*pair) for pair in zip(twin.parameters(), module.parameters(), strict=True))


def test_copied_and_pickled_in_the_middle_of_a_run(tmp_path: Path) -> None:
    class Copying(L.Callback):
        def on_train_batch_end(self, run: Any, pl_module: Any, *args: Any) -> None:
            self.twins = [way(pl_module.net) for way in WAYS.values()]
            self.copied = copy.deepcopy(pl_module)

    module, pruning, copying = Classifier(conv_net(dropout=0.0)), ChannelPruning(sampler="sandwich"), Copying()
    trainer(tmp_path, pruning, copying, max_steps=2).fit(module, loader())
    assert "training_step" not in vars(module)
    x = torch.randn(2, 3, 6, 6)
    full = module.eval()(x)
    pruning.mutator.set_choices(pruning.mutator.sample_choices("min"))
    for twin in (*copying.twins, copying.copied):
        torch.testing.assert_close(twin.eval()(x), full, rtol=0, atol=0)


def narrow_elsewhere(rank: int, model: nn.Module, x: Tensor, expected: Tensor) -> None:
    """In a spawned process, which gets pickles; parameters come in shared memory."""
    torch.set_num_threads(1)
    torch.testing.assert_close(model(x), expected)
    mutator = find_mutator(model)
    assert mutator is not None
    assert list(mutator.current_choices) == UNITS
    assert all(p.is_shared() for p in model.parameters())
    mutator.set_choices(mutator.sample_choices("min"))
    assert model.net[0](x).shape[1] == 1  # type: ignore[operator, index, union-attr]
    with torch.no_grad():
        model.net[9]._parameters["bias"].fill_(7.0)  # type: ignore[union-attr, index]


def test_in_a_spawned_process() -> None:
    model, x = Classifier(conv_net(dropout=0.0)).eval(), torch.randn(2, 3, 6, 6)
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, x)
    mutator.set_choices(mutator.sample_choices("min"))
    torch.multiprocessing.spawn(narrow_elsewhere, (model, x, model(x).detach()), nprocs=1)
    assert model.net[9].bias.tolist() == [7.0] * 4  # type: ignore[union-attr, index, operator]


def test_what_does_not_pickle_plain_does_not_pickle_prepared() -> None:
    class Local(nn.Sequential):
        pass

    model = Local(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(model)
    ChannelMutator().prepare_from_supernet(model, torch.randn(2, 3))
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(model)
    assert type(copy.deepcopy(model)) is Local
