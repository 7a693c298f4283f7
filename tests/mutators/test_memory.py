"""What a prepared model takes beside its tensors, and what preparing leaves in the process."""

from __future__ import annotations

import gc
import sys
import tracemalloc

import torch
from torch import Tensor, nn

from lightning_channels import ChannelMutator
from lightning_channels._modules import modules_of
from lightning_channels.dynamic_ops import is_dynamic


class Dense(nn.Module):
    """Each layer reads the channels of all before it."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(4 * (i + 1)), nn.Conv2d(4 * (i + 1), 4, 1)) for i in range(layers)
        )
        self.head = nn.Conv2d(4 * (layers + 1), 2, 1)
        self.stem = nn.Conv2d(3, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        found = [self.stem(images)]
        for layer in self.layers:
            found.append(layer(torch.cat(found, 1)))
        return self.head(torch.cat(found, 1))


def chain(layers: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), *(m for _ in range(layers) for m in (nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)))
    )


def taken(model: nn.Module) -> float:
    """Bytes of Python objects for each dynamic op."""
    images = torch.randn(1, 3, 4, 4)
    tracemalloc.start()
    try:
        mutator = ChannelMutator()
        mutator.prepare_from_supernet(model, images)
        sys._clear_type_cache()  # the interpreter's, of names that were looked up
        gc.collect()
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    return size / sum(map(is_dynamic, modules_of(model)))


def test_a_prepared_model_takes_little_more_than_a_plain_one() -> None:
    """A kilobyte for each op, were its tensors none; and not much more where each has many units' channels."""
    taken(chain(1)), taken(Dense(1))  # what is made once in a process
    assert taken(chain(12)) < 1500
    assert taken(Dense(12)) < 2500


def test_no_seed_waits_for_devices_that_are_started_later() -> None:
    """It would be used in the place of the one that was set before."""
    torch.manual_seed(7)
    waiting = list(torch.cuda._queued_calls), torch.cuda._lazy_seed_tracker.get_calls()
    ChannelMutator().prepare_from_supernet(chain(1), torch.randn(1, 3, 4, 4))
    assert (list(torch.cuda._queued_calls), torch.cuda._lazy_seed_tracker.get_calls()) == waiting
