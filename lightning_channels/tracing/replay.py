"""Runs a recorded program with some channels left out: the oracle that a narrowed module is compared with.

The leaves are sliced by their labels, and every integer argument that counts channels (sizes of views, ends of slices,
``normalized_shape``, groups of a depthwise convolution) is rewritten from the labels. Python code has no part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_channels.tracing.labels import Maps, varying
from lightning_channels.tracing.program import Op, Ref

if TYPE_CHECKING:
    from lightning_channels.tracing.graph import ModuleGraph

__all__ = ["Replay", "UnsupportedReplayError"]


class UnsupportedReplayError(Exception):
    """An operator cannot be rewritten for fewer channels."""


class Replay:
    """A program without some of its channels.

    Args:
        graph: The traced model.
        dropped: Classes of labels (see :attr:`Group.classes`) that are left out.
    """

    def __init__(self, graph: ModuleGraph, dropped: Iterable[Tensor]) -> None:
        self._program = graph.program
        self._maps = graph.walk.maps
        self._leaf_maps = graph.walk.leaf_maps
        dead = torch.zeros_like(graph.solution.pinned)
        for classes in dropped:
            dead[classes] = True
        self._alive = ~dead[graph.solution.root]

    # --- sizes -------------------------------------------------------------------------------------------------------

    def mask(self, ref: Ref, dim: int, maps: Maps | None = None) -> Tensor | None:
        """Which indices of a dim are left; ``None`` if all are."""
        mask: Tensor | None = None
        for labels in self._maps.get(ref.id, ()) if maps is None else maps:
            if labels.shape[dim] > 1:
                alive = self._alive[labels.long()].movedim(dim, 0).reshape(labels.shape[dim], -1).any(1)
                mask = alive if mask is None else mask & alive
        return None if mask is None or bool(mask.all()) else mask

    def sizes(self, ref: Ref) -> list[int]:
        """Shape of a tensor without the dropped channels."""
        shape = list(self._program.shapes[ref.id])
        for dim in range(len(shape)):
            mask = self.mask(ref, dim)
            if mask is not None:
                shape[dim] = int(mask.sum())
        return shape

    def _slice(self, tensor: Tensor, ref: Ref, maps: Maps) -> Tensor:
        for labels in maps:
            dim = varying(labels)[0]
            mask = self.mask(ref, dim, (labels,))
            if mask is not None:
                tensor = tensor.index_select(dim, mask.nonzero().flatten().to(tensor.device))
        return tensor

    # --- running -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def run(self, tensors: Mapping[str, Tensor], inputs: list[Tensor]) -> list[Tensor]:
        """Run the program.

        Args:
            tensors: Full parameters and buffers by name.
            inputs: The model's input tensors, in order.

        Returns:
            The tensors that the model returns.

        Raises:
            UnsupportedReplayError: If an operator cannot be rewritten.
        """
        program = self._program
        values: dict[int, Tensor] = dict(zip(program.inputs, inputs, strict=True))
        for ref, name in program.leaves.items():
            values[ref] = self._slice(tensors[name].detach().clone(), Ref(ref), self._leaf_maps[ref])
        for ref, constant in program.constants.items():
            value = constant.clone() if ref in program.written else constant
            values[ref] = self._slice(value, Ref(ref), self._maps.get(ref, ()))
        last = {ref.id: k for k, op in enumerate(program.ops) for ref in op.inputs()}
        keep = set(program.outputs) | set(program.leaves)
        for k, op in enumerate(program.ops):
            result = self._execute(op, values)
            outputs = result if isinstance(result, (list, tuple)) else (result,)
            for made, out in zip(op.outputs, outputs, strict=True):
                if made is not None:
                    values[made.id] = out
            for used in op.inputs():
                if last[used.id] == k and used.id not in keep:
                    values.pop(used.id, None)
        return [values[ref] for ref in program.outputs]

    def _execute(self, op: Op, values: dict[int, Tensor]) -> Any:
        def resolve(value: Any) -> Any:
            if isinstance(value, Ref):
                return values[value.id]
            return [resolve(item) for item in value] if isinstance(value, list) else value

        args = [resolve(arg) for arg in op.args]
        kwargs = {key: resolve(value) for key, value in op.kwargs.items()}
        rewrite = _REWRITES.get(op.name)
        try:
            return op.func(*args, **kwargs) if rewrite is None else rewrite(self, op, args, kwargs)
        except (RuntimeError, IndexError, ValueError) as error:
            detail = " ".join(str(error).split())[:120]
            raise UnsupportedReplayError(
                f"{op.name} in {op.module or 'the model'} can't run narrow: {detail}"
            ) from error


Rewrite = Callable[[Replay, Op, list[Any], dict[str, Any]], Any]


def _sizes_of_output(replay: Replay, op: Op) -> list[int]:
    out = op.outputs[0]
    assert out is not None
    return replay.sizes(out)


def _reshape(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return args[0].reshape(_sizes_of_output(replay, op))


def _expand(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return args[0].expand(_sizes_of_output(replay, op))


def _split(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    dim = op.argument(2, "dim", 0) % args[0].dim()
    return args[0].split_with_sizes([replay.sizes(out)[dim] for out in op.outputs if out is not None], dim)


def _slice(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    dim = op.argument(1, "dim", 0) % args[0].dim()
    mask = replay.mask(op.args[0], dim)
    if mask is None:
        return op.func(*args, **kwargs)
    start, end, step = slice(op.argument(2, "start"), op.argument(3, "end"), op.argument(4, "step", 1)).indices(
        len(mask)
    )
    place = mask.cumsum(0) - 1
    chosen = torch.arange(start, end, step)
    chosen = place[chosen[mask[chosen]]]
    if step == 1:
        return args[0].narrow(dim, int(chosen[0]) if len(chosen) else 0, len(chosen))
    return args[0].index_select(dim, chosen.to(args[0].device))


def _select(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    dim = op.argument(1, "dim") % args[0].dim()
    mask = replay.mask(op.args[0], dim)
    if mask is None:
        return op.func(*args, **kwargs)
    index = op.argument(2, "index") % len(mask)
    return args[0].select(dim, int(mask[:index].sum()))


def _norm(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    args[1] = _sizes_of_output(replay, op)[-len(args[1]) :]
    return op.func(*args, **kwargs)


def _restride(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return args[0]  # only ever recorded as a change of layout, see the rule


def _group_norm(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    args[4] = args[0].shape[1]
    return op.func(*args, **kwargs)


def _convolution(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    channels = replay._program.shapes[op.args[0].id][1]
    if args[8] > 1 and channels == args[8]:
        args[8] = args[0].shape[1]
    return op.func(*args, **kwargs)


def _fixed_places(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Operators with integers that name places: fine as long as the dims concerned keep all their indices."""
    source: Ref = op.args[0]
    rank = len(replay._program.shapes[source.id])
    if op.name == "index":
        dims = [d for d, index in enumerate(args[1]) if index is not None]
    elif op.name == "roll":
        dims = list(op.argument(2, "dims", ())) or list(range(rank))
    else:
        dims = [op.argument(1, "dim", 0)]
    if any(replay.mask(source, d % rank) is not None for d in dims):
        raise UnsupportedReplayError(f"{op.name} names places along a dimension that got narrower (in {op.module})")
    return op.func(*args, **kwargs)


_REWRITES: dict[str, Rewrite] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy", "_reshape_copy"), _reshape),
    **dict.fromkeys(("expand", "expand_copy"), _expand),
    **dict.fromkeys(("split", "unsafe_split", "split_with_sizes", "unsafe_split_with_sizes"), _split),
    "slice": _slice,
    "as_strided_": _restride,
    "select": _select,
    "native_layer_norm": _norm,
    "_fused_rms_norm": _norm,
    "native_group_norm": _group_norm,
    "convolution": _convolution,
    **dict.fromkeys(("index", "roll", "index_select"), _fixed_places),
}
