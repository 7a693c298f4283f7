"""The callback: makes a LightningModule slimmable and trains a subnet of it at each step."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Literal, TypeVar

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from lightning_channels.callbacks._after_build import after_build, forget
from lightning_channels.callbacks._checkpoints import StructureFiles
from lightning_channels.callbacks._choices import Held, read_eval_choices
from lightning_channels.callbacks._errors import as_misconfiguration, keep_visible
from lightning_channels.callbacks._evaluation import EvaluationHooks
from lightning_channels.callbacks._preparation import adopt, describe, prepare
from lightning_channels.callbacks._source import MutatorSource
from lightning_channels.callbacks._sync_norm import KeepDynamic
from lightning_channels.callbacks._target import check_ranks_agree, find_mutators, find_target, lost_modules
from lightning_channels.errors import ChannelsError, ConfigError
from lightning_channels.mutators import ChannelMutator
from lightning_channels.resources import ResourceCounter
from lightning_channels.samplers import Choices, FixedSampler, SamplerLike, build_sampler

__all__ = ["ChannelPruning"]

Model = TypeVar("Model", bound=nn.Module)


class _Default(str):
    """A default that can be told from the same string given by the user."""


_RANDOM = _Default("random")


class ChannelPruning(EvaluationHooks):
    """Makes a LightningModule's channels prunable and trains another subnet of it at each step.

    The module is prepared right after ``__init__``, ``setup`` or ``configure_model`` built its net, whichever comes
    last: its layers become dynamic ops in place, with the same parameters. Before each training batch the sampler's
    choices are set; validation, test and prediction run at the widest choices. After ``fit`` the module stands at the
    widest choices, or at the fixed ones. Everything that is needed to go on, or to rebuild the mutator without tracing,
    is in each checkpoint and in a file ``*.structure.yaml`` beside it.

    Args:
        mutator: A :class:`~lightning_channels.ChannelMutator`, its template or structure as a dict, or the path of a
            template, a structure file or a checkpoint. By default a mutator of sequential units.
        unit: Short for a mutator of this type of unit: its name, its class, or a dict with ``type`` and arguments. Only
            without ``mutator``.
        sampler: ``"random"``, ``"max"``, ``"min"``, ``"fixed"``, a dict with ``type`` and arguments
            (``{"type": "random", "ratios": [0.5, 1.0], "shared": True}``), a sampler, or a function
            ``f(mutator, *, seed, epoch, batch_idx) -> choices``.
        choices: Choices to train with throughout, as a dict or as the path of a YAML or JSON file.
        every_n_steps: Draw new choices for every n-th batch of an epoch only. With ``accumulate_grad_batches=n`` one
            optimizer step then belongs to one subnet.
        module: Dotted name of the submodule to confine the callback to.
        seed: The choices of a step are a function of this, the epoch and the batch's index; it must be the same on all
            ranks.
        example_inputs: What to trace the target with: a tensor, a tuple of positional arguments, or a dict of keyword
            arguments. By default the module's ``example_input_array``, else the first batch of the loader.
        eval_choices: ``"max"``, ``"min"``, ``"current"`` (whatever is active), a dict, or the path of a file: what to
            validate, test and predict with. By default the widest, or ``choices`` where these are given.
        log_resources: Log ``channels/flops`` and ``channels/params``, the active shares, at each step
            (``channels/<module>/…`` where several of these callbacks run).
        prog_bar: Show both in the progress bar, too.
        verify: Passed to ``prepare_from_supernet``: prove that the narrowed model computes the right thing; ``"full"``
            proves each unit alone as well.
        save_structure: Write a structure file beside each checkpoint: ``x.structure.yaml`` for ``x.ckpt``
            (``x.<module>.structure.yaml`` where several of these callbacks run).

    Raises:
        MisconfigurationException: If an argument isn't allowed; and from ``trainer.fit``, before the first step, if
            nothing can be pruned, if the model is sharded already, or if it can't be traced.

    Example::

        from lightning.pytorch import Trainer
        from lightning_channels import ChannelPruning

        trainer = Trainer(callbacks=[ChannelPruning()])
        trainer.fit(model)
    """

    def __init__(
        self,
        mutator: ChannelMutator | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        unit: str | type | Mapping[str, Any] | None = None,
        sampler: SamplerLike = _RANDOM,
        choices: Mapping[str, int | float] | str | os.PathLike[str] | None = None,
        every_n_steps: int = 1,
        module: str | None = None,
        seed: int = 0,
        *,
        example_inputs: Any = None,
        eval_choices: str | Mapping[str, int | float] | os.PathLike[str] | None = None,
        log_resources: bool = True,
        prog_bar: bool = False,
        verify: bool | Literal["full"] = True,
        save_structure: bool = True,
    ) -> None:
        super().__init__()
        self.module = module
        self.every_n_steps = every_n_steps
        self.seed = seed
        self.example_inputs = example_inputs
        self.log_resources = log_resources
        self.prog_bar = prog_bar
        self.verify = verify
        self.save_structure = save_structure
        with as_misconfiguration("ChannelPruning"):
            self._check_arguments()
            if choices is not None and isinstance(sampler, _Default):
                sampler = "fixed"
            self.sampler = build_sampler(sampler, choices)
            self.eval_choices = read_eval_choices(eval_choices)
            self._source = MutatorSource(mutator, unit, module)
        self._mutator: ChannelMutator | None = None
        self._counter: ResourceCounter | None = None

    def _check_arguments(self) -> None:
        if self.module is not None and (type(self.module) is not str or not self.module):
            raise ConfigError(f"module must be the dotted name of a submodule, or None, got {self.module!r}")
        for name in ("every_n_steps", "seed"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"{name} must be an integer, got {value!r}")
        if self.every_n_steps < 1:
            raise ConfigError(f"every_n_steps must be at least 1, got {self.every_n_steps}")
        for name in ("log_resources", "prog_bar", "save_structure"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if not (isinstance(self.verify, bool) or self.verify == "full"):
            raise ConfigError(f"verify must be true or false, or 'full', got {self.verify!r}")

    # --- what users ask for ------------------------------------------------------------------------------------------

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
                f"{self.state_key} has no mutator yet: the module is prepared when the trainer sets it up"
            )
        return mutator

    @staticmethod
    def restore(model: Model) -> Model:
        """Give the prepared modules in ``model`` their plain classes back; parameters stay as they are.

        Args:
            model: A LightningModule, or any module; nothing happens if nothing in it is prepared.

        Returns:
            The same model.
        """
        for mutator in find_mutators(model).values():
            mutator.restore()
        return model

    # --- preparing ---------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Arrange that the module is prepared as soon as it is built."""
        if isinstance(trainer.strategy, FSDPStrategy):
            raise MisconfigurationException(
                f"{self.state_key}: FSDPStrategy flattens parameters, so that they have no channels. Use DDP, or "
                "ModelParallelStrategy with a module that is prepared in configure_model before fully_shard"
            )
        StructureFiles.install(trainer)
        KeepDynamic.install(trainer)
        after_build(pl_module, self, partial(self._on_built, trainer, pl_module, stage))

    def _on_built(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        with as_misconfiguration(self.state_key):
            target = find_target(pl_module, self.module)
            adopted = adopt(self._source, target, self._mutator)
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
                sync = KeepDynamic.install(trainer) if stage == "fit" else None
                if sync is not None:
                    sync.check(target)
                self._try_choices(mutator, stage)
            except BaseException:
                if adopted is None:
                    mutator.restore()
                raise
            self._mutator, self._counter = mutator, ResourceCounter(mutator)

    def _try_choices(self, mutator: ChannelMutator, stage: str) -> None:
        """Find a wrong choice before the run begins."""
        held = Held(mutator)
        try:
            if isinstance(self.eval_choices, dict):
                mutator.set_choices(self.eval_choices)
            if stage == "fit":
                mutator.set_choices(self._choices(mutator, 0, 0))
        finally:
            held.put_back()

    # --- training ----------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the strategy's setup has left all dynamic ops in the module."""
        lost = lost_modules(self.mutator)
        if lost:
            raise MisconfigurationException(
                f"{self.state_key}: {len(lost)} prepared modules were replaced while the strategy set the model up, "
                f"among them {lost[0]!r}. Convert the model in configure_model instead: it is prepared after that"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that all ranks have the same units and draw the same choices."""
        facts = {
            "units": [(unit.name, unit.num_channels) for unit in self.mutator.mutable_units],
            "choices": self._choices(self.mutator, trainer.current_epoch, 0),
            "every_n_steps": self.every_n_steps,
        }
        check_ranks_agree(trainer, self.state_key, facts)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the choices of this step."""
        try:
            self.mutator.set_choices(self._choices(self.mutator, trainer.current_epoch, batch_idx))
        except ChannelsError as error:
            raise MisconfigurationException(f"{self.state_key}: the sampler's choices don't fit: {error}") from error
        if self.log_resources and not trainer.barebones:
            self._log_shares(trainer, pl_module)

    def _choices(self, mutator: ChannelMutator, epoch: int, batch_idx: int) -> Choices:
        step = batch_idx // self.every_n_steps * self.every_n_steps
        return self.sampler.choices(mutator, seed=self.seed, epoch=epoch, batch_idx=step)

    def _log_shares(self, trainer: Trainer, pl_module: LightningModule) -> None:
        alone = len(StructureFiles.callbacks_of(trainer)) == 1
        prefix = "channels/" if alone or self.module is None else f"channels/{self.module}/"
        counter = self._counter
        assert counter is not None
        shares = {
            "flops": (counter.active_macs(), counter.total_macs),
            "params": (counter.active_params(), counter.total_params),
        }
        for name, (active, total) in shares.items():
            if total:
                pl_module.log(prefix + name, active / total, prog_bar=self.prog_bar, on_step=True, on_epoch=False)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the module at the widest choices, or at the fixed ones."""
        self._rest()

    def _rest(self) -> None:
        mutator = self.mutator
        fixed = isinstance(self.sampler, FixedSampler)
        mutator.set_choices(self._choices(mutator, 0, 0) if fixed else mutator.sample_choices("max"))

    def _evaluation_choices(self) -> Choices | None:
        if self.eval_choices == "current":
            return None
        widest = self.mutator.sample_choices("max")
        if isinstance(self.eval_choices, dict):
            return {**widest, **self.eval_choices}
        if self.eval_choices is None and isinstance(self.sampler, FixedSampler):
            return self._choices(self.mutator, 0, 0)
        return self.mutator.sample_choices("min") if self.eval_choices == "min" else widest

    # --- leaving -----------------------------------------------------------------------------------------------------

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take everything off the module that stood in for a method of it."""
        forget(pl_module, self)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Do what the hooks that Lightning leaves out after an exception would have done."""
        forget(pl_module, self)
        keep_visible(trainer, pl_module)
        self._leave_evaluation()
        if trainer.state.fn == TrainerFn.FITTING and self._mutator is not None:
            with suppress(ChannelsError):  # the sampler's choices may be what failed
                self._rest()

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The mutator's structure: plain data, from which it can be rebuilt without tracing."""
        return {} if self._mutator is None else self._mutator.structure()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint's units fit the module, and set its choices."""
        advice = "Resume with the model and units that the checkpoint was written with, or without this checkpoint"
        with as_misconfiguration(f"{self.state_key}: the checkpoint doesn't fit the model", advice):
            if self._mutator is not None:
                self._mutator.load_structure(state_dict)
