"""What the backward tracer takes for a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from backward_checks import Middle, assert_same_units, facts
from torch import Tensor

from lightning_channels import (
    LOSS_CALCULATORS,
    TRACERS,
    BackwardTracer,
    ChannelMutator,
    ConfigError,
    ForwardTracer,
    ImageClassifierPseudoLoss,
    SumPseudoLoss,
    TraceError,
)


@dataclass
class Output:
    logits: Tensor
    features: list[Tensor]


class Wrapped(Middle):
    def __init__(self, wrap: Callable[..., Any]) -> None:
        super().__init__(torch.relu)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        middle = self.b(torch.relu(self.a(x)))
        return self.wrap(middle, self.c(middle))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda middle, end: {"end": end, "aux": [middle, None]},
        lambda middle, end: (end, {"middle": middle}),
        lambda middle, end: Output(end, [middle]),
        lambda middle, end: (end.argmax(1), end, middle, "text"),
    ],
    ids=["dict", "tuple", "dataclass", "integers"],
)
def test_outputs_in_containers(wrap: Callable[..., Any]) -> None:
    _, graph = assert_same_units(Wrapped(wrap), torch.randn(2, 8))
    assert facts(graph)["a_(0, 16)_16"]["mutable"]
    assert not facts(graph)["b_(0, 6)_6"]["mutable"]


def test_sums() -> None:
    logits, auxiliary = torch.full((2, 3), 2.0), torch.ones(2, 3)
    assert float(SumPseudoLoss()({"a": logits, "b": (auxiliary, torch.ones(3, dtype=torch.long))})) == 18
    assert float(ImageClassifierPseudoLoss()(logits)) == 12
    assert float(ImageClassifierPseudoLoss()((logits, auxiliary, None))) == 18


@pytest.mark.parametrize("outputs", [{"logits": torch.ones(2)}, (), ("text",), (torch.ones(2, dtype=torch.long),)])
def test_a_classifier_returns_logits(outputs: Any) -> None:
    with pytest.raises(
        TraceError, match=r'tensor of logits or a tuple of such, got \w+; use {"type": "SumPseudoLoss"}'
    ):
        ImageClassifierPseudoLoss()(outputs)


def test_a_sum_needs_something_to_sum() -> None:
    with pytest.raises(TraceError, match="without a floating tensor"):
        SumPseudoLoss()({"places": torch.ones(2, dtype=torch.long)})


@pytest.fixture
def _own_loss() -> Iterator[None]:
    @LOSS_CALCULATORS.register("weighted")
    class Weighted:
        def __init__(self, weight: float = 1.0) -> None:
            self.weight = weight

        def __call__(self, outputs: Any) -> Tensor:
            return outputs["end"].sum() * self.weight

    yield
    del LOSS_CALCULATORS._classes["weighted"]


@pytest.mark.usefixtures("_own_loss")
@pytest.mark.parametrize(
    "loss_calculator",
    ["weighted", {"type": "weighted", "weight": 2.0}, lambda outputs: outputs["end"].sum(), SumPseudoLoss],
    ids=["name", "dict", "function", "class"],
)
def test_a_loss_of_ones_own(loss_calculator: Any) -> None:
    model = Wrapped(lambda middle, end: {"end": end, "middle": middle})
    found = facts(BackwardTracer(loss_calculator).trace(model, torch.randn(2, 8)))
    assert found == facts(ForwardTracer().trace(model, torch.randn(2, 8)))


@pytest.mark.usefixtures("_own_loss")
def test_a_loss_of_ones_own_by_name_in_a_config() -> None:
    cfg = {"type": "BackwardTracer", "loss_calculator": {"type": "weighted", "weight": 2.0}}
    mutator = ChannelMutator(parse_cfg=cfg)
    mutator.prepare_from_supernet(Wrapped(lambda middle, end: {"end": end}), torch.randn(2, 8))
    assert len(mutator.mutable_units) == 2
    assert mutator.config_template()["parse_cfg"] == cfg


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("SumPseudoLos", "unknown loss calculator type 'SumPseudoLos'; did you mean 'SumPseudoLoss'"),
        ({"type": "ImageClassifierLoss"}, "did you mean 'ImageClassifierPseudoLoss'"),
        ({"type": "SumPseudoLoss", "weight": 2}, "takes no argument 'weight'"),
        ({"weight": 2}, "must be a dict with a 'type'"),
        (3, "loss_calculator must be a registered name, a dict with 'type', or a callable.*got 3.*SumPseudoLoss"),
    ],
)
def test_bad_loss_calculators(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TRACERS.build({"type": "BackwardTracer", "loss_calculator": given})


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda outputs: 3.0, r"is a float, and no tensor, so there is nothing to follow back"),
        (lambda outputs: outputs.detach().sum(), "has no gradient"),
        (lambda outputs: outputs["logits"].sum(), r"Middle returns failed: .*float32\[2, 4\].*must return a tensor"),
    ],
    ids=["number", "detached", "error"],
)
def test_losses_that_cannot_be_followed(loss: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        BackwardTracer(loss).trace(Middle(torch.relu), torch.randn(2, 8))
