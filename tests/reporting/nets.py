"""Small networks to report on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels import ChannelMutator, SearchResult, SearchSpace, search_subnets
from lightning_channels.units.choosing import Choice

__all__ = ["HIDDEN", "NASTY", "STREAM", "Residual", "attention", "hostile", "prepared", "searched", "twins"]

STREAM, HIDDEN = "stem_(0, 8)_8", "conv1_(0, 12)_12"

NASTY = (
    "</script><script>hacked = 1</script>",
    "<img src=x onerror='hacked = 2'>",
    "\"'`${hacked = 3}--><!--",
    "\u2028\u2029&lt;b&gt;\\u003c",
)


class Residual(nn.Module):
    """A stem, a block around which its input is added to its output, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv1, self.conv2 = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.stem(images))
        x = x + self.conv2(torch.relu(self.conv1(x)))
        return self.head(x.mean((2, 3)))


def prepared(model: nn.Module | None = None, example: Tensor | None = None, **settings: object) -> ChannelMutator:
    """A mutator of a model, of the residual one by default; its units have a divisor of 2."""
    torch.manual_seed(0)
    cfg = {"type": "SequentialMutableChannelUnit", "default_args": {"divisor": 2, **settings}}
    mutator = ChannelMutator(cfg)
    mutator.prepare_from_supernet(model or Residual(), torch.randn(2, 3, 8, 8) if example is None else example)
    return mutator


def attention() -> ChannelMutator:
    """A transformer's layer, of whose four heads two are kept."""
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
    mutator = prepared(nn.Sequential(nn.Linear(6, 16), layer, nn.Linear(16, 2)), torch.randn(2, 5, 6))
    heads = next(unit for unit in mutator.mutable_units if unit.num_channels == 4)
    mutator.set_choices({heads.name: 2})
    return mutator


def hostile() -> ChannelMutator:
    """A model whose class and modules bear names that would be markup if they weren't told apart from it."""
    inner = nn.Sequential()
    for name in NASTY:
        inner.add_module(name, nn.Linear(4, 4))
    model = type("</title><script>hacked = 4</script>", (nn.Sequential,), {})(inner, nn.Linear(4, 2))
    return prepared(model, torch.randn(1, 4))


class Spare(nn.Module):
    """Has a square layer that isn't used."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.head, self.spare = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.used(x)))


def twins() -> ChannelMutator:
    """A model with two units of one name, the two sides of its spare layer."""
    return prepared(Spare(), torch.randn(2, 4))


def searched(mutator: ChannelMutator, mode: str = "max") -> SearchResult:
    """A search over a residual network; half of its candidates are over the limit, and no two score the same."""

    def evaluate(choices: Mapping[str, Choice]) -> dict[str, float]:
        widths = [mutator.name2unit[name].check_choice(choice) for name, choice in choices.items()]
        score = sum(width / (place + 7) for place, width in enumerate(widths)) % 1
        loss = {} if widths[0] == 8 else {"val_loss": 1.5 - score}  # what wasn't finite is missing
        return {"val_acc": score, "constructor": float(widths[0]), **loss}

    space = SearchSpace(mutator)
    found = search_subnets(space, evaluate, "random", mode=mode, objectives=("macs",), budget=16, seed=1)
    limits = {"macs": sorted(candidate.resources["macs"] for candidate in found.candidates)[8]}
    data = found.to_dict()
    within = [at for at, own in enumerate(data["candidates"]) if own["resources"]["macs"] <= limits["macs"]]
    return SearchResult.from_dict({**data, **_ranked(data, within, mode), "limits": limits})


def _ranked(data: dict[str, Any], within: list[int], mode: str) -> dict[str, Any]:
    sign = 1 if mode == "max" else -1
    score = {at: sign * data["candidates"][at]["metrics"]["val_acc"] for at in within}
    cost = {at: data["candidates"][at]["resources"]["macs"] for at in within}
    front = [a for a in within if not any(cost[b] <= cost[a] and score[b] >= score[a] for b in within if b != a)]
    return {"best": max(within, key=lambda at: score[at]), "front": front}
