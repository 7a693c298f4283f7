"""The backward tracer finds in torchvision's classifiers what the forward tracer finds."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torchvision
from backward_checks import assert_same_units, facts

from lightning_channels import BackwardTracer, ForwardTracer, ModuleGraph
from lightning_channels.tracing import costs

MODELS = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_b1", "efficientnet_v2_s",
    "googlenet", "inception_v3", "mnasnet0_5", "mnasnet1_0", "mobilenet_v2", "mobilenet_v3_large",
    "mobilenet_v3_small", "regnet_x_1_6gf", "regnet_x_400mf", "regnet_y_400mf", "regnet_y_800mf", "resnet18",
    "resnet34", "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x2_0",
    "squeezenet1_0", "squeezenet1_1", "swin_t", "vgg11", "vgg16_bn", "vit_b_16", "wide_resnet50_2",
)  # fmt: skip
SIZES = {"inception_v3": 75}
WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")


def build(name: str) -> torch.nn.Module:
    arguments = {"image_size": 64} if name.startswith("vit") else {}
    if name in WITH_AUXILIARY_HEADS:
        arguments = {"init_weights": False}
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None, **arguments)


def macs(graph: ModuleGraph) -> Counter[str]:
    return sum((Counter({cost.module: cost.full(graph.program)}) for cost in costs.macs(graph.program)), Counter())


@pytest.mark.parametrize("name", MODELS)
def test_same_units(name: str) -> None:
    size = SIZES.get(name, 64)
    forward, backward = assert_same_units(build(name), torch.randn(1, 3, size, size))
    assert backward.unruled == []
    assert macs(backward) == macs(forward)


def test_what_is_written_into_parts_of_tensors_is_left_out() -> None:
    """Swin V2 zeroes a part of a bias in place: what depends on that is pinned and reported, and nothing else."""
    model, inputs = build("swin_v2_t"), torch.randn(1, 3, 64, 64)
    graph = BackwardTracer().trace(model, inputs)
    expected, found = facts(ForwardTracer().trace(model, inputs)), facts(graph)
    missing = [name for name, own in expected.items() if own["mutable"] and found.get(name) != own]
    for name in missing:
        assert any(".attn." in str(channel) for channel in expected[name]["channels"]), name
    assert any(own["mutable"] and ".attn." not in name for name, own in found.items())
    assert {op for op, _ in graph.unruled} == {"CopySlices"}
