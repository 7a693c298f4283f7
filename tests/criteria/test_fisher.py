"""The Fisher criterion against gates that a net is written with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels import build_criterion
from tests.criteria.nets import FIRST, SECOND, Residual, batch, chain, close, prepared


def collected(net: nn.Module, inputs: list[Any], loss: Callable[[Any], Tensor] | None = None) -> dict[str, Tensor]:
    _, units = prepared(net, inputs[0])
    criterion: Any = build_criterion({"type": "fisher", "normalizer": None})
    criterion.start(net, list(units.values()))
    for x in inputs:
        (loss or summed)(net(x)).backward()
        criterion.after_backward()
    criterion.stop()
    return {name: criterion(unit) for name, unit in units.items()}


def summed(outputs: Tensor) -> Tensor:
    return outputs.square().sum()


def gates(count: int, channels: int) -> Tensor:
    return torch.ones(count, channels, dtype=torch.float64, requires_grad=True)


def test_a_chain_by_hand() -> None:
    inputs = [batch(), batch(3) - 1]
    expected = [torch.zeros(3, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)]
    for x in inputs:
        net = chain()
        first, second = gates(len(x), 3), gates(len(x), 4)
        hidden = net[3](net[:3](x) * first[:, :, None, None]) * second[:, :, None, None]
        summed(net[4:](hidden)).backward()
        for total, gate in zip(expected, (first, second), strict=True):
            assert gate.grad is not None
            total += gate.grad.square().sum(0)
    scores = collected(chain(), inputs)
    assert close(scores[FIRST], expected[0].tolist())
    assert close(scores[SECOND], expected[1].tolist())


def test_the_layers_of_a_group_have_one_gate() -> None:
    """Three layers read the channels, one of them behind a sum: each layer's own gradient counts, not the sum's."""
    x = batch()
    own = [gates(5, 4) for _ in range(3)]
    summed(Residual()(x, own)).backward()
    expected = sum(gate.grad for gate in own if gate.grad is not None)
    assert isinstance(expected, Tensor)
    scores = collected(Residual(), [x])
    assert close(scores["stem_(0, 4)_4"], expected.square().sum(0).tolist())


def test_narrow_units_are_collected_where_they_are_active() -> None:
    net = chain()
    mutator, units = prepared(net, batch())
    criterion: Any = build_criterion({"type": "fisher", "normalizer": None})
    criterion.start(net, list(units.values()))
    units[FIRST].keep([0, 2])
    summed(net(batch())).backward()
    criterion.after_backward()
    criterion.stop()
    small = mutator.export()
    gate = gates(5, 2)
    summed(small[3:](small[:3](batch()) * gate[:, :, None, None])).backward()
    assert gate.grad is not None
    found = criterion(units[FIRST])
    assert torch.allclose(found[[0, 2]], gate.grad.square().sum(0), rtol=1e-10)
    assert found[1] == 0


class Folded(nn.Module):
    """One layer reads images, another each of their four windows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.whole, self.window = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)
        self.double()

    def forward(self, x: Tensor, gate: Any = 1.0) -> Tensor:
        hidden = self.stem(x) * gate  # (batch, 4, channels)
        windows = hidden.reshape(-1, 2, hidden.shape[-1])  # two of each sample
        return self.whole(hidden).tanh().sum() + self.window(windows).tanh().square().sum()


def test_windows_of_one_sample_belong_together() -> None:
    x = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gate = torch.ones(3, 1, 4, dtype=torch.float64, requires_grad=True)
    Folded()(x, gate).backward()
    assert gate.grad is not None
    scores = collected(Folded(), [x], lambda loss: loss)
    assert close(scores["stem_(0, 4)_4"], gate.grad.square().sum((0, 1)).tolist())


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(self.attention(x, x, x, need_weights=False)[0])


def test_a_layer_that_is_not_called_tells_the_sum_over_the_batch() -> None:
    """Its weights are read by a function: the gates on what they read are weight times gradient, summed."""
    x = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = Attention()
    summed(plain(x)).backward()
    by_place = torch.zeros(8, dtype=torch.float64)  # two places of each of the 4 heads, which the embedding has as well
    for weight in (plain.attention.in_proj_weight, plain.attention.out_proj.weight):
        assert weight.grad is not None
        by_place += (weight.detach() * weight.grad).sum(0)
    scores = collected(Attention(), [x])
    heads = next(score for name, score in scores.items() if len(score) == 4)
    assert close(heads, by_place.reshape(4, 2).sum(1).square().tolist())
    assert all(bool((score > 0).all()) for score in scores.values())


def test_behind_frozen_layers_the_weight_tells_the_sum_over_the_batch() -> None:
    net = chain()
    _, units = prepared(net, batch())
    net[:3].requires_grad_(False)
    criterion: Any = build_criterion({"type": "fisher", "normalizer": None})
    criterion.start(net, list(units.values()))
    summed(net(batch())).backward()
    criterion.after_backward()
    gate = gates(5, 3)
    plain = chain()
    summed(plain[3:](plain[:3](batch()) * gate[:, :, None, None])).backward()
    assert gate.grad is not None
    assert close(criterion(units[FIRST]), gate.grad.sum(0).square().tolist())
