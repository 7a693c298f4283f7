"""Which integers a model computes from its data.

Integers have no gradient, so autograd's graph doesn't tell where the places come from that a tensor is indexed by.
Those that are the same whatever the data are can be followed; the others can't.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_channels.tracing.recorder import tensors_in

__all__ = ["Origins"]

_MARK = "_lightning_channels_computed"


class Origins(TorchDispatchMode):
    """Marks integers and truth values that depend on floating tensors, or on integers that do."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        made = [out for out in tensors_in(result) if not out.is_floating_point()]
        if made and any(read.is_floating_point() or self.has(read) for read in tensors_in((args, kwargs))):
            for out in made:
                self.mark(out)
        return result

    def mark(self, tensor: Tensor) -> None:
        """Note that a tensor depends on data; where it is a view, what it is a view of does too."""
        setattr(tensor, _MARK, self)
        if tensor._base is not None:
            setattr(tensor._base, _MARK, self)

    def forget(self, tensors: Iterable[Tensor]) -> None:
        """Take the marks off."""
        for tensor in tensors:
            if hasattr(tensor, _MARK):
                delattr(tensor, _MARK)

    def has(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on data."""
        return getattr(tensor, _MARK, None) is self
