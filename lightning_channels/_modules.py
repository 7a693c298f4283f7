"""A model's modules and tensors as lists: the same as PyTorch's generators give, many times faster on deep models."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

__all__ = [
    "is_sharded",
    "module_at",
    "module_in",
    "modules_of",
    "named_modules_of",
    "named_tensors_of",
    "unchanging",
]


class _Known(threading.local):
    """The models that aren't changing, with their modules."""

    def __init__(self) -> None:
        self.modules: dict[int, list[tuple[str, nn.Module]]] = {}


_known = _Known()


@contextmanager
def unchanging(model: nn.Module) -> Iterator[None]:
    """Look for a model's modules once, however often they are asked for inside the block; none comes or goes in it.

    What a forward pass adds is gone when the modules are asked for again, since attributes are kept as they were.
    """
    if id(model) in _known.modules:
        yield
        return
    _known.modules[id(model)] = _find(model)
    try:
        yield
    finally:
        del _known.modules[id(model)]


def named_modules_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """``list(model.named_modules())``."""
    known = _known.modules.get(id(model))
    return _find(model) if known is None else known.copy()


def _find(model: nn.Module) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()
    waiting = [("", model)]
    while waiting:
        name, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        found.append((name, module))
        inside = f"{name}." if name else ""
        children = [(f"{inside}{key}", child) for key, child in module._modules.items() if child is not None]
        waiting += reversed(children)
    return found


def module_at(model: nn.Module, name: str) -> nn.Module | None:
    """The submodule of a dotted name; unlike PyTorch's look-up, it touches no attribute but registered modules."""
    module: nn.Module | None = model
    for part in name.split(".") if name else ():
        module = None if module is None else module._modules.get(part)
    return module


def module_in(model: nn.Module, name: str) -> nn.Module:
    """The submodule of a dotted name, which is known to be there.

    Raises:
        AttributeError: If it isn't.
    """
    # get_submodule looks each part up as an attribute, which Python's cache of names then holds
    module = module_at(model, name)
    return model.get_submodule(name) if module is None else module


def modules_of(model: nn.Module) -> list[nn.Module]:
    """``list(model.modules())``."""
    known = _known.modules.get(id(model))
    if known is not None:
        return [module for _, module in known]
    found: list[nn.Module] = []
    seen: set[int] = set()
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if id(module) not in seen:
            seen.add(id(module))
            found.append(module)
            if module._modules:
                waiting += [child for child in reversed(module._modules.values()) if child is not None]
    return found


def named_tensors_of(model: nn.Module) -> list[tuple[str, Tensor]]:
    """``[*model.named_parameters(), *model.named_buffers()]``: each tensor once, by its first name."""
    modules = named_modules_of(model)
    found: list[tuple[str, Tensor]] = []
    for kind in ("_parameters", "_buffers"):
        seen: set[int] = set()
        for prefix, module in modules:
            for key, tensor in getattr(module, kind).items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    found.append((f"{prefix}.{key}" if prefix else key, tensor))
    return found


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is one of several processes' shards, or stands for them."""
    return any(cls.__name__ == "DTensor" for cls in type(tensor).__mro__)
