"""Divisors that are left to the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from lightning_channels import (
    ChannelMutator,
    ConfigError,
    OneShotMutableChannelUnit,
    Pruner,
    SequentialMutableChannelUnit,
    StructureError,
    recommended_divisor,
    resolve_divisor,
)
from lightning_channels._plain import read_file, write_file
from tests.pruning.nets import drawn, numbers, pruned


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what torch says of this machine."""

    def set_to(capability: str, gpu: bool = False) -> None:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)

    set_to("AVX512")
    return set_to


def wide() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 48, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(48, 12, 1),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 5),
    )


IMAGES = torch.randn(1, 3, 8, 8)


def prepared(unit: Any = "SequentialMutableChannelUnit", model: nn.Module | None = None) -> ChannelMutator:
    mutator = ChannelMutator(unit)
    mutator.prepare_from_supernet(wide() if model is None else model, IMAGES)
    return mutator


@pytest.mark.parametrize(
    ("capability", "divisor"), [("AVX512", 16), ("AVX2", 8), ("DEFAULT", 8), ("NO AVX", 8), ("SVE256", 8)]
)
def test_a_cpu_has_blocks_as_wide_as_its_vectors(cpu: Any, capability: str, divisor: int) -> None:
    cpu(capability)
    for runtime in ("eager", "compile", "onnxruntime"):
        assert recommended_divisor(runtime) == recommended_divisor(runtime, "cpu") == divisor


@pytest.mark.parametrize(
    ("dtype", "divisor"), [(None, 8), (torch.float32, 8), (torch.float16, 8), (torch.bfloat16, 8), (torch.int8, 16)]
)
def test_tensor_cores_read_sixteen_bytes(cpu: Any, dtype: torch.dtype | None, divisor: int) -> None:
    for device in ("cuda", "cuda:1", torch.device("cuda")):
        assert recommended_divisor("eager", device, dtype) == divisor


def test_the_gpu_at_hand_goes_first_but_not_for_onnxruntime(cpu: Any) -> None:
    cpu("AVX512", gpu=True)
    assert resolve_divisor("auto") == resolve_divisor("auto:compile") == 8
    assert resolve_divisor("auto:onnxruntime") == 16
    cpu("AVX512", gpu=False)
    assert resolve_divisor("auto") == resolve_divisor("auto:eager") == 16
    assert resolve_divisor(3) == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "must be a positive integer, 'auto' or 'auto:onnxruntime', got ()"),
        (0, "got 0"),
        (True, "got True"),
        (8.0, "got 8.0"),
        ("8", "got '8'"),
        ("automatic", "got 'automatic'"),
        ("auto:onnx", "unknown runtime 'onnx'; did you mean 'onnxruntime'? Known: eager, compile, onnxruntime"),
    ],
)
def test_what_is_no_divisor_is_refused(given: Any, message: str) -> None:
    for take in (resolve_divisor, lambda value: Pruner("l1", {"flops": 0.5}, divisor=value)):
        with pytest.raises(ConfigError) as caught:
            take(given)
        assert message in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        SequentialMutableChannelUnit(48, divisor=given)
    assert message in str(caught.value)


def test_nothing_is_recommended_for_what_nobody_knows() -> None:
    with pytest.raises(ConfigError, match="recommended for cpu, cuda alone, not for 'mps'; give a number"):
        recommended_divisor("eager", "mps")
    with pytest.raises(ConfigError, match="one that torch knows, such as 'cpu' or 'cuda', got 'gpu'"):
        recommended_divisor("eager", "gpu")
    with pytest.raises(ConfigError, match=r"must be a torch\.dtype, such as torch\.bfloat16, got 'half'"):
        recommended_divisor("eager", "cuda", "half")  # type: ignore[arg-type]


# --- units
# -----------------------------------------------------------------------------------------------------------------


def test_a_unit_keeps_the_number(cpu: Any) -> None:
    unit = SequentialMutableChannelUnit(48, divisor="auto")
    cpu("AVX2")
    assert unit.divisor == unit.init_args()["divisor"] == 16
    assert OneShotMutableChannelUnit(48, [9, 23], "number", divisor="auto").candidate_choices == [16, 24]


def test_a_template_keeps_the_number(cpu: Any) -> None:
    mutator = prepared({"type": "sequential", "default_args": {"divisor": "auto"}})
    template = mutator.config_template()
    assert template["channel_unit_cfg"]["default_args"] == {"divisor": 16}
    assert [unit.divisor for unit in mutator.mutable_units] == [16, 16, 16]
    assert [unit.min_choice for unit in mutator.mutable_units] == [16, 16, 12]


