"""What is shared stays shared: tied weights, modules called twice; and statistics of the active channels alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_channels import ChannelMutator, ChannelPruning, export_subnet
from tests.callbacks.nets import Classifier, conv_net, loader, trainer


class Words(nn.Module):
    """An embedding whose weight is the head's too, around a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.again = self.up

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        x = x + self.down(F.relu(self.up(x)))
        return self.head(x + self.down(F.relu(self.again(x))))


class Language(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = Words()

    def forward(self, words: Tensor) -> Tensor:
        return self.net(words)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]).flatten(0, 1), batch[0].flatten())

    def train_dataloader(self) -> Any:
        words = torch.randint(11, (12, 5), generator=torch.Generator().manual_seed(1))
        return DataLoader(TensorDataset(words), batch_size=3)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.05)


def is_tied(net: Words) -> bool:
    return net.embed._parameters["weight"] is net.head._parameters["weight"] and net.up is net.again


def test_tied_at_the_widest_is_the_run_without_the_callback(tmp_path: Path) -> None:
    plain, module = Language(), Language()
    trainer(tmp_path).fit(plain)
    trainer(tmp_path, ChannelPruning(sampler="max")).fit(module)
    assert is_tied(module.net)
    assert list(module.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(*pair) for pair in zip(plain.parameters(), module.parameters(), strict=True))


@pytest.mark.parametrize("sampler", ["random", "sandwich"])
def test_tied_and_narrow(tmp_path: Path, sampler: str) -> None:
    module, pruning = Language(), ChannelPruning(sampler=sampler, update_inactive=False)
    trainer(tmp_path, pruning).fit(module)
    assert is_tied(module.net)
    mutator = pruning.mutator
    assert sorted(unit.num_channels for unit in mutator.mutable_units) == [8, 12]
    mutator.set_choices({unit.name: unit.num_channels // 2 for unit in mutator.mutable_units})
    words = torch.arange(11)[None]
    small = export_subnet(module.net.eval())
    assert is_tied(small)  # type: ignore[arg-type]
    assert small.head.weight.shape == (11, 4)
    torch.testing.assert_close(small(words), module.net(words))
    module.zero_grad()
    module.net(words).sum().backward()
    gradient = module.net.embed._parameters["weight"].grad
    assert gradient is not None
    assert bool(gradient[:, :4].any())
    assert not bool(gradient[:, 4:].any())


@pytest.mark.parametrize("kept", [[1, 4, 6], [0, 1, 2]])
def test_statistics_of_inactive_channels_stay_bit_for_bit(tmp_path: Path, kept: list[int]) -> None:
    """In training by a trainer: running statistics of the kept channels move, those of the others don't."""

    class Keep(L.Callback):
        def on_train_batch_start(self, run: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            pruning.mutator.mutable_units[0].keep(kept)

    module, pruning = Classifier(conv_net(dropout=0.0)), ChannelPruning(sampler="max")
    norm = module.net[1]
    for buffer in (norm.running_mean, norm.running_var):
        assert isinstance(buffer, Tensor)
        buffer.uniform_(1, 2)
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    trainer(tmp_path, pruning, Keep()).fit(module, loader())
    others = [channel for channel in range(8) if channel not in kept]
    after = norm.state_dict()
    for name in ("running_mean", "running_var"):
        assert torch.equal(after[name][others], before[name][others])
        assert not bool((after[name][kept] == before[name][kept]).any())
    assert int(after["num_batches_tracked"]) == 6


def test_statistics_of_any_channels_are_those_of_the_static_net() -> None:
    """After some steps at the same channels, whether trained narrow or cut first."""
    torch.manual_seed(0)
    model, batches = conv_net(dropout=0.0), torch.randn(4, 8, 3, 6, 6)
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, batches[0])
    for unit, kept in zip(mutator.mutable_units, ([0, 3, 7], [1, 2, 5, 11]), strict=True):
        unit.keep(kept)
    static = export_subnet(model)
    for net in (model, static):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for x in batches:
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(dict(export_subnet(model).state_dict()), dict(static.state_dict()))
