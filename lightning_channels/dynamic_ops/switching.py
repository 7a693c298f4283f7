"""The base of norms with tensors of their own for each candidate."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_channels.dynamic_ops.candidates import CANDIDATES, SWITCHED, holder_of
from lightning_channels.dynamic_ops.mixin import DynamicMixin
from lightning_channels.dynamic_ops.state import STATE, ChannelState

__all__ = ["SwitchableMixin"]


class SwitchableMixin(DynamicMixin):
    """A dynamic batch norm that has parameters and statistics for each candidate of its unit.

    Which candidate is active it asks the mutables on its side. The widest one's tensors are its own; a state dict has
    the others' under ``candidates.<number>.``. A state dict without these, such as the plain model's, loads into all.
    """

    def init_candidates(self, number: int) -> None:
        """Give the norm tensors for so many candidates; new ones begin as copies of its own.

        Args:
            number: How many, the widest included.

        Raises:
            ConfigError: If it has another number of candidates already, or ``number`` is no positive integer.
        """
        from lightning_channels.dynamic_ops.switchable import make_switchable

        make_switchable(self, number)

    def __setattr__(self, name: str, value: Any) -> None:
        state = self.__dict__.get(STATE)
        if isinstance(state, ChannelState) and name in SWITCHED and isinstance(value, Tensor):
            holder = holder_of(self, state)
            full = holder._buffers.get(name, holder._parameters.get(name))
            if holder is not self and full is not None and full.shape == value.shape:
                setattr(holder, name, value)
                return
        super().__setattr__(name, value)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state = self.__dict__.get(STATE)
        candidates = state.candidates if isinstance(state, ChannelState) else None
        inside = f"{prefix}{CANDIDATES}."
        if candidates is not None and not any(key.startswith(inside) for key in state_dict):
            own = {name: state_dict[prefix + name] for name in SWITCHED if prefix + name in state_dict}
            for number in range(len(candidates)):
                state_dict.update({f"{inside}{number}.{name}": value.clone() for name, value in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)
