"""A run that prunes: to a target, by a criterion, on a schedule; and the recovery of what is left."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable
from typing import Any, ClassVar

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_debug, rank_zero_info, rank_zero_warn

from lightning_channels._modules import is_sharded
from lightning_channels._plain import is_number
from lightning_channels.callbacks._averaging import computes_statistics
from lightning_channels.callbacks._checkpoints import PRUNING
from lightning_channels.callbacks._errors import as_misconfiguration
from lightning_channels.callbacks._hold_back import HoldBack
from lightning_channels.callbacks._latency import Measuring, latency_for, latency_line
from lightning_channels.callbacks._recovery import Recovery
from lightning_channels.callbacks._rewind import Rewind
from lightning_channels.callbacks._sandwich import SeveralPasses
from lightning_channels.callbacks._target import check_ranks_agree
from lightning_channels.callbacks._taught import TaughtSteps
from lightning_channels.callbacks._teacher import Frozen, Teacher, check_frozen, check_tensors, freeze
from lightning_channels.errors import StructureError, check_keys
from lightning_channels.pruning import PruneEvent, Pruner
from lightning_channels.resources import LatencyModel, Resources
from lightning_channels.resources.latency_data import LatencyData
from lightning_channels.samplers import Choices

__all__ = ["PrunedSubnet", "PruningHooks"]

_STATE = ("pruner", "progress", "teacher", "latency")

_OTHER_CHANNELS = (
    "the ranks don't agree on which channels to keep, and would train different subnets without an error. A criterion "
    "must give the same scores on all of them: from weights and gradients, which they share, or from what it reduces "
    "over them"
)


class PrunedSubnet:
    """The sampler of a pruned net: trains what is active."""

    def choices(self, mutator: Any, *, seed: int, epoch: int, batch_idx: int) -> Choices:
        """None: all units stay as they are."""
        return {}


class PruningHooks(SeveralPasses, ABC):
    """Prunes between the steps of a training, and helps what is left to recover.

    Attributes:
        recovery: How it recovers.
        log_resources: Whether it logs how far it is.
    """

    of_a_run: ClassVar[tuple[str, ...]] = ("_taught", "_rewind", "_held_back")
    recovery: Recovery
    log_resources: bool
    example_inputs: Any
    _make_pruner: Callable[[], Pruner] | None = None
    _pruner: Pruner | None = None
    _measuring: Measuring | None = None
    _latency: dict[str, Any] | None = None
    _progress = 0.0
    _frozen: Frozen | None = None
    _looked_at: int | None = None
    _taught: TaughtSteps | None = None
    _rewind: Rewind | None = None
    _held_back: HoldBack | None = None

    @property
    def pruner(self) -> Pruner:
        """What prunes the module.

        Raises:
            MisconfigurationException: If the callback doesn't prune.
        """
        if self._pruner is None:
            raise MisconfigurationException(
                f"{self.state_key} prunes to no target; give it one, for instance target={{'flops': 0.5}}"
            )
        return self._pruner

    def _forget_pruning(self) -> None:
        """Begin anew with another model."""
        if self._make_pruner is not None:
            self._pruner = self._make_pruner()
        self._progress, self._frozen, self._latency = 0.0, None, None

    @property
    def _has_teacher(self) -> bool:
        return self._pruner is not None and self.recovery.teacher is not None

    @property
    def _watcher(self) -> str | None:
        """A teacher, or whatever else does."""
        return "a teacher" if self._has_teacher else super()._watcher

    # --- beginning ---------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember how learning rates begin, before a checkpoint's are loaded."""
        super().on_fit_start(trainer, pl_module)
        if self._pruner is None:
            return
        with as_misconfiguration(self.state_key):
            self._rewind = Rewind(trainer) if self.recovery.lr_rewind else None
        if self.recovery.teacher == "frozen" and any(map(is_sharded, pl_module.parameters())):
            raise MisconfigurationException(
                f"{self.state_key}: teacher='frozen' puts the weights from before the pruning in the place of those of "
                "now, which can't be done with sharded ones; use teacher='live'"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the schedule, or go on with it."""
        super().on_train_start(trainer, pl_module)
        pruner = self._pruner
        if pruner is None:
            return
        self._looked_at = None
        if not pruner.finished:
            self._agree_on_divisor(trainer, pruner)
            self._start_pruner(trainer, pl_module, pruner)
        if self.recovery.hold_back:
            self._held_back = HoldBack(trainer, lambda: pruner.finished)
        if self._has_teacher:
            if self._frozen is not None:
                with as_misconfiguration(self.state_key):
                    check_frozen(self._frozen, pl_module)
            self._taught = TaughtSteps(pl_module, self.mutator, self.distillation)
            self._call_teacher(pl_module)

    def _start_pruner(self, trainer: Trainer, pl_module: LightningModule, pruner: Pruner) -> None:
        with as_misconfiguration(self.state_key):
            resources = self._resources(trainer, pl_module)
            steps: float | None = _steps(trainer)
            if _is_trial(trainer):  # a few batches, of a training whose steps were meant
                steps = pruner.timing.trial(pruner.schedule, _steps(trainer))
            pruner.start(self.mutator, steps, resources)
        if resources is not None and not pruner.finished:
            rank_zero_info(f"{self.state_key}: {latency_line(resources, pruner)}")

    def _resources(self, trainer: Trainer, pl_module: LightningModule) -> Resources | None:
        """What choices cost where that takes more than counting: with latency, which is measured once."""
        if self._measuring is None:
            return None
        if self._latency is None:
            self._latency = latency_for(self._measuring, trainer, pl_module, self.mutator, self.example_inputs)
        resources = Resources(self.mutator, per_sample=True)
        resources.add_latency(LatencyModel.from_dict(self.mutator, self._latency))
        return resources

    def _agree_on_divisor(self, trainer: Trainer, pruner: Pruner) -> None:
        """Take rank zero's, where the machine decides: ranks may be on different ones."""
        if pruner.auto_divisor:
            pruner.divisor = trainer.strategy.broadcast(pruner.divisor)
            rank_zero_info(f"{self.state_key}: layers are pruned to multiples of {pruner.divisor} (divisor='auto')")

    # --- a step ------------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Prune, if the schedule says so."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        # once a step: its other batches add to the gradients of the same subnet
        if self._pruner is not None and trainer.global_step != self._looked_at and not computes_statistics(trainer):
            self._looked_at = trainer.global_step
            self._prune(trainer, pl_module)

    def _prune(self, trainer: Trainer, pl_module: LightningModule) -> None:
        was_finished = self.pruner.finished
        with as_misconfiguration(self.state_key):
            event = self.pruner.before_step(trainer.global_step)
        if event is not None:
            self._note_event(trainer, pl_module, event)
        if self._rewind is not None and self.pruner.finished and not was_finished:
            self._rewind.back()

    def _note_event(self, trainer: Trainer, pl_module: LightningModule, event: PruneEvent) -> None:
        check_ranks_agree(trainer, self.state_key, [event.after, self.mutator.kept_channels()], _OTHER_CHANNELS)
        self._progress = event.progress
        say = rank_zero_info if event.finished else rank_zero_debug  # a schedule may have hundreds
        say(f"{self.state_key}: {event}")
        if self.recovery.teacher == "frozen" and self._frozen is None:  # pruning leaves the weights as they are
            self._frozen = freeze(pl_module)
        self._call_teacher(pl_module)

    def _call_teacher(self, pl_module: LightningModule) -> None:
        """Let the teacher teach, if there is something that the unpruned model knows better."""
        is_live = self.recovery.teacher == "live"
        if self._taught is not None and self._taught.teacher is None and (is_live or self._frozen is not None):
            self._taught.teacher = Teacher(pl_module, self.mutator, None if is_live else self._frozen)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the criterion look at the gradients."""
        if self._pruner is not None:
            _tell_scale(self._pruner.criterion, trainer)
            self._pruner.after_backward()
        super().on_after_backward(trainer, pl_module)

    def _log_pruning(self, trainer: Trainer, pl_module: LightningModule, part: str) -> None:
        if self._pruner is not None and self.log_resources and not trainer.barebones:
            found = {"progress": self._progress, "finished": float(self._pruner.finished)}
            for name, value in found.items():
                pl_module.log(f"channels/{part}{name}", value, on_step=True, on_epoch=False)

    # --- ending ------------------------------------------------------------------------------------------------------

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the module; it stays pruned."""
        super().on_train_end(trainer, pl_module)
        left = self._pruner.unfinished() if self._pruner is not None and self._pruner.started else None
        if left is not None and not _is_trial(trainer):
            rank_zero_warn(
                f"{self.state_key}: the training ended at step {trainer.global_step}, before the pruning did: {left}"
            )
        self._leave_pruning()

    def _leave_pruning(self) -> None:
        if self._pruner is not None:
            self._pruner.stop()
        if self._taught is not None:
            self._taught.take_off()
        if self._held_back is not None:
            self._held_back.take_off()
        self._taught = self._rewind = self._held_back = None

    def _let_go(self) -> None:
        super()._let_go()
        self._leave_pruning()

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def _pruning_state(self) -> dict[str, Any]:
        """What a checkpoint holds besides the structure: plain data and tensors."""
        if self._pruner is None:
            return {}
        state = {"pruner": self._pruner.state_dict(), "progress": self._progress, "teacher": self._frozen}
        return {PRUNING: state if self._latency is None else {**state, "latency": self._latency}}

    def _read_pruning(self, state: Any) -> tuple[Pruner, float, Frozen | None, dict[str, Any] | None] | None:
        """Pruner, progress, teacher and latency of such a state; None where nothing is pruned by a criterion.

        Raises:
            ConfigError: If it is something else.
        """
        if self._make_pruner is None:
            return None
        check_keys(state, _STATE, "a pruning's state", StructureError)
        progress, frozen = state.get("progress"), state.get("teacher")
        if not is_number(progress) or not 0 <= progress <= 1:
            raise StructureError(f"a pruning's progress must be a number in [0, 1], got {progress!r}")
        check_tensors(frozen)
        measured = state.get("latency")
        latency = None if measured is None else LatencyData.of(measured).to_dict()
        pruner = self._make_pruner()
        pruner.load_state_dict(state.get("pruner"))
        return pruner, float(progress), frozen, latency


def _steps(trainer: Trainer) -> int | None:
    """How many optimizer steps the training has; None where nobody knows."""
    if not trainer.lightning_module.automatic_optimization:
        return None
    steps = trainer.estimated_stepping_batches
    return int(steps) if math.isfinite(steps) and steps >= 0 else None


def _is_trial(trainer: Trainer) -> bool:
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def _tell_scale(criterion: Any, trainer: Trainer) -> None:
    """Tell a criterion of gradients what they are multiplied by in half precision."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is not None and hasattr(criterion, "loss_scale"):
        criterion.loss_scale = scaler.get_scale()
