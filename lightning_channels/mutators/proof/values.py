"""The numbers that a model is proven with: its own, but for constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_channels._modules import named_tensors_of

__all__ = ["Values", "Zeroed"]


class Values(Mapping[str, Tensor]):
    """Tensors by name, with random numbers in the place of those that are constant.

    A fresh norm's ones, or a gamma of zeros, would hide errors. Nothing else is copied.

    Args:
        model: Its parameters and buffers are read, and only changed inside :meth:`placed`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._own: dict[str, Tensor] = dict(named_tensors_of(model))
        self._random = _randomised(self._own)

    def __getitem__(self, name: str) -> Tensor:
        return self._random[name] if name in self._random else self._own[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)

    @contextmanager
    def placed(self) -> Iterator[None]:
        """Put the random numbers into the model: its tensors stay, and have other data until the block ends."""
        saved = {name: self._own[name].data for name in self._random}
        try:
            for name, data in self._random.items():
                self._own[name].data = data
            yield
        finally:
            for name, data in saved.items():
                self._own[name].data = data


class Zeroed(Mapping[str, Tensor]):
    """Tensors by name, with zeros at some of their places; each is made when it is asked for.

    Args:
        values: All tensors.
        places: Name → (dim, which indices are zero), for the tensors that have zeros.
    """

    def __init__(self, values: Mapping[str, Tensor], places: Mapping[str, list[tuple[int, Tensor]]]) -> None:
        self._values = values
        self._places = places

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._values[name].detach()
        if name not in self._places:
            return tensor
        for dim, zero in self._places[name]:
            shape = [-1 if d == dim else 1 for d in range(tensor.dim())]
            tensor = tensor * (~zero).to(tensor.device, tensor.dtype).view(shape)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _randomised(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator("cpu").manual_seed(1)
    found = {}
    for name, tensor in tensors.items():
        first = _constant(tensor)
        if first is not None:
            noise = torch.rand(tensor.shape, generator=generator, device="cpu").to(tensor.device, tensor.dtype)
            found[name] = noise.mul_(0.5).add_(0.5 if first > 0.5 else -0.25)
    return found


def _constant(tensor: Tensor) -> float | None:
    """The one number in a tensor, if it has several places and all hold the same."""
    if not tensor.is_floating_point() or tensor.numel() < 2:
        return None
    tensor = tensor.detach()
    first, last = tensor[(0,) * tensor.dim()].item(), tensor[(-1,) * tensor.dim()].item()
    # most tensors differ there already, and need not be read
    return first if first == last and bool((tensor == first).all()) else None