def test_a_checkpoint_of_another_machine_is_taken_if_its_widths_are_allowed(cpu: Any, tmp_path: Path) -> None:
    unit = {"type": "sequential", "default_args": {"divisor": "auto"}}
    first = prepared(unit)
    first.set_choices({first.mutable_units[0].name: 32})
    write_file(tmp_path / "structure.yaml", first.structure())
    structure = read_file(tmp_path / "structure.yaml")
    cpu("AVX2")
    second = prepared(unit)
    second.load_structure(structure)
    assert numbers(second) == [32, 48, 12]
    second.set_choices({second.mutable_units[0].name: 24})
    narrower = second.structure()
    cpu("AVX512")
    rebuilt = ChannelMutator.from_structure(narrower)
    rebuilt.prepare_from_supernet(wide())
    assert numbers(rebuilt) == [24, 48, 12]
    third = prepared(unit)
    with pytest.raises(StructureError) as caught:
        third.load_structure(narrower)
    assert "'0_(0, 64)_64' was made with divisor=8, not 16, which turns its choice 24 into 32" in str(caught.value)
    assert numbers(third) == [64, 48, 12]


# --- pruning
# -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["global", "unit", {"0*": 0.5}])
@pytest.mark.parametrize("divisor", [5, 8, 16])
def test_pruned_widths_are_multiples(divisor: int, scope: Any) -> None:
    mutator = prepared()
    (event,) = pruned(Pruner(drawn(), {"flops": 0.6}, divisor=divisor, scope=scope), mutator)
    assert event.finished
    assert numbers(mutator) != [64, 48, 12]
    for unit, number in zip(mutator.mutable_units, numbers(mutator), strict=True):
        assert number % divisor == 0 or number == unit.num_channels


def test_it_comes_on_top_of_the_units_own(cpu: Any) -> None:
    mutator = prepared({"type": "sequential", "default_args": {"divisor": 12}})
    pruned(Pruner(drawn(), {"flops": 0.6}, divisor=8), mutator)
    assert set(numbers(mutator)[:2]) <= {24, 48, 64}
    mutator = prepared({"type": "one_shot", "default_args": {"candidate_choices": [0.25, 0.4, 0.75]}})
    pruned(Pruner(drawn(), {"flops": 0.3}, divisor="auto"), mutator)
    # 16, 26, 48 of 64; 12, 19, 36 of 48; 3, 5, 9 of 12: the widest candidate, and multiples of 16
    assert set(numbers(mutator)[:1]) <= {16, 48}
    assert numbers(mutator)[1:] == [36, 9]


def test_a_channel_that_stands_for_several_counts_as_many() -> None:
    net = VisionTransformer(16, 8, num_layers=1, num_heads=4, hidden_dim=64, mlp_dim=32, num_classes=3)
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(net, torch.randn(1, 3, 16, 16))
    heads = next(unit for unit in mutator.mutable_units if unit.num_channels == 4)
    assert {channel.expand_ratio for channel in heads.channels} >= {16}
    (event,) = pruned(Pruner(drawn(), None, divisor=8, scope={"*": 0.25}), mutator)
    assert event.after[heads.name] == 1
    assert net.conv_proj.weight.shape[0] == 16


def test_the_state_keeps_the_number(cpu: Any) -> None:
    def pruner(divisor: int | str) -> Pruner:
        return Pruner(drawn(), {"flops": 0.5}, "linear", end_step=4, divisor=divisor)

    whole, mutator = pruner("auto"), prepared()
    pruned(whole, mutator)
    begun, half = pruner("auto"), prepared()
    begun.start(half, 40)
    assert begun.before_step(1) is not None
    state, structure = begun.state_dict(), half.structure()
    assert state["divisor"] == 16
    cpu("AVX2")
    for load_first in (True, False):
        resumed, other = pruner("auto"), prepared()
        assert resumed.divisor == 8
        other.load_structure(structure)
        if load_first:
            resumed.load_state_dict(state)
        resumed.start(other, 40)
        if not load_first:
            resumed.load_state_dict(state)
        for step in range(2, 6):
            resumed.before_step(step)
        assert resumed.divisor == 16
        assert numbers(other) == numbers(mutator)
    given = pruner(4)
    given.load_state_dict(state)
    assert given.divisor == 4
    with pytest.raises(StructureError, match="a pruner's divisor must be a positive integer, got 'auto'"):
        pruner("auto").load_state_dict({**state, "divisor": "auto"})
    old = {key: value for key, value in state.items() if key != "divisor"}
    resumed = pruner("auto")
    resumed.load_state_dict(old)
    assert resumed.divisor == 8
