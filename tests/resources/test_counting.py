"""Counts at any choice against torch's own counter on the exported model."""

from __future__ import annotations

import pytest
import torch
from invariants import narrow
from torch.utils.flop_counter import FlopCounterMode
from zoo import ZOO, Entry

from lightning_channels import ChannelMutator, PrepareError, ResourceCounter, count_resources, export_subnet

NAMES = {"toy", "everything", "resnet18", "resnext50_32x4d", "mobilenet_v3_small", "shufflenet_v2_x1_0", "densenet121"}


@pytest.mark.parametrize("entry", [entry for entry in ZOO if entry.name in NAMES], ids=str)
def test_counts_equal_those_of_the_exported_model(entry: Entry) -> None:
    model, inputs = entry.build().eval(), entry.inputs()
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, inputs)
    counter = ResourceCounter(mutator)
    assert counter.active_macs() == counter.total_macs
    assert counter.active_params() == counter.total_params == sum(p.numel() for p in model.parameters())
    for seed in range(3):
        narrow(mutator, seed, prefix=seed % 2 == 0)
        exported = export_subnet(model)
        with FlopCounterMode(display=False) as flops, torch.no_grad():
            exported(inputs)
        assert counter.active_macs() * 2 == flops.get_total_flops()
        assert counter.active_params() == sum(p.numel() for p in exported.parameters())
    counted = count_resources(model)
    assert (counted["macs"], counted["params"]) == (counter.active_macs(), counter.active_params())
    assert counter.active_macs() < counter.total_macs


def test_a_plain_model_is_refused() -> None:
    with pytest.raises(PrepareError, match="isn't prepared"):
        count_resources(torch.nn.Linear(2, 2))
