"""From a batch of the loader to what ``forward`` is called with."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

__all__ = ["ADVICE", "candidates"]

ADVICE = (
    "Set self.example_input_array in the LightningModule, or pass example_inputs= to the callback "
    "(a tensor, a tuple of positional arguments, or a dict of keyword arguments)"
)
_INPUT_KEYS = ("pixel_values", "image", "x")
_WHOLE = ("batch", "inputs", "data")
"""Names of a parameter that may stand for everything that is in a batch."""


class _Takes:
    """The parameters of a module's ``forward``."""

    def __init__(self, module: nn.Module) -> None:
        parameters = inspect.signature(module.forward).parameters.values()
        kinds = {parameter.kind for parameter in parameters}
        self.any_position = inspect.Parameter.VAR_POSITIONAL in kinds
        self.any_name = inspect.Parameter.VAR_KEYWORD in kinds
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        named = [parameter for parameter in parameters if parameter.kind not in variable]
        self.names = {parameter.name for parameter in named if parameter.kind != inspect.Parameter.POSITIONAL_ONLY}
        self.required = [parameter.name for parameter in named if parameter.default is inspect.Parameter.empty]

    @property
    def whole(self) -> bool:
        """Whether it takes one thing that may be the whole batch."""
        return len(self.required) == 1 and self.required[0] in _WHOLE


def candidates(batch: Any, module: nn.Module) -> list[Any]:
    """What ``module`` may be called with, in the form of example inputs; the likeliest first.

    A dict is passed by the names of ``forward``'s parameters; where it has one parameter of another name, by the keys
    ``pixel_values``, ``image`` or ``x``. Of a tuple or list, ``forward`` gets as many of the first items as it needs.

    Raises:
        MisconfigurationException: If there is nothing in the batch that it could be.
    """
    if isinstance(batch, Tensor):
        return [batch]
    takes = _Takes(module)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        batch = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    found: list[Any] = []
    if isinstance(batch, Mapping):
        found = _of_mapping(batch, takes)
    elif isinstance(batch, (tuple, list)) and batch:
        found = _of_sequence(batch, takes, module)
    if takes.whole and isinstance(batch, (Mapping, tuple, list)):
        found = [(batch,), *found]
    if not found:
        raise _nothing_in(batch)
    return found


def _of_mapping(batch: Mapping[Any, Any], takes: _Takes) -> list[Any]:
    names = [key for key in batch if isinstance(key, str) and (takes.any_name or key in takes.names)]
    named = {key: batch[key] for key in names}
    if named and set(takes.required) <= set(named):
        return [named]
    key = next((key for key in _INPUT_KEYS if key in batch), None)
    return [batch[key]] if key is not None and len(takes.required) <= 1 else []


def _of_sequence(batch: Sequence[Any], takes: _Takes, module: nn.Module) -> list[Any]:
    if _are_images(batch):
        return [(list(batch[0]),)]
    if takes.required[:1] == ["images"] and all(isinstance(item, Tensor) and item.dim() == 3 for item in batch):
        return [(list(batch),)]
    count = len(takes.required)
    if count > 1 and len(batch) >= count and all(isinstance(item, Tensor) for item in batch[:count]):
        return [tuple(batch[:count])]
    if count == 0 and takes.any_position:
        return [tuple(batch)]
    # one input and its targets; or the batches of several loaders, of which the first will do
    return candidates(batch[0], module)


def _are_images(batch: Sequence[Any]) -> bool:
    """Whether it is a list of images of any size with a dict of targets for each, as detection models take them."""
    if len(batch) != 2 or not all(isinstance(item, (tuple, list)) and item for item in batch):
        return False
    images, targets = batch
    return all(isinstance(image, Tensor) for image in images) and all(isinstance(item, Mapping) for item in targets)


def _nothing_in(batch: Any) -> MisconfigurationException:
    what = f"a dict with {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
    return MisconfigurationException(
        f"no example input found in a batch of the loader: it holds {what}, where a tensor, a dict with the names of "
        f"forward()'s parameters, or one with {', '.join(_INPUT_KEYS)} was looked for. {ADVICE}"
    )
