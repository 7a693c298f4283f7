"""Unit counts and sizes that are published with the reference's configs."""

from __future__ import annotations

import pytest
import torch
import torchvision

from lightning_channels import ForwardTracer, SequentialMutableChannelUnit

AUTOSLIM_SIZES = [
    48, 24, 144, 40, 240, 240, 48, 288, 288, 288, 96, 576, 576, 576, 576, 144, 864, 864, 864, 240, 1440, 1440, 1440,
    480, 1920,
]  # fmt: skip


def units(name: str, **kwargs: float) -> list[SequentialMutableChannelUnit]:
    model = torchvision.models.get_model(name, weights=None, **kwargs)
    graph = ForwardTracer(input_shape=(1, 3, 64, 64)).trace(model)
    assert graph.unruled == []
    return SequentialMutableChannelUnit.init_from_graph(graph)


@pytest.mark.parametrize(
    ("name", "mutable", "every"),
    [
        ("resnet34", 20, 22),
        ("resnet101", 71, 73),
        ("resnet152", 105, 107),
        ("vgg11", 10, 12),
        ("vgg16", 15, 17),
        ("vgg19", 18, 20),
        ("alexnet", 7, 9),
    ],
)
def test_counts(name: str, mutable: int, every: int) -> None:
    found = units(name)
    assert (sum(unit.is_mutable for unit in found), len(found)) == (mutable, every)
    assert not found[0].output_related
    assert not found[-1].input_related


def test_mobilenet_of_autoslim() -> None:
    found = units("mobilenet_v2", width_mult=1.5)
    assert len(found) == 27
    assert [unit.num_channels for unit in found if unit.is_mutable] == AUTOSLIM_SIZES
    assert found[1].name == "features.0.0_(0, 48)_48"
    assert found[-2].name == "features.18.0_(0, 1920)_1920"


def test_a_flatten_before_a_linear_layer_repeats_each_channel() -> None:
    last = next(unit for unit in units("vgg11_bn") if any(c.expand_ratio > 1 for c in unit.channels))
    assert repr(last.input_related[-1]) == (
        "Channel(classifier.0, index=(0, 25088), is_output_channel=false, expand_ratio=49)"
    )


def test_group_convolution_is_a_constraint() -> None:
    unit = next(unit for unit in units("resnext50_32x4d") if unit.name == "layer1.0.conv1_(0, 128)_128")
    assert unit.groups == 32
    assert [unit.number_of(n) for n in (1, 40, 50, 100, 120, 128)] == [32, 32, 64, 96, 128, 128]
    unit.current_choice = 64
    kept = unit.mutable_channel.current_mask.reshape(32, 4)
    assert torch.equal(kept, torch.tensor([True, True, False, False]).expand(32, 4))


def test_layer_norm_is_not_exact_and_bare_parameters_are_channels() -> None:
    unit = next(unit for unit in units("convnext_tiny") if unit.name == "features.0.0_(0, 96)_96")
    assert not unit.exact
    bare = [channel for channel in unit.output_related if channel.tensor is not None]
    assert [(c.name, c.tensor, c.dim) for c in bare] == [(f"features.1.{i}", "layer_scale", 0) for i in range(3)]
    template = unit.config_template(with_channels=True)["channels"]
    assert template["exact"] is False
    assert template["output_related"][-1] == {
        "name": "features.1.2",
        "start": 0,
        "end": 96,
        "expand_ratio": 1,
        "is_output_channel": True,
        "tensor": "layer_scale",
        "dim": 0,
    }
