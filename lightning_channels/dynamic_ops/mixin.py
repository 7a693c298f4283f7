"""The base of all dynamic ops."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from torch import Tensor, nn

from lightning_channels.dynamic_ops.spec import refusal
from lightning_channels.dynamic_ops.state import STATE, ChannelState, build_state, container_of, state_of
from lightning_channels.dynamic_ops.writeback import absorb, check_shape
from lightning_channels.errors import PrepareError
from lightning_channels.mutables.container import MutableChannelContainer

__all__ = ["DynamicMixin"]


class DynamicMixin(nn.Module):
    """A module that runs at the active width.

    The ``forward`` of the plain class runs unmodified; what it reads (``self.weight``, ``self.groups``) is narrow,
    through properties of the dynamic class. At full width it reads the parameter itself.
    """

    plain_class: ClassVar[type[nn.Module]]
    """The class that the module has without us."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        reason = refusal(self)
        if reason is not None:
            raise PrepareError(f"{type(self).__name__} cannot be narrowed: {reason}")
        self.__dict__[STATE] = build_state(self, {})

    @classmethod
    def convert_from(cls, module: nn.Module) -> nn.Module:
        """Make an existing module dynamic, in place.

        Args:
            module: An instance of the plain class; it keeps its parameters, buffers, hooks, mode, dtype and device.

        Returns:
            The same object.

        Raises:
            PrepareError: If it is of another class, or cannot be narrowed.
        """
        from lightning_channels.dynamic_ops.convert import make_dynamic

        if not isinstance(module, cls.plain_class):
            raise PrepareError(f"{cls.__name__} converts a {cls.plain_class.__name__}, got a {type(module).__name__}")
        return make_dynamic(module)

    @property
    def mutable_attrs(self) -> dict[str, MutableChannelContainer]:
        """The containers of this op, by side."""
        state = state_of(self)
        try:
            return state.containers
        except AttributeError as error:  # nn.Module would look for a parameter or a submodule of this name
            raise RuntimeError(f"{type(self).__name__}.mutable_attrs could not be read: {error}") from error

    def channel_container(self, is_output: bool, side: str | None = None) -> MutableChannelContainer:
        """The container of the input's or the output's channels; see :func:`container_of`."""
        return container_of(self, is_output, side)

    def __setattr__(self, name: str, value: Any) -> None:
        state = self.__dict__.get(STATE)
        if state is not None and name in state.plan.tensors and isinstance(value, Tensor):
            if absorb(self, state, name, value):
                return
            check_shape(self, state, name, value)
            state.note_sharded(name, value)
        super().__setattr__(name, value)

    # Kept views would hold the tensors that are moved, or replaced by those of a state dict, in memory; and where torch
    # swaps tensors with new ones (torch.__future__), it refuses to swap those that autograd still knows.
    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._forget_views()
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget_views()
        super()._load_from_state_dict(*args, **kwargs)

    def _forget_views(self) -> None:
        state: ChannelState | None = self.__dict__.get(STATE)
        if state is not None:
            state.views = None

    def __repr__(self) -> str:
        state = self.__dict__.get(STATE)
        if state is None:
            return super().__repr__()
        with state.shown_full():
            text = super().__repr__()
        name, _, inside = text.partition("(")
        inside = inside.removesuffix(")").strip("\n")
        lines = [f"  {inside}" if inside and "\n" not in text else inside] if inside else []
        # the containers are no submodules, they are only printed as if they were
        lines.append("  (mutable_attrs): ModuleDict(")
        lines += [f"    ({side}): {container!r}" for side, container in state.containers.items()]
        return "\n".join([f"{name}(", *lines, "  )", ")"])
