"""The unpruned model as a teacher: what it returns for the calls of a training step.

Its weights are still there, under the same names. So no second model is needed: the same modules are called at full
width, with the weights of now, or with those of the moment before the pruning in their place for the call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.func import functional_call

from lightning_channels._modules import modules_of
from lightning_channels.callbacks._calls import Call
from lightning_channels.callbacks._choices import Held
from lightning_channels.distillation import detached
from lightning_channels.errors import StructureError
from lightning_channels.mutators import ChannelMutator

__all__ = ["Frozen", "Teacher", "check_frozen", "check_tensors", "freeze"]

Frozen = dict[str, Tensor]
"""Name in the LightningModule → what was there before the pruning."""


def freeze(module: nn.Module) -> Frozen:
    """A copy of a module's parameters and buffers; what is there under two names is copied once."""
    return {name: tensor.detach().clone() for name, tensor in _tensors_of(module).items()}


def check_tensors(frozen: Any) -> None:
    """Refuse what can't be a frozen teacher, read from a checkpoint; None is for one that is still to come.

    Raises:
        StructureError: If it isn't one.
    """
    is_one = isinstance(frozen, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in frozen.items()
    )
    if frozen is not None and not is_one:
        raise StructureError(f"a teacher's weights must be a dict of tensors, got {type(frozen).__name__}")


def check_frozen(frozen: Frozen, module: nn.Module) -> None:
    """Refuse a copy of another module's tensors.

    Raises:
        StructureError: If a name or a shape differs.
    """
    shapes = {name: tensor.shape for name, tensor in _tensors_of(module).items()}
    found = {name: tensor.shape for name, tensor in frozen.items()}
    differing = sorted(name for name in {*shapes, *found} if shapes.get(name) != found.get(name))
    if differing:
        raise StructureError(
            f"the frozen teacher in the checkpoint has other tensors than the module: {', '.join(differing[:3])}. "
            "Resume with the module that the checkpoint was written with, or with recovery={'teacher': 'live'}"
        )


def _tensors_of(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


class Teacher:
    """Calls modules of a LightningModule at full width, without gradient.

    A frozen one is in eval mode: its statistics are its own. A live one is in the module's mode, as the widest subnet
    of a sandwich: the statistics fit the pruned subnet alone after a while, so that it takes the batch's.

    Args:
        module: The LightningModule.
        mutator: Sets the widths.
        frozen: The weights from before the pruning; None for those of now.
    """

    def __init__(self, module: LightningModule, mutator: ChannelMutator, frozen: Frozen | None) -> None:
        self._mutator = mutator
        self._frozen: dict[int, Tensor] | None = None
        if frozen is not None:
            tensors = _tensors_of(module)
            self._frozen = {id(tensors[name]): value.to(tensors[name].device) for name, value in frozen.items()}

    def outputs(self, call: Call) -> Any:
        """What the unpruned model returns for a call; the module is afterwards as it was."""
        # what a model keeps in eval mode is forgotten when the width changes, so that is done within
        mode = nullcontext() if self._frozen is None else _eval_mode(call.module)
        with torch.no_grad(), mode, _full_width(self._mutator):
            return detached(functional_call(call.module, self._instead(call.module), call.args, call.kwargs))

    def _instead(self, module: nn.Module) -> dict[str, Tensor]:
        """What takes the place of a module's tensors."""
        if self._frozen is None:  # what the pass writes into buffers is lost with the copies
            return {name: buffer.clone() for name, buffer in module.named_buffers()}
        return {name: self._frozen[id(tensor)] for name, tensor in _tensors_of(module).items()}


@contextmanager
def _full_width(mutator: ChannelMutator) -> Iterator[None]:
    held = Held(mutator)
    mutator.set_choices(mutator.sample_choices("max"))
    try:
        yield
    finally:
        held.put_back()


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    modes = [(inner, inner.training) for inner in modules_of(module)]
    for inner, _ in modes:
        inner.training = False
    try:
        yield
    finally:
        for inner, training in modes:
            inner.training = training
