"""Runs a recorded program with some channels left out: the oracle that a narrowed module is compared with.

The leaves are sliced by their labels, and every integer argument that counts channels (sizes of views, ends of slices,
``normalized_shape``, groups of a depthwise convolution) is rewritten from the labels. Python code has no part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_channels.tracing.chance import without_chance
from lightning_channels.tracing.labels import Maps, varying
from lightning_channels.tracing.program import Op, Program, Ref
from lightning_channels.tracing.rewrites import REWRITES, UnsupportedReplayError, operator_key
from lightning_channels.tracing.scaling import rescaled

if TYPE_CHECKING:
    from lightning_channels.tracing.graph import ModuleGraph

__all__ = ["Replay", "UnsupportedReplayError"]


class _Slices:
    """Narrow parameters and buffers, cut once from the same full ones."""

    def __init__(self) -> None:
        self._tensors: Mapping[str, Tensor] = {}
        self._parts: dict[str, Tensor] = {}

    def get(
        self, tensors: Mapping[str, Tensor], name: str, maps: Maps, cut: Callable[[Tensor, Maps], Tensor]
    ) -> Tensor:
        if tensors is not self._tensors:
            self._tensors, self._parts = tensors, {}
        if name not in self._parts:
            self._parts[name] = cut(tensors[name].detach(), maps)
        return self._parts[name]


class Replay:
    """A program without some of its channels.

    Args:
        graph: The traced model.
        dropped: Classes of labels (see :attr:`Group.classes`) that are left out.
        program: ``graph.program``, which is the default, or ``graph.training``.
        twin: A replay without the same channels, whose slices this one can use: both are run on the same tensors.
        rescale: Whether factors that are a power of a number of channels follow it, as they do where code computes them
            in each pass.

    Attributes:
        walk: The walk of the program, with the labels of every tensor.
        program: What is run.
        watched: Values of the references that the last run was asked to watch.
    """

    def __init__(
        self,
        graph: ModuleGraph,
        dropped: Iterable[Tensor],
        program: Program | None = None,
        twin: Replay | None = None,
        rescale: bool = False,
    ) -> None:
        walk = graph.walk
        if program is not None and program is not graph.program:
            if walk.training is None or program is not graph.training:
                raise ValueError("program must be one that the graph was made from")
            walk = walk.training
        if not walk.program.complete:
            raise ValueError("autograd's graph doesn't have all arguments; replay what ForwardTracer recorded")
        self.walk = walk
        self.program = walk.program
        self.watched: dict[int, Tensor] = {}
        self._rescale = rescale
        self._maps = walk.maps
        self._leaf_maps = walk.leaf_maps
        self._written = walk.written
        self._masks: dict[tuple[int, int], Tensor | None] = {}
        self._slices = _Slices()
        self._masks_of_maps: dict[tuple[int, int], Tensor | None] = {}
        if twin is None:
            self._alive = graph.left(dropped)
            self._whole = bool(self._alive.all())
            self._left, self._places = walk.labels.places(self._alive)
        else:
            self._alive, self._whole, self._left, self._places = twin._alive, twin._whole, twin._left, twin._places
            self._slices, self._masks_of_maps = twin._slices, twin._masks_of_maps

    # --- sizes -------------------------------------------------------------------------------------------------------

    def mask(self, ref: Ref, dim: int) -> Tensor | None:
        """Which indices of a dim are left; ``None`` if all are."""
        if self._whole:
            return None
        key = ref.id, dim
        if key not in self._masks:
            self._masks[key] = self._mask(self._maps.get(ref.id, ()), dim)
        return self._masks[key]

    def _mask(self, maps: Maps, dim: int) -> Tensor | None:
        mask: Tensor | None = None
        for labels in maps:
            alive = self._mask_of_map(labels, dim) if labels.shape[dim] > 1 else None
            if alive is not None:
                mask = alive if mask is None else mask & alive
        return mask

    def _mask_of_map(self, labels: Tensor, dim: int) -> Tensor | None:
        key = id(labels), dim  # the walk keeps the map alive
        if key not in self._masks_of_maps:
            size = labels.shape[dim]
            alive = self.walk.labels.of(self._alive, labels)
            if labels.numel() > size:
                alive = alive.reshape(labels.shape).movedim(dim, 0).reshape(size, -1).any(1)
            self._masks_of_maps[key] = None if bool(alive.all()) else alive
        return self._masks_of_maps[key]

    def sizes(self, ref: Ref) -> list[int]:
        """Shape of a tensor without the dropped channels."""
        shape = list(self.program.shapes[ref.id])
        for dim in range(len(shape)):
            mask = self.mask(ref, dim)
            if mask is not None:
                shape[dim] = int(mask.sum())
        return shape

    def sliced(self, tensor: Tensor, maps: Maps) -> Tensor:
        """A full tensor without the indices that are dropped by its maps; itself where none is."""
        if self._whole:
            return tensor
        masks: dict[int, Tensor] = {}
        for labels in maps:
            if id(labels) in self._places:  # a parameter's or a buffer's
                first, begin, end = self._places[id(labels)]
                if end - begin < labels.numel():
                    index = self._left[begin:end] - first
                    tensor = tensor.index_select(varying(labels)[0], index.to(tensor.device))
                continue
            for dim in varying(labels):
                alive = self._mask_of_map(labels, dim)
                if alive is not None:
                    masks[dim] = masks[dim] & alive if dim in masks else alive
        for dim, mask in masks.items():
            tensor = tensor.index_select(dim, mask.nonzero().flatten().to(tensor.device))
        return tensor

    # --- running -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def run(
        self,
        tensors: Mapping[str, Tensor],
        inputs: Sequence[Tensor],
        watch: Collection[int] = (),
        see: Callable[[int, Tensor], None] | None = None,
    ) -> list[Tensor]:
        """Run the program. Neither the parameters and buffers nor the inputs are written to.

        Args:
            tensors: Full parameters and buffers by name.
            inputs: The model's input tensors, in order.
            watch: References whose values go to :attr:`watched`, as they are right after they were computed.
            see: Gets these values instead, one by one, so that they needn't be held all at once.

        Returns:
            The tensors that the model returns.

        Raises:
            UnsupportedReplayError: If an operator cannot be rewritten; :attr:`watched` has what was computed before it.
        """
        program = self.program
        given = dict(zip(program.inputs, inputs, strict=True))
        values: dict[int, Tensor] = {}
        self.watched = {}

        def source(ref: int) -> Tensor:
            """What the program starts from is made when it is first needed."""
            if ref in program.leaves:
                name = program.leaves[ref]
                leaf = self._slices.get(tensors, name, self._leaf_maps[ref], self.sliced)
                return leaf.clone() if ref in self._written else leaf
            maps = () if ref in given else self._maps.get(ref, ())
            full = given[ref] if ref in given else program.constants[ref]
            narrow = self.sliced(full, maps)
            return narrow.clone() if narrow is full and ref in self._written else narrow

        with without_chance(program.random):
            return self._run(values, source, watch, self._keep if see is None else see)

    def _keep(self, ref: int, value: Tensor) -> None:
        self.watched[ref] = value.clone() if ref in self._written else value

    def _run(
        self,
        values: dict[int, Tensor],
        source: Callable[[int], Tensor],
        watch: Collection[int],
        see: Callable[[int, Tensor], None],
    ) -> list[Tensor]:
        for op, used, dying, unread in self.walk.steps:
            for ref in used:
                if ref not in values:
                    values[ref] = source(ref)
            outputs = self._execute(op, values)
            for made, out in zip(op.outputs, outputs, strict=True):
                if made is None:
                    continue
                if made.id in watch:
                    see(made.id, out)
                if made.id not in unread:
                    values[made.id] = out
            for ref in dying:
                values.pop(ref, None)
            del outputs
        return [values[ref] if ref in values else source(ref) for ref in self.program.outputs]

    def _execute(self, op: Op, values: dict[int, Tensor]) -> Sequence[Any]:
        def resolve(value: Any) -> Any:
            if isinstance(value, Ref):
                return values[value.id]
            return [resolve(item) for item in value] if isinstance(value, list) else value

        args = [resolve(arg) for arg in op.args]
        kwargs = {key: resolve(value) for key, value in op.kwargs.items()}
        if self._rescale:
            args = rescaled(self, op, args)
        rewrite = REWRITES.get(operator_key(op.func))
        try:
            result = op.func(*args, **kwargs) if rewrite is None else rewrite(self, op, args, kwargs)
            outputs = result if isinstance(result, (list, tuple)) else (result,)
            if len(outputs) != len(op.outputs):
                raise ValueError(f"it gives {len(outputs)} results instead of {len(op.outputs)}")
            return outputs
        except (RuntimeError, IndexError, ValueError, UnsupportedReplayError) as error:
            message = str(error)
            if not isinstance(error, UnsupportedReplayError):
                detail = " ".join(message.split())[:120]
                message = f"{op.name} in {op.module or 'the model'} can't run narrow: {detail}"
            raise UnsupportedReplayError(message, op) from error
