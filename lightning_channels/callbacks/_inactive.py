"""Optimizer steps that leave inactive channels as they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_channels._modules import is_sharded
from lightning_channels.callbacks._errors import as_misconfiguration
from lightning_channels.callbacks._packages import is_lightnings
from lightning_channels.callbacks._run import RunHooks
from lightning_channels.inactive import InactiveSlices, check_optimizer
from lightning_channels.mutators import ChannelMutator

__all__ = ["InactiveHooks"]


class InactiveHooks(RunHooks, ABC):
    """Notes what each pass of a step uses, and puts back what the step did to the rest.

    All of it is kept here: the module, the optimizer's state and checkpoints are those of a run without it.
    """

    of_a_run: ClassVar[tuple[str, ...]] = ("_slices", "_stepping", "_hook")
    update_inactive: bool = True
    _slices: InactiveSlices | None = None
    _stepping: Optimizer | None = None
    _hook: RemovableHandle | None = None

    @property
    @abstractmethod
    def mutator(self) -> ChannelMutator:
        """The mutator that steers the module."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a run in which inactive channels couldn't be left as they are."""
        if self.update_inactive:
            return
        who = f"{self.state_key}: update_inactive=False"
        reason = _refusal(trainer, pl_module, self.mutator)
        if reason is not None:
            raise MisconfigurationException(f"{who} {reason}")
        with as_misconfiguration(who):
            for optimizer in trainer.optimizers:
                check_optimizer(_plain(optimizer))
        self._slices = InactiveSlices(self.mutator.model, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin anew where Lightning sets the gradients to zero; a step that was skipped has left something."""
        if self._slices is not None and batch_idx % trainer.accumulate_grad_batches == 0:
            self._slices.reset()

    def _note_active(self) -> None:
        """Count what is active now as used in the next step; to be called for each pass, once its choices are set."""
        if self._slices is not None:
            self._slices.note()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Count what the training step may have made active itself."""
        self._note_active()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Keep what is inactive; the optimizer calls this in its step, before it changes anything."""
        if self._slices is None:
            return
        optimizer = _plain(optimizer)
        if optimizer is not self._stepping:
            self._unhook()
            self._hook = optimizer.register_step_post_hook(self._on_stepped)
            self._stepping = optimizer
        with as_misconfiguration(f"{self.state_key}: update_inactive=False"):
            self._slices.hold(optimizer)

    def _on_stepped(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._slices is not None:
            self._slices.put_back(optimizer)

    def _unhook(self) -> None:
        hook, self._hook, self._stepping = self._hook, None, None
        if hook is not None:
            hook.remove()

    def _leave_optimizers(self) -> None:
        self._unhook()
        self._slices = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the optimizers as they were."""
        super().on_train_end(trainer, pl_module)
        self._leave_optimizers()

    def _let_go(self) -> None:
        super()._let_go()
        self._leave_optimizers()


def _plain(optimizer: Any) -> Optimizer:
    """The optimizer itself: Lightning's stand-in for it calls no hooks."""
    plain: Optimizer = optimizer.optimizer if is_lightnings(optimizer, "LightningOptimizer") else optimizer
    return plain


def _refusal(trainer: Trainer, pl_module: LightningModule, mutator: ChannelMutator) -> str | None:
    """Why inactive channels can't be left as they are, whatever the optimizer; None if they can."""
    if not pl_module.automatic_optimization:
        return "needs automatic optimization: nobody else knows which passes a step is made of"
    if trainer.strategy.handles_gradient_accumulation:
        return f"doesn't work with {type(trainer.strategy).__name__}, which steps by itself"
    if any(map(is_sharded, mutator.model.parameters())):
        return "doesn't work with sharded parameters; use DDP"
    return None
