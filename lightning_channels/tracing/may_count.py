"""Which integer attributes of a model's modules could count channels, as far as its code says."""

from __future__ import annotations

from torch import nn

from lightning_channels._modules import module_at
from lightning_channels.dynamic_ops.attributes import attribute_sizes, sides_without_tensors, split_key
from lightning_channels.dynamic_ops.spec import refusal, spec_of
from lightning_channels.tracing.code_names import names_in
from lightning_channels.tracing.torch_attention import COUNTED

__all__ = ["is_open", "may_count"]


def may_count(model: nn.Module, name: str, key: str) -> bool:
    """Whether an integer attribute is one that a trace of the model could find to count channels.

    Args:
        model: The model.
        name: Dotted name of the module that has it.
        key: Its key.
    """
    module = module_at(model, name)
    if module is None or key not in attribute_sizes(module):
        return False
    if isinstance(module, nn.MultiheadAttention):
        return key in COUNTED
    if isinstance(module, nn.Transformer) and key == "d_model":
        return True
    if not is_open(module):
        return False
    if key in sides_without_tensors(module):
        return True
    attribute = split_key(key)[0]
    parts = name.split(".") if name else []
    around = (module_at(model, ".".join(parts[:depth])) for depth in range(len(parts)))
    readers = [module, *(reader for reader in around if reader is not None and spec_of(reader) is None)]
    return any(attribute in names_in(type(reader)) for reader in readers)


def is_open(module: nn.Module) -> bool:
    """Whether a module's numbers have to be found; PyTorch's own attention's are known."""
    return not isinstance(module, nn.MultiheadAttention) and refusal(module) is None
