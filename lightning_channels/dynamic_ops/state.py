"""What a dynamic op carries beside its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lightning_channels._modules import is_sharded
from lightning_channels.dynamic_ops.attributes import attribute_sizes
from lightning_channels.dynamic_ops.plan import Plan, plan_of
from lightning_channels.dynamic_ops.spec import Side, layout, sides, spec_of
from lightning_channels.dynamic_ops.views import Views
from lightning_channels.errors import ChoiceError, ConfigError, PrepareError, did_you_mean
from lightning_channels.mutables.container import MutableChannelContainer
from lightning_channels.mutables.selection import IndexSelection, Selection, as_mask

if TYPE_CHECKING:
    from lightning_channels.dynamic_ops.cuts import JointGradients

__all__ = [
    "STATE",
    "ChannelState",
    "Entry",
    "bare_side",
    "build_state",
    "check_depthwise",
    "container_of",
    "state_of",
    "within_group",
]

STATE = "_channels"
"""Key of the state in ``module.__dict__``: no parameter, no buffer and no submodule, so no state dict sees it."""

_NONE: frozenset[str] = frozenset()  # Python makes a new one at each call, of 216 bytes

Entry = tuple[int, MutableChannelContainer, int]
"""(dim, container, groups): the dim holds the container's channels, or those of one of its groups."""


class ChannelState:
    """Containers of a dynamic op, and which of them its tensors and sizes follow.

    Args:
        plan: What follows which side; the same object for all ops that are alike.
        held: The container of each side, in the plan's order.
    """

    __slots__ = (
        "candidates",
        "full",
        "groups",
        "held",
        "joined",
        "joint",
        "live",
        "plan",
        "sharded",
        "views",
    )

    def __init__(self, plan: Plan, held: tuple[MutableChannelContainer, ...]) -> None:
        self.plan = plan
        self.held = held
        self.full = False  # show everything at full size, whatever is selected
        self.live: dict[str, tuple[Tensor, Tensor]] | None = None  # in some forwards: what is indexed, and its copy
        self.groups: tuple[tuple[Selection, ...], int] | None = None  # of the last selections that agreed
        self.candidates: nn.ModuleList | None = None  # of a switchable norm: tensors for all candidates but the widest
        self.joint: JointGradients | None = None  # while several passes share the gradients of their tensors
        self.sharded = _NONE  # tensors of which there are only shards now; who reads one wants all of it
        self.views: Views | None = None  # of tensors at the present widths, from the first on that is kept
        self.joined = False  # inside a forward whose gradients must reach all candidates' parameters

    # A model has hundreds of dynamic ops, and few kinds of them: dicts of their own would be most of what it takes.
    # They are made anew at each call; what is read in every forward pass reads plan and held.

    @property
    def containers(self) -> dict[str, MutableChannelContainer]:
        """By side; an integer attribute that follows channels is a side too."""
        return dict(zip(self.plan.sides, self.held, strict=True))

    @property
    def tensors(self) -> dict[str, tuple[Entry, ...]]:
        """For each tensor, the dims with channels."""
        return {name: self.entries(name) for name in self.plan.tensors}

    @property
    def bare(self) -> Mapping[str, tuple[int, ...]]:
        """Those of the tensors that are in no table, with their dims."""
        return self.plan.bare

    @property
    def attributes(self) -> dict[str, dict[int | None, MutableChannelContainer]]:
        """For each integer attribute that follows channels, its sides, by place in a list or tuple."""
        return {
            name: {entry: self.held[place] for entry, place in places.items()}
            for name, places in self.plan.attributes.items()
        }

    def container(self, side: str) -> MutableChannelContainer:
        """The container of one side."""
        return self.held[self.plan.places[side]]

    def entries(self, name: str) -> tuple[Entry, ...]:
        """The dims with channels of a tensor; empty where it has none."""
        return tuple((dim, self.held[place], groups) for dim, place, groups in self.plan.tensors.get(name, ()))

    def note_sharded(self, name: str, tensor: Tensor) -> None:
        """Note whether a tensor was replaced by its shards, or by the whole again.

        Fully sharded data parallelism does both around every forward, and reads the sharded parameter in between, when
        it initialises itself in the first forward, after a load and after a move.
        """
        if is_sharded(tensor):
            self.sharded |= {name}
        elif name in self.sharded:
            self.sharded -= {name}

    @contextmanager
    def shown_full(self) -> Iterator[None]:
        """Show tensors and sizes at full size inside the block."""
        before, self.full = self.full, True
        try:
            yield
        finally:
            self.full = before

    def selections(self, name: str) -> list[tuple[int, Selection]]:
        """What is active along each dim of a tensor.

        Raises:
            ChoiceError: If the groups of a convolution don't keep the same channels.
        """
        found: list[tuple[int, Selection]] = []
        for dim, place, groups in self.plan.tensors[name]:
            container = self.held[place]
            selection = container.sel
            if groups > 1:
                selection = within_group(selection, container.num_channels, groups)
            found.append((dim, selection))
        return found


def within_group(selection: Selection, num_channels: int, groups: int) -> Selection:
    """The selection inside one of several equal groups.

    Raises:
        ChoiceError: If it isn't the same in every group.
    """
    if isinstance(selection, IndexSelection):
        return selection.within_group(num_channels, groups)
    if selection is None or num_channels == groups or selection == num_channels:  # compiled, a full width is a number
        return None
    raise ChoiceError(
        f"the first {selection} of {num_channels} channels are kept, but not the same ones in each of the"
        f" {groups} groups; keep the same positions in every group"
    )


