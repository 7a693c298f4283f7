"""Making a batch norm switchable: the same object, with tensors for each candidate."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_channels.dynamic_ops.candidates import CANDIDATES, copies_of, drop
from lightning_channels.dynamic_ops.convert import is_dynamic, make_dynamic, swap_class
from lightning_channels.dynamic_ops.factory import dynamic_class
from lightning_channels.dynamic_ops.state import state_of
from lightning_channels.errors import ConfigError, PrepareError
from lightning_channels.mutables.selection import positive

__all__ = ["check_switchable", "make_switchable", "unswitch"]


def check_switchable(module: nn.Module, number: int) -> None:
    """Refuse what :func:`make_switchable` can't do; nothing is changed.

    Raises:
        PrepareError: If it is no batch norm, or has a child of the name that the candidates need.
        ConfigError: If it has another number of candidates already, or ``number`` is no positive integer.
    """
    positive(number, "the number of candidates")
    if not isinstance(module, _BatchNorm):
        raise PrepareError(f"{type(module).__name__} is no batch norm; only these switch with the candidate")
    candidates = state_of(module).candidates if is_dynamic(module) else None
    if candidates is None:
        if number > 1 and (CANDIDATES in module._modules or CANDIDATES in module.__dict__):
            raise PrepareError(f"{type(module).__name__} has something called {CANDIDATES!r}; rename that")
    elif len(candidates) + 1 != number:
        raise ConfigError(
            f"{type(module).__name__} has {len(candidates) + 1} candidates already; it can't have {number} as well"
        )


def make_switchable(module: nn.Module, number: int) -> nn.Module:
    """Give a batch norm parameters and statistics of its own for each of several candidates, in place.

    The widest candidate's are those that the norm has; the others begin as copies of them. With one candidate it stays
    as it is.

    Args:
        module: A batch norm, plain or dynamic.
        number: How many candidates there are, the widest included.

    Returns:
        The same object.

    Raises:
        PrepareError: If it is no batch norm, or has a child of the name that the candidates need.
        ConfigError: If it has another number of candidates already, or ``number`` is no positive integer.

    Example:
        >>> norm = make_switchable(nn.BatchNorm2d(8), 3)
        >>> [key for key in norm.state_dict() if key.endswith("running_mean")]
        ['running_mean', 'candidates.0.running_mean', 'candidates.1.running_mean']
    """
    check_switchable(module, number)
    make_dynamic(module)
    state = state_of(module)
    if number == 1 or state.candidates is not None:
        return module
    candidates = copies_of(module, number - 1)
    swap_class(module, dynamic_class(module, state.bare, state.plan.attributes, switchable=True))
    module._modules[CANDIDATES] = candidates
    state.candidates = candidates
    return module


def unswitch(module: nn.Module) -> nn.Module:
    """Make a switchable norm a dynamic one with the widest candidate's tensors alone, in place.

    Returns:
        The same object.

    Raises:
        PrepareError: If it is no dynamic op.
    """
    state = state_of(module)
    if state.candidates is not None:
        swap_class(module, dynamic_class(module, state.bare, state.plan.attributes))
        drop(module, state)
    return module
