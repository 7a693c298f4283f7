"""What a module costs when it runs, counted without this package."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lightning_channels.tracing.running import call


class MadeBytes(TorchDispatchMode):
    """Sums the bytes of the floating tensors that operators make, by the memory that they lie in."""

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.total = 0
        self._depends = {id(t): t for t in tree_leaves(given) if isinstance(t, Tensor)}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        result = func(*args, **(kwargs or {}))
        if not any(id(t) in self._depends for t in read) or "new_" in str(func):
            return result  # a table of numbers, made of nothing
        memory = {t.untyped_storage().data_ptr() for t in read}
        for out in tree_leaves(result):
            if isinstance(out, Tensor):
                self._depends[id(out)] = out  # kept, so that no other gets its memory
                if out.is_floating_point() and out.numel() and out.untyped_storage().data_ptr() not in memory:
                    self.total += out.numel() * out.element_size()
        return result


@torch.no_grad()
def measured(model: nn.Module, inputs: Any) -> dict[str, int]:
    """FLOPs by torch's counter, parameters, and bytes of activations of a static model in eval mode."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its FLOPs torch's counter misses
    try:
        frozen = _fresh(model).requires_grad_(False)  # the counter's hooks fail on an expanded parameter
        with FlopCounterMode(display=False) as flops:
            call(frozen, copy.deepcopy(inputs))
        model, inputs = _fresh(model), copy.deepcopy(inputs)
        leaves = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
        with MadeBytes([leaves, inputs]) as made:
            call(model, inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return {
        "flops": flops.get_total_flops(),
        "params": sum(p.numel() for p in model.parameters()),
        "activations": made.total,
    }


def _fresh(model: nn.Module) -> nn.Module:
    """A copy in eval mode; some keep what they computed until the mode changes."""
    return copy.deepcopy(model).train().eval()
