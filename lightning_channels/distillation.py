"""In-place distillation: narrow subnets learn what the widest one returns for the same batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch.nn.functional as F
from torch import Tensor

from lightning_channels._plain import is_int, is_number
from lightning_channels.errors import ConfigError, check_keys, did_you_mean
from lightning_channels.tracing.running import mapped

__all__ = ["Distillation", "DistillationLike", "build_distillation", "cross_entropy", "detached", "kl_divergence"]

Loss: TypeAlias = Callable[[Any, Any], Tensor]

_TARGETS = ("labels", "label", "targets", "target", "y")


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0, dim: int = 1) -> Tensor:
    """The Kullback-Leibler divergence of the student's distribution from the teacher's, times the temperature squared.

    The square keeps the gradients' size at any temperature (Hinton et al., "Distilling the Knowledge in a Neural
    Network", 2015).

    Args:
        student: Logits, with the classes along ``dim``.
        teacher: Logits of the same shape.
        temperature: What both are divided by.
        dim: Of the classes.

    Returns:
        A scalar: the mean over all other dims.
    """
    own = F.log_softmax(student.float() / temperature, dim)
    wanted = F.log_softmax(teacher.float() / temperature, dim)
    return F.kl_div(own, wanted, reduction="none", log_target=True).sum(dim).mean() * temperature**2


def cross_entropy(student: Tensor, batch: Any) -> Tensor:
    """``F.cross_entropy`` with the labels of a batch: its second entry, or its ``labels``, ``target`` or the like.

    Raises:
        ConfigError: If there are none.
    """
    target = None
    if isinstance(batch, Mapping):
        target = next((batch[key] for key in _TARGETS if key in batch), None)
    elif isinstance(batch, Sequence) and len(batch) > 1:
        target = batch[1]
    if not isinstance(target, Tensor):
        raise ConfigError(
            f"found no labels in a batch of type {type(batch).__name__}: a tuple or list with them in the second place "
            f"or a dict with one of {', '.join(_TARGETS)} would do; else pass hard_loss=lambda outputs, batch: ..."
        )
    return F.cross_entropy(student, target)


_LOSSES: dict[str, Loss] = {"kl": kl_divergence}
_HARD_LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy}


class Distillation:
    """The loss of a narrow subnet, which learns from the widest one in the same step.

    It is ``soft * loss(narrow outputs, widest outputs) + hard * hard_loss(narrow outputs, batch)``. The widest outputs
    have no gradient (Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV 2019, where
    the narrow ones learn from them alone).

    Args:
        loss: ``"kl"`` for logits, or a function of narrow and widest outputs.
        temperature: Of ``"kl"``.
        dim: Where ``"kl"`` finds the classes: 1 for images, -1 for sequences of tokens.
        soft: Weight of ``loss``.
        hard: Weight of ``hard_loss``.
        hard_loss: ``"cross_entropy"`` with the batch's labels, or a function of narrow outputs and batch.
        outputs: Picks what the losses get from what the net returns: a function, a key or attribute, or a place. By
            default a tensor as it is, ``logits`` where there are some, and the first entry of a tuple or list.

    Raises:
        ConfigError: If an argument isn't allowed.

    Example:
        >>> import torch
        >>> narrow, widest = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]])
        >>> float(Distillation(temperature=2.0)(narrow, widest, None))
        0.0
    """

    def __init__(
        self,
        loss: str | Loss = "kl",
        temperature: float = 1.0,
        dim: int = 1,
        soft: float = 1.0,
        hard: float = 0.0,
        hard_loss: str | Loss = "cross_entropy",
        outputs: Callable[[Any], Any] | str | int | None = None,
    ) -> None:
        for name, value in (("temperature", temperature), ("soft", soft), ("hard", hard)):
            if not is_number(value) or value < 0:
                raise ConfigError(f"distillation: {name} must be a number of at least 0, got {value!r}")
        if temperature == 0:
            raise ConfigError(f"distillation: temperature must be a number above 0, got {temperature!r}")
        if soft == hard == 0:
            raise ConfigError("distillation: with soft and hard both 0 the narrow subnets learn nothing")
        if not is_int(dim):
            raise ConfigError(f"distillation: dim must be an integer, got {dim!r}")
        self.loss, self.hard_loss = _named("loss", loss, _LOSSES), _named("hard_loss", hard_loss, _HARD_LOSSES)
        self.temperature = float(temperature)
        self.dim = dim
        self.soft = float(soft)
        self.hard = float(hard)
        if outputs is not None and not callable(outputs) and type(outputs) not in (str, int):
            raise ConfigError(f"distillation: outputs must be a function, a name or a place, got {outputs!r}")
        self.outputs = outputs

    def __call__(self, narrow: Any, widest: Any, batch: Any) -> Tensor:
        """The loss of one narrow pass.

        Args:
            narrow: What the narrow subnet returned.
            widest: What the widest one returned for the same inputs, without gradient.
            batch: What the step got.

        Returns:
            A scalar.

        Raises:
            ConfigError: If the default doesn't find logits, or if a loss doesn't return a scalar tensor.
        """
        own, wanted = self.pick(narrow), self.pick(widest)
        total: Tensor | None = None
        if self.soft:
            total = self.soft * _scalar("loss", self._soft(own, wanted))
        if self.hard:
            hard = self.hard * _scalar("hard_loss", self.hard_loss(own, batch))
            total = hard if total is None else total + hard
        assert total is not None
        return total

    def pick(self, outputs: Any) -> Any:
        """What the losses get of what a net returned.

        Raises:
            ConfigError: If ``outputs`` isn't in it.
        """
        pick = self.outputs
        if callable(pick):
            return pick(outputs)
        if pick is None:
            return _default(outputs)
        try:
            if isinstance(pick, str) and not isinstance(outputs, Mapping):
                return getattr(outputs, pick)
            return outputs[pick]
        except (AttributeError, KeyError, IndexError, TypeError) as error:
            raise ConfigError(f"distillation: the net's {type(outputs).__name__} has no output {pick!r}") from error

    def _soft(self, own: Any, wanted: Any) -> Tensor:
        if self.loss is not kl_divergence:
            return self.loss(own, wanted)
        if not isinstance(own, Tensor) or not own.is_floating_point() or not -own.dim() <= self.dim < own.dim():
            found = f"a tensor of shape {tuple(own.shape)}" if isinstance(own, Tensor) else type(own).__name__
            raise ConfigError(
                f"distillation: 'kl' needs logits with the classes along dim {self.dim}, and the net returned {found}; "
                "pick them with outputs, set dim, or give a loss of your own"
            )
        return kl_divergence(own, wanted, self.temperature, self.dim)


def _named(what: str, given: str | Loss, known: Mapping[str, Loss]) -> Loss:
    if callable(given):
        return given
    if given not in known:
        hint = did_you_mean(str(given), known) or "."
        raise ConfigError(f"distillation: unknown {what} {given!r}{hint} Known: {', '.join(known)}, or a function")
    return known[given]


def _default(outputs: Any) -> Any:
    if isinstance(outputs, Mapping) and "logits" in outputs:
        return outputs["logits"]
    if not isinstance(outputs, (Tensor, Mapping)) and hasattr(outputs, "logits"):
        return outputs.logits
    if isinstance(outputs, (tuple, list)) and outputs:
        return outputs[0]
    return outputs


def _scalar(what: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(f"distillation: {what} must return a scalar tensor, got {found}")
    return value.reshape(())


DistillationLike: TypeAlias = "Distillation | Mapping[str, Any] | Loss | None"

_KEYS = ("loss", "temperature", "dim", "soft", "hard", "hard_loss", "outputs")


def build_distillation(given: DistillationLike) -> Distillation:
    """Make a distillation of what a user wrote: its arguments as a dict, its loss as a function, or None for defaults.

    Raises:
        ConfigError: If a key is unknown or an argument isn't allowed.
    """
    if given is None:
        return Distillation()
    if isinstance(given, Distillation):
        return given
    if isinstance(given, Mapping):
        check_keys(given, _KEYS, "distillation")
        return Distillation(**given)
    if callable(given):
        return Distillation(loss=given)
    raise ConfigError(f"distillation must be a dict of its arguments, a function or a Distillation, got {given!r}")


def detached(value: Any) -> Any:
    """What a net returned, of the same kind and without gradient."""
    return mapped(Tensor.detach, value)
