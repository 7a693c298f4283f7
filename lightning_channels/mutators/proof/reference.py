"""The full model with the dropped channels' influence removed: zeros where its weights would read them."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_channels.mutators.proof.values import Values, Zeroed
from lightning_channels.tracing.graph import ModuleGraph
from lightning_channels.tracing.labels import varying

__all__ = ["Reference"]


class Reference:
    """Where a model's weights read channels.

    Args:
        graph: The traced model.
    """

    def __init__(self, graph: ModuleGraph) -> None:
        self._graph = graph
        self._read = torch.zeros(graph.walk.labels.count, dtype=torch.bool)
        for labels in graph.walk.consumed:
            self._read[labels.long()] = True
        self._classes = torch.zeros(sum(map(len, graph.roots)), dtype=torch.bool)
        for root in graph.roots:
            self._classes[root[self._read]] = True

    def reads(self, classes: Tensor) -> bool:
        """Whether a weight reads each of these channels, so that zeros there can take them out."""
        return bool(self._classes[classes].all())

    def tensors(self, values: Values, dropped: list[Tensor]) -> Zeroed:
        """All tensors at full size, with zeros where the weights read the dropped classes."""
        walk = self._graph.walk
        zero = ~self._graph.left(dropped) & self._read
        places: dict[str, list[tuple[int, Tensor]]] = {}
        for ref, name in walk.program.leaves.items():
            for labels in walk.leaf_maps[ref]:
                mask = walk.labels.of(zero, labels)
                if bool(mask.any()):
                    places.setdefault(name, []).append((varying(labels)[0], mask))
        return Zeroed(values, places)
