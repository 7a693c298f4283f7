"""GroupFisher: which channel goes, against the paper's formula written out."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_channels import ChannelPruning, GroupFisherChannelMutator, GroupFisherChannelUnit, build
from tests.callbacks.nets import trainer
from tests.callbacks.pruned import Kept

SIZES = (3, 4, 5, 2)
INTERVAL, BATCH, DROPPED = 2, 6, 4


class Module(L.LightningModule):
    """Whose weights stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        one, two, three = (nn.Linear(*sizes) for sizes in pairwise(SIZES))
        self.net = nn.Sequential(one, nn.ReLU(), two, nn.ReLU(), three)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def batches() -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    count = INTERVAL * DROPPED + 1
    x, y = torch.randn(count * BATCH, 3, generator=generator), torch.randint(2, (count * BATCH,), generator=generator)
    return list(DataLoader(TensorDataset(x, y), batch_size=BATCH))


def information(net: nn.Sequential, masks: list[Tensor], batch: Any) -> list[Tensor]:
    """For each unit the sum over the samples of the squared gradients of gates on its channels."""
    x, y = batch
    gates = [mask.repeat(BATCH, 1).requires_grad_() for mask in masks]
    one, two, three = (net[at] for at in (0, 2, 4))
    hidden = F.linear(x, one.weight, one.bias).relu() * gates[0]
    hidden = F.linear(hidden, two.weight, two.bias).relu() * gates[1]
    F.cross_entropy(F.linear(hidden, three.weight, three.bias), y).backward()
    return [gate.grad.square().sum(0) for gate in gates]  # type: ignore[union-attr]


def by_hand(per: str) -> list[list[int]]:
    """The channels of both units that are left at each step."""
    net = Module().net
    masks = [torch.ones(4), torch.ones(5)]
    sums, found = [torch.zeros(4), torch.zeros(5)], []
    for number, batch in enumerate(batches()):
        if number and number % INTERVAL == 0:
            first, second = (int(mask.sum()) for mask in masks)
            # of one channel less: its own row of one matrix, and its column in the next; with its bias in parameters
            saved = [3 + second, first + 2] if per == "flops" else [3 + second + 1, first + 2 + 1]
            scores = [own / cost + (1 - mask) * 1e9 for own, cost, mask in zip(sums, saved, masks, strict=True)]
            unit = min((0, 1), key=lambda at: float(scores[at].min()))
            masks[unit][int(scores[unit].argmin())] = 0
            sums = [torch.zeros(4), torch.zeros(5)]
        found.append([mask.nonzero().flatten().tolist() for mask in masks])
        sums = [own + more for own, more in zip(sums, information(net, masks, batch), strict=True)]
    return found


@pytest.mark.parametrize("per", ["flops", "params"])
def test_the_channel_that_goes_is_the_formula_s(tmp_path: Path, per: str) -> None:
    pruning = ChannelPruning(
        mutator={"type": "GroupFisherChannelMutator"},
        module="net",
        target={"flops": 0.3},
        schedule={"type": "greedy", "per": per, "interval": INTERVAL},
    )
    run = trainer(tmp_path, pruning, watch := Kept(pruning))
    with pytest.warns(UserWarning, match="before the pruning did"):  # which would end beside the formula's way
        run.fit(Module(), DataLoader(batches(), batch_size=None))
    found = [list(step.values()) for step in watch.train]
    assert found == by_hand(per)
    assert sum(map(len, found[-1])) == 9 - DROPPED


def test_the_mutator_says_how_it_is_pruned() -> None:
    pruning = ChannelPruning(mutator={"type": "group_fisher"}, target={"flops": 0.5})
    assert type(pruning.pruner.criterion).__name__ == "FisherCriterion"
    assert pruning.pruner.timing.interval == 10
    other = ChannelPruning(mutator={"type": "group_fisher"}, target={"flops": 0.5}, criterion="l1", schedule="linear")
    assert type(other.pruner.criterion).__name__ == "L1Criterion"


def test_types_and_templates() -> None:
    mutator = GroupFisherChannelMutator({"default_args": {"divisor": 2}})
    mutator.prepare_from_supernet(Module().net, torch.randn(2, 3))
    assert all(type(unit) is GroupFisherChannelUnit for unit in mutator.units)
    assert all(unit.divisor == 2 for unit in mutator.units)
    template = mutator.config_template()
    assert template["type"] == "GroupFisherChannelMutator"
    assert build(template).unit_config.unit_class is GroupFisherChannelUnit
