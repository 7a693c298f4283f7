"""A LightningModule that is prepared while a trainer sets it up, and left as it should be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from lightning_channels.callbacks._after_build import after_build, forget
from lightning_channels.callbacks._averaging import renew_copies
from lightning_channels.callbacks._checkpoints import StructureFiles
from lightning_channels.callbacks._choices import EvalChoices, Held
from lightning_channels.callbacks._errors import as_misconfiguration, keep_visible
from lightning_channels.callbacks._inactive import InactiveHooks
from lightning_channels.callbacks._packages import is_lightnings
from lightning_channels.callbacks._preparation import adopt, describe, prepare
from lightning_channels.callbacks._pruning_run import PruningHooks
from lightning_channels.callbacks._resource_log import ResourceLog
from lightning_channels.callbacks._resume import ResumeHooks
from lightning_channels.callbacks._sandwich import SeveralPasses
from lightning_channels.callbacks._source import MutatorSource
from lightning_channels.callbacks._sync_norm import KeepDynamic
from lightning_channels.callbacks._target import check_processes, check_shards, find_target, lost_modules
from lightning_channels.callbacks._tuning import TuningHooks
from lightning_channels.callbacks._widths import choices_of
from lightning_channels.errors import ChannelsError
from lightning_channels.mutators import ChannelMutator
from lightning_channels.resources import ResourceCounter

__all__ = ["PreparedModule"]


class PreparedModule(PruningHooks, InactiveHooks, ResumeHooks, SeveralPasses, TuningHooks, ResourceLog, ABC):
    """Prepares the module of a run right after it was built, and lets go of it at the end.

    Attributes:
        example_inputs: What it is traced with.
        eval_choices: What is evaluated.
        verify: Whether and how what is found is proven.
    """

    example_inputs: Any
    eval_choices: EvalChoices
    verify: bool | Literal["full"]
    _source: MutatorSource
    _mutator: ChannelMutator | None = None

    @abstractmethod
    def _rest(self) -> None:
        """Leave the module at the choices at which it rests."""

    @property
    def state_key(self) -> str:
        """``ChannelPruning``, or ``ChannelPruning[module]``."""
        return "ChannelPruning" if self.module is None else f"ChannelPruning[{self.module}]"

    @property
    def mutator(self) -> ChannelMutator:
        """The mutator that steers the module; prepared once the trainer has set the module up.

        Raises:
            MisconfigurationException: If there is none yet.
        """
        mutator = self._mutator or self._source.given
        if mutator is None:
            raise MisconfigurationException(
                f"{self.state_key} has no mutator yet: the module is prepared when the trainer sets it up. A strategy "
                "that starts processes of its own does so there: prepare the module before, or read a checkpoint"
            )
        return mutator

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Arrange that the module is prepared as soon as it is built."""
        super().setup(trainer, pl_module, stage)
        if is_lightnings(trainer.strategy, "FSDPStrategy"):
            raise MisconfigurationException(
                f"{self.state_key}: FSDPStrategy flattens parameters, so that they have no channels. Use DDP, or "
                "ModelParallelStrategy with a module that is prepared in configure_model before fully_shard"
            )
        if stage == "fit":
            self._check_steps(pl_module, StructureFiles.callbacks_of(trainer))
        StructureFiles.install(trainer)
        KeepDynamic.install(trainer)
        self._stand_in(trainer, pl_module)
        self._watch_loops(trainer)
        after_build(pl_module, self, partial(self._on_built, trainer, pl_module, stage))

    def _on_built(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        with as_misconfiguration(self.state_key):
            target = find_target(pl_module, self.module)
            adopted = adopt(self._source, target, self._mutator)
            if adopted is not None:
                check_shards(pl_module, adopted)
            mutator = adopted or prepare(
                self._source,
                trainer,
                pl_module,
                target,
                stage=stage,
                example_inputs=self.example_inputs,
                verify=self.verify,
            )
            try:
                if adopted is None:
                    describe(self.state_key, mutator)
                    check_processes(trainer, mutator)
                sync = KeepDynamic.install(trainer) if stage == "fit" else None
                if sync is not None:
                    sync.check(target)
                self._try_choices(mutator, stage)
            except BaseException:
                if adopted is None:
                    mutator.restore()
                raise
            if self._mutator not in (None, mutator):
                self._forget_pruning()
            self._mutator, self._counter = mutator, ResourceCounter(mutator)
            if stage == "fit":
                renew_copies(trainer, pl_module, stage)

    def _try_choices(self, mutator: ChannelMutator, stage: str) -> None:
        """Find a wrong choice before the run begins."""
        held = Held(mutator)
        try:
            if isinstance(self.eval_choices, Mapping):
                mutator.set_choices(self.eval_choices)
            for width in self.widths.values():
                mutator.set_choices(choices_of(mutator, width))
            if stage == "fit":
                for choices in self._drawn(mutator, 0, 0):
                    mutator.set_choices(choices)
        finally:
            held.put_back()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the strategy's setup has left all dynamic ops in the module."""
        lost = lost_modules(self.mutator)
        if lost:
            raise MisconfigurationException(
                f"{self.state_key}: {len(lost)} prepared modules were replaced while the strategy set the model up, "
                f"among them {lost[0]!r}. Convert the model in configure_model instead: it is prepared after that"
            )
        super().on_fit_start(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take everything off the module and the trainer that stood in for a method of theirs."""
        super().teardown(trainer, pl_module, stage)
        forget(pl_module, self)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Do what the hooks that Lightning leaves out after an exception would have done."""
        super().on_exception(trainer, pl_module, exception)
        forget(pl_module, self)
        keep_visible(trainer, pl_module)
        self._leave_evaluation()
        if trainer.state.fn == TrainerFn.FITTING and self._mutator is not None:
            with suppress(ChannelsError):  # the sampler's choices may be what failed
                self._rest()
