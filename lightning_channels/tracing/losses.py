"""From what a model returns to one number, for the tracer that needs a loss to start from.

The number's value doesn't matter and no gradient is ever computed: what is read is which tensors it was made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from lightning_channels.errors import ConfigError, TraceError
from lightning_channels.registry import LOSS_CALCULATORS
from lightning_channels.tracing.recorder import tensors_in

__all__ = ["ImageClassifierPseudoLoss", "LossCalculator", "SumPseudoLoss", "make_loss_calculator"]

LossCalculator = Callable[[Any], Tensor]
"""Takes what the model returned and gives a tensor that depends on it."""


@LOSS_CALCULATORS.register()
class SumPseudoLoss:
    """The sum of all floating tensors that a model returns, in whatever containers and dataclasses they are.

    Example:
        >>> SumPseudoLoss()({"out": torch.ones(2), "aux": [torch.ones(3)]})
        tensor(5.)
    """

    def __call__(self, outputs: Any) -> Tensor:
        """Add them up.

        Raises:
            TraceError: If there is none.
        """
        found = [tensor for tensor in tensors_in(outputs) if tensor.is_floating_point() or tensor.is_complex()]
        if not found:
            raise TraceError(
                f"the model returns a {type(outputs).__name__} without a floating tensor, so there is nothing to sum; "
                "register a loss calculator that knows what it returns (LOSS_CALCULATORS.register())"
            )
        return _added(torch.real(tensor) for tensor in found)


@LOSS_CALCULATORS.register()
class ImageClassifierPseudoLoss:
    """The sum of a classifier's logits: of one tensor, or of several where it has auxiliary heads.

    Example:
        >>> ImageClassifierPseudoLoss()(torch.ones(2, 10))
        tensor(20.)
    """

    def __call__(self, outputs: Any) -> Tensor:
        """Add the logits up.

        Raises:
            TraceError: If something else is returned.
        """
        logits = [outputs] if isinstance(outputs, Tensor) else outputs if isinstance(outputs, (tuple, list)) else []
        logits = [item for item in logits if item is not None]  # auxiliary logits that aren't there in eval mode
        if not logits or not all(isinstance(item, Tensor) and item.is_floating_point() for item in logits):
            raise TraceError(
                f"ImageClassifierPseudoLoss takes a tensor of logits or a tuple of such, got {type(outputs).__name__}; "
                'use {"type": "SumPseudoLoss"} for a model that returns something else'
            )
        return _added(logits)


def _added(tensors: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, (tensor.sum() for tensor in tensors))


def make_loss_calculator(given: Any) -> LossCalculator:
    """A loss calculator from a registered name, a dict with ``type``, or a callable, which is taken as it is.

    Raises:
        ConfigError: If it is something else, or if the name or an argument is unknown.
    """
    if isinstance(given, str):
        given = {"type": given}
    if isinstance(given, Mapping):
        calculator = LOSS_CALCULATORS.build(given)
    else:
        calculator = given() if isinstance(given, type) else given
    if not callable(calculator):
        raise ConfigError(
            "loss_calculator must be a registered name, a dict with 'type', or a callable that makes a tensor of what "
            f"the model returns, got {given!r}. Known: {', '.join(LOSS_CALCULATORS.names())}"
        )
    loss: LossCalculator = calculator
    return loss
