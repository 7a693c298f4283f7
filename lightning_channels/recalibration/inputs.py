"""What of a batch the model is called with, where the user doesn't say so."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lightning_channels.errors import ConfigError
from lightning_channels.tracing.running import mapped

__all__ = ["default_forward"]

_KEYS = ("pixel_values", "image", "x", "images", "input", "inputs")
_TENSORS = (Tensor, PackedSequence)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

_Call = tuple[tuple[Any, ...], dict[str, Any]]


def default_forward(model: nn.Module, batch: Any) -> Any:
    """Call the model with a batch's inputs, on the model's device.

    Args:
        model: The model.
        batch: A tensor; a tuple or list that begins with one, or with a dict or tuple of inputs; a mapping, a named
            tuple or a dataclass with inputs by name.

    Returns:
        What the model returns.

    Raises:
        ConfigError: If no input is found.
    """
    call = _call(model, batch)
    if call is None or not any(_tensors(call)):
        raise ConfigError(
            f"found no input in a batch of {_described(batch)}. {type(model).__name__}.forward takes "
            f"({', '.join(map(str, _parameters(model)))}): a tensor, a tuple or list that begins with one or with a "
            f"dict or tuple of inputs, or a dict, named tuple or dataclass with these names or one of "
            f"{', '.join(_KEYS)} would do; else pass forward=lambda model, batch: ..."
        )
    args, kwargs = call
    tensor = next(chain(model.parameters(), model.buffers()), None)
    if tensor is not None:
        args, kwargs = _moved(args, tensor.device), _moved(kwargs, tensor.device)
    return model(*args, **kwargs)


def _call(model: nn.Module, batch: Any) -> _Call | None:
    fields = _fields(batch)
    if fields is not None:
        call = _by_name(model, fields, anything=isinstance(batch, Mapping))
        if call is not None or isinstance(batch, Mapping) or not fields:
            return call
        return _of_first(model, next(iter(fields.values())))
    if isinstance(batch, _TENSORS):
        return (batch,), {}
    return _of_first(model, batch[0]) if isinstance(batch, (tuple, list)) and batch else None


def _of_first(model: nn.Module, entry: Any) -> _Call | None:
    """The call with a batch's first entry, in which everything is an input, nothing a label or an identifier."""
    if isinstance(entry, _TENSORS):
        return (entry,), {}
    if isinstance(entry, tuple):
        return tuple(entry), {}
    fields = _fields(entry)
    if fields is None:
        return None
    return ((), dict(fields)) if _fits(model, fields) else _by_name(model, fields, anything=True)


def _by_name(model: nn.Module, fields: Mapping[str, Any], anything: bool) -> _Call | None:
    """The call with what ``forward`` names, else with an entry of a usual name, else all that ``**kwargs`` would take.

    Args:
        model: The model.
        fields: The batch's entries.
        anything: Whether ``**kwargs`` alone is a reason to pass them.
    """
    parameters = _parameters(model)
    named = {key: fields[key] for key in parameters if key in fields and parameters[key].kind in _NAMED}
    keywords = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    passed = dict(fields) if keywords else named
    fits = _fits(model, passed)
    usual = [key for key in _KEYS if isinstance(fields.get(key), _TENSORS)]
    # optional parameters alone (labels=None) are no reason to leave out what looks like the input
    enough = next(iter(parameters), None) in named or not [key for key in usual if key not in named]
    if fits and enough and any(_tensors(named)):
        return (), passed
    if usual:
        return (fields[usual[0]],), {}
    return ((), passed) if fits and anything else None


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(model.forward).parameters
    except (TypeError, ValueError):  # a forward that isn't Python
        return {}


def _fits(model: nn.Module, fields: Mapping[str, Any]) -> bool:
    """Whether ``forward`` can be called with just these by name."""
    if not all(isinstance(key, str) for key in fields):
        return False
    try:
        inspect.signature(model.forward).bind(**fields)
    except (TypeError, ValueError):
        return False
    return True


def _fields(value: Any) -> Mapping[Any, Any] | None:
    """The entries by name of a mapping, a named tuple or a dataclass."""
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if _is_named_tuple(value):
        return dict(zip(value._fields, value, strict=True))
    return None


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields") and not isinstance(value, PackedSequence)


def _tensors(value: Any) -> Iterator[bool]:
    """True for each tensor within."""
    if isinstance(value, _TENSORS):
        yield True
        return
    fields = _fields(value)
    inner = fields.values() if fields is not None else value if isinstance(value, (tuple, list)) else ()
    for item in inner:
        yield from _tensors(item)


def _moved(value: Any, device: torch.device) -> Any:
    """A copy whose tensors are on the device, at any depth; the batch itself stays as it is."""
    return mapped(lambda item: item.to(device), value, lambda item: isinstance(item, PackedSequence))


def _described(batch: Any) -> str:
    """What was found, for the message."""
    fields = _fields(batch)
    if fields is not None:
        noun = "keys" if isinstance(batch, Mapping) else "fields"
        return f"type {type(batch).__name__} with the {noun} {', '.join(map(str, fields)) or '(none)'}"
    if isinstance(batch, (tuple, list)):
        first = f"begins with {type(batch[0]).__name__}" if batch else "is empty"
        return f"type {type(batch).__name__} that {first}"
    return f"type {type(batch).__name__}"
