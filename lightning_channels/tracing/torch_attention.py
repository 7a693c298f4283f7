"""What PyTorch's own attention asks of its channels: its code is PyTorch's, so it is known and needn't be watched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from lightning_channels._modules import named_modules_of
from lightning_channels.tracing.labels import varying
from lightning_channels.tracing.walk import Walk

__all__ = ["COUNTED", "TorchAttention", "counted_in", "torch_attentions"]


COUNTED = ("embed_dim", "kdim", "vdim", "num_heads", "head_dim")
"""Its attributes that count channels or heads."""


@dataclass(frozen=True, slots=True)
class TorchAttention:
    """The labels of an ``nn.MultiheadAttention``.

    Attributes:
        module: Its dotted name.
        heads: Number of heads.
        inputs: Labels of what queries, keys and values are computed from, a vector each.
        outputs: Labels of the queries, keys and values, a vector of ``embed_dim`` each.
    """

    module: str
    heads: int
    inputs: tuple[Tensor, Tensor, Tensor]
    outputs: tuple[Tensor, Tensor, Tensor]

    def joined(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of what is as wide as each other: all three are as wide as what the queries are computed from."""
        for part in self.outputs:
            yield part[:, None], self.inputs[0][:, None]

    def counted(self) -> Iterator[tuple[str, Tensor]]:
        """(attribute, labels of each thing that it counts, shape (value, n))."""
        by_head = self.outputs[0].reshape(self.heads, -1)
        yield from zip(COUNTED, (*(labels[:, None] for labels in self.inputs), by_head, by_head.t()), strict=True)


def torch_attentions(model: nn.Module, walk: Walk) -> Iterator[TorchAttention]:
    """All of a model's ``nn.MultiheadAttention``, but for those whose weights aren't its own."""
    vectors = {
        name: {varying(labels)[0]: labels.reshape(-1) for labels in walk.leaf_maps[ref]}
        for ref, name in walk.program.leaves.items()
    }
    for name, module in named_modules_of(model):
        if not isinstance(module, nn.MultiheadAttention):
            continue
        prefix = f"{name}." if name else ""
        packed = vectors.get(f"{prefix}in_proj_weight", {})
        if len(packed) == 2:
            q, k, v = packed[0].chunk(3)
            yield TorchAttention(name, module.__dict__["num_heads"], (packed[1],) * 3, (q, k, v))
            continue
        apart = [vectors.get(f"{prefix}{key}_proj_weight", {}) for key in "qkv"]
        if all(len(part) == 2 for part in apart):
            (q, k, v), (a, b, c) = ([part[dim] for part in apart] for dim in (0, 1))
            yield TorchAttention(name, module.__dict__["num_heads"], (a, b, c), (q, k, v))


def counted_in(model: nn.Module, walk: Walk) -> Iterator[tuple[str, str, Tensor]]:
    """(module, attribute, labels of each thing that it counts) for all of PyTorch's own attention in a model."""
    attentions = list(torch_attentions(model, walk))
    for attention in attentions:
        for key, labels in attention.counted():
            yield attention.module, key, labels
    for name, module in named_modules_of(model):
        if isinstance(module, nn.Transformer):  # compares its inputs' sizes with it
            inside = (attention for attention in attentions if attention.module.startswith(f"{name}." if name else ""))
            for attention in inside:
                yield name, "d_model", attention.inputs[0][:, None]