def check_depthwise(state: ChannelState, groups: int) -> None:
    """Check that a depthwise convolution keeps all outputs of the inputs that it keeps, and no others.

    Raises:
        ChoiceError: If it doesn't.
    """
    containers = state.held
    first, *others = containers
    if type(first.sel) is int and all(
        other.sel == first.sel and other.num_channels == first.num_channels for other in others
    ):
        return  # the case of nearly every net, in less time than it takes to make the masks
    masks = [as_mask(c.sel, c.num_channels).view(groups, -1) for c in containers]
    narrow = min(masks, key=lambda mask: mask.shape[1])
    if any(bool((mask != narrow).any()) for mask in masks):
        counts = " and ".join(
            f"{side} {c.activated_channels} of {c.num_channels}" for side, c in state.containers.items()
        )
        raise ChoiceError(
            f"a depthwise convolution must keep the outputs of the inputs that it keeps; it keeps {counts}"
        )


def state_of(module: nn.Module) -> ChannelState:
    """The state of a dynamic op.

    Raises:
        PrepareError: If ``module`` is none.
    """
    state = module.__dict__.get(STATE)
    if not isinstance(state, ChannelState):
        raise PrepareError(f"{type(module).__name__} is no dynamic op; convert it with make_dynamic first")
    return state


def container_of(module: nn.Module, is_output: bool, side: str | None = None) -> MutableChannelContainer:
    """The container of a dynamic op's input or output channels.

    Args:
        module: A dynamic op.
        is_output: Which of the two; a norm has one side, which is both.
        side: The side's name, where a module has several.

    Raises:
        PrepareError: If ``module`` is no dynamic op.
        ConfigError: If there is no such side, or if several could be meant.
    """
    containers = state_of(module).containers
    what = type(module).__name__
    if side is not None:
        if side in containers:
            return containers[side]
        hint = did_you_mean(side, containers) or "."
        raise ConfigError(f"{what} has no side {side!r}{hint} It has {', '.join(containers)}")
    spec = spec_of(module)
    # bare tensors lie between input and output, like a norm's
    known = dict.fromkeys(containers, Side(True, True)) if spec is None else spec.sides
    names = [name for name, at in known.items() if (at.is_output if is_output else at.is_input)]
    if len(names) == 1:
        return containers[names[0]]
    end = "output" if is_output else "input"
    raise ConfigError(f"{what} has {len(names)} sides that are its {end}'s channels; name one of {list(containers)}")


def bare_side(name: str, shape: Sequence[int], dim: int) -> str:
    """Name of the side along one dim of a tensor that is in no table.

    Args:
        name: The tensor's name.
        shape: Its full shape.
        dim: The dim.

    Returns:
        The tensor's name where no other dim could hold channels (a ``gamma`` of shape (8, 1, 1)), else ``"gamma[0]"``.
    """
    return f"{name}[{dim}]" if any(size > 1 for other, size in enumerate(shape) if other != dim) else name


def build_state(module: nn.Module, bare: Mapping[str, Sequence[int]], attributes: Sequence[str] = ()) -> ChannelState:
    """Make the state of a module, with the containers that an earlier call has made; the module isn't changed.

    Args:
        module: Any module.
        bare: Further tensors with channels along the named dims.
        attributes: Keys of integer attributes that follow channels.

    Raises:
        PrepareError: If there is no such tensor, dim or attribute.
    """
    known: ChannelState | None = module.__dict__.get(STATE)
    before: dict[str, MutableChannelContainer] = {} if known is None else known.containers
    containers = {side: before.get(side) or MutableChannelContainer(size) for side, size in sides(module).items()}
    rows = layout(module)
    for name, dims in bare.items():
        _check_bare(module, name, dims)
        shape = _own_tensor(module, name).shape
        for dim in dims:
            side = bare_side(name, shape, dim)
            containers[side] = before.get(side) or MutableChannelContainer(shape[dim])
        rows[name] = tuple((dim, bare_side(name, shape, dim), 1) for dim in dims)
    for key in attributes:
        containers[key] = before.get(key) or MutableChannelContainer(_attribute_size(module, key))
    plan = plan_of(
        tuple(containers),
        tuple(rows.items()),
        tuple((name, tuple(dims)) for name, dims in bare.items()),
        tuple(attributes),
    )
    state = ChannelState(plan, tuple(containers.values()))
    state.candidates = None if known is None else known.candidates
    return state


def _attribute_size(module: nn.Module, key: str) -> int:
    sizes = attribute_sizes(module)
    if key not in sizes:
        raise PrepareError(
            f"{type(module).__name__} has no integer attribute {key!r} that could follow channels"
            f"{did_you_mean(key, sizes)}"
        )
    return sizes[key]


def _own_tensor(module: nn.Module, name: str) -> Tensor:
    parameter = module._parameters.get(name)
    tensor = module._buffers.get(name) if parameter is None else parameter
    if tensor is None:
        raise PrepareError(f"{type(module).__name__} has no parameter or buffer {name!r}")
    return tensor


def _check_bare(module: nn.Module, name: str, dims: Sequence[int]) -> None:
    shape = _own_tensor(module, name).shape
    if not dims or len(set(dims)) != len(dims) or not all(0 <= dim < len(shape) for dim in dims):
        raise PrepareError(f"{type(module).__name__}.{name} of shape {tuple(shape)} has no dims {tuple(dims)}")
