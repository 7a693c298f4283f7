"""The callback: makes a LightningModule slimmable and trains a subnet of it at each step."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_channels.callbacks._arguments import check_arguments
from lightning_channels.callbacks._averaging import computes_statistics, statistics_choices
from lightning_channels.callbacks._checkpoints import PRUNING
from lightning_channels.callbacks._choices import read_eval_choices
from lightning_channels.callbacks._errors import as_misconfiguration
from lightning_channels.callbacks._latency import read_latency
from lightning_channels.callbacks._passes import Memory
from lightning_channels.callbacks._prepared import PreparedModule
from lightning_channels.callbacks._pruning_run import PrunedSubnet
from lightning_channels.callbacks._recovery import pruner_maker, read_recovery
from lightning_channels.callbacks._source import MutatorSource
from lightning_channels.callbacks._target import check_ranks_agree, find_mutators
from lightning_channels.callbacks._widths import read_widths
from lightning_channels.criteria import CriterionLike
from lightning_channels.distillation import DistillationLike, build_distillation
from lightning_channels.errors import ChannelsError, ConfigError
from lightning_channels.mutators import ChannelMutator
from lightning_channels.pruning import ScheduleLike, TargetLike
from lightning_channels.samplers import Choices, FixedSampler, Sampler, SamplerLike, build_sampler

__all__ = ["ChannelPruning"]

Model = TypeVar("Model", bound=nn.Module)


class ChannelPruning(PreparedModule):
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
        sampler: ``"random"``, ``"max"``, ``"min"``, ``"fixed"``, ``"cycle"``, ``"sandwich"``, a dict with ``type`` and
            arguments (``{"type": "sandwich", "n_random": 2, "ratios": [0.25, 0.5, 0.75, 1.0]}``), a sampler, or a
            function ``f(mutator, *, seed, epoch, batch_idx) -> choices``.
        choices: Choices to train with throughout, as a dict or as the path of a YAML or JSON file: of choices, of a
            structure, or one that :func:`~lightning_channels.save_subnet` wrote.
        every_n_steps: Draw new choices for every n-th batch of an epoch only. With ``accumulate_grad_batches=n`` one
            optimizer step then belongs to one subnet.
        module: Dotted name of the submodule to confine the callback to.
        seed: The choices of a step are a function of this, the epoch and the batch's index; it must be the same on all
            ranks.
        example_inputs: What to trace the target with: a tensor, a tuple of positional arguments, or a dict of keyword
            arguments. By default the module's ``example_input_array``, else the first batch of the loader.
        eval_choices: ``"max"``, ``"min"``, ``"current"`` (whatever is active), a dict, or the path of a file: what to
            validate, test and predict with. By default the widest, or ``choices`` where these are given.
        log_resources: Log ``channels/flops`` and ``channels/params``, the active shares, at each step, or the averages
            over its passes (``channels/<module>/…`` where several of these callbacks run).
        prog_bar: Show both in the progress bar, too.
        distillation: What the narrow subnets of a sandwich learn: the arguments of
            :class:`~lightning_channels.distillation.Distillation` as a dict, its loss as a function, or one. By default
            the widest one's logits.
        memory: How a sandwich's passes are run: ``"fast"``, with one backward pass through all of them, or ``"lean"``,
            with one after each, which takes the memory of a single pass, and as many reductions of gradients as passes.
        validate: Widths to validate at besides the ordinary ones: a list of ``"max"``, ``"min"``, parts of the channels
            and paths of choices, or a dict, name → such a width or choices. What the module logs while it validates is
            logged for each as ``val_acc/max``, ``val_acc/0.5``, …, and may be monitored (``val_acc/<module>/max`` where
            several of these callbacks run; the others' parts have their ordinary widths meanwhile).
        recalibrate: Number of training batches on which batch-norm statistics are computed anew for each width that is
            validated or tested; 0 for none. Afterwards they are as they were.
        verify: Passed to ``prepare_from_supernet``: prove that the narrowed model computes the right thing; ``"full"``
            proves each unit alone as well.
        save_structure: Write a structure file beside each checkpoint: ``x.structure.yaml`` for ``x.ckpt``
            (``x.<module>.structure.yaml`` where several of these callbacks run).
        exact_resume: Write each rank's state of Python's, NumPy's and torch's random number generators into each
            checkpoint, and go on with it when a run is resumed, so that it computes what it would have computed.
        update_inactive: Let an optimizer step move channels that were inactive in all of its batches, too: their
            gradients are zero, but weight decay and momentum go on. ``False`` leaves them and their optimizer state as
            they are; it needs automatic optimization, and SGD, Adam, AdamW or an optimizer like these.
        criterion: What a channel is worth, for a callback that prunes instead of drawing subnets: ``"l1"`` and others
            by name, a dict with ``type`` and arguments, a criterion, or a function unit → scores. ``"l1"`` by default.
        target: What may be left at the end of the pruning, by resource: a share of the whole net
            (``{"flops": 0.5}``, ``"50%"``) or an amount (``{"params": "10M"}``). ``{"latency_ms": "3ms"}`` is measured
            where the module is, before the first step.
        schedule: How to go there: ``"one_shot"`` (the default), ``"linear"``, ``"cubic"``, ``"greedy"``, a dict with
            ``type``, its arguments, ``start_step``, ``end_step`` and ``interval``, or a function progress → share of
            the way. By default the first half of the training prunes, and the second half fine-tunes what is left.
        pruning: More about what is pruned, as a dict: ``scope``, ``floor``, ``ignore``, ``divisor``, ``normalizer``,
            ``regrow`` of :class:`~lightning_channels.pruning.Pruner`, and for a target in milliseconds ``latency``: a
            dict of ``batch_size`` (1 by default), ``device``, ``example_inputs``, ``shares``, ``random_choices``,
            ``seed`` and ``progress``; or a :class:`~lightning_channels.LatencyModel`, or the path of a saved one.
        recovery: How the pruned subnet recovers, as a dict. ``teacher``: the unpruned model, from which it learns what
            ``distillation`` says besides its own loss: as it was before the pruning (``"frozen"``, the default with a
            ``distillation``), or with the weights of now (``"live"``). ``lr_rewind=True``: learning-rate schedulers
            begin anew when the pruning is finished. ``hold_back=False``: early stopping and checkpoints of the best
            metric don't wait until then.

    Raises:
        MisconfigurationException: If an argument isn't allowed; and from ``trainer.fit``, before the first step, if
            nothing can be pruned, if the model is sharded already, if it can't be traced, or if the sampler or
            ``update_inactive=False`` doesn't go with the optimizer or the strategy.

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
        sampler: SamplerLike | None = None,
        choices: Mapping[str, int | float] | str | os.PathLike[str] | None = None,
        every_n_steps: int = 1,
        module: str | None = None,
        seed: int = 0,
        *,
        example_inputs: Any = None,
        eval_choices: str | Mapping[str, int | float] | os.PathLike[str] | None = None,
        log_resources: bool = True,
        prog_bar: bool = False,
        distillation: DistillationLike = None,
        memory: Memory = "fast",
        validate: Any = None,
        recalibrate: int = 0,
        verify: bool | Literal["full"] = True,
        save_structure: bool = True,
        exact_resume: bool = True,
        update_inactive: bool = True,
        criterion: CriterionLike | None = None,
        target: TargetLike | None = None,
        schedule: ScheduleLike | None = None,
        pruning: Mapping[str, Any] | None = None,
        recovery: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.every_n_steps = every_n_steps
        self.seed = seed
        self.example_inputs = example_inputs
        self.log_resources = log_resources
        self.prog_bar = prog_bar
        self.memory = memory
        self.recalibrate = recalibrate
        self.verify = verify
        self.save_structure = save_structure
        self.exact_resume = exact_resume
        self.update_inactive = update_inactive
        with as_misconfiguration("ChannelPruning"):
            check_arguments(self)
            self._source = MutatorSource(mutator, unit, module)
            self._make_pruner = pruner_maker(criterion, target, schedule, pruning, self._source.recipe)
            self.recovery = read_recovery(recovery, self._make_pruner is not None, distillation is not None)
            self._measuring = read_latency(pruning, target)
            self._forget_pruning()
            self.sampler = self._sampler_of(sampler, choices)
            self.eval_choices = read_eval_choices(eval_choices)
            self.distillation = build_distillation(distillation)
            self.widths = read_widths(validate)
        self._shares: list[tuple[int, int]] = []

    def _sampler_of(self, sampler: SamplerLike | None, choices: Any) -> Sampler:
        if self._make_pruner is None:
            default = "random" if choices is None else "fixed"
            return build_sampler(default if sampler is None else sampler, choices)
        if choices is not None or sampler is not None:
            raise ConfigError(
                f"{'choices' if sampler is None else 'a sampler'} and a pruning were both given: where channels are "
                "pruned by a criterion, the pruned subnet is trained, and nothing is drawn. Leave out one of the two"
            )
        return PrunedSubnet()

    # --- what users ask for ------------------------------------------------------------------------------------------

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

    # --- training ----------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that all ranks have the same units and draw the same choices; go on where a checkpoint was written."""
        facts = {
            "units": [(unit.name, unit.num_channels) for unit in self.mutator.mutable_units],
            "divisors": [getattr(unit, "divisor", 1) for unit in self.mutator.mutable_units],
            "choices": self._drawn(self.mutator, trainer.current_epoch, 0),
            "kept": self.mutator.kept_channels(),
            "order": [unit.order for unit in self.mutator.mutable_units],
            "every_n_steps": self.every_n_steps,
        }
        check_ranks_agree(trainer, self.state_key, facts)
        self._start_passes(trainer, pl_module)
        super().on_train_start(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the choices of this step, or of its first pass."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        try:
            drawn = self._drawn(self.mutator, trainer.current_epoch, batch_idx)
            if computes_statistics(trainer):
                drawn = [statistics_choices(self.mutator, drawn[0], self._resting(), batch_idx)]
            self.mutator.set_choices(drawn[0])
        except ChannelsError as error:
            raise MisconfigurationException(f"{self.state_key}: the sampler's choices don't fit: {error}") from error
        self._shares = []
        self._on_width()
        self._begin_passes(drawn)
        if self._passes is None:
            self._log_shares(trainer, pl_module)
        self._log_pruning(trainer, pl_module, self._part(trainer))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Log the average over the passes of the step."""
        if self._passes is not None:
            self._log_shares(trainer, pl_module)

    def _on_width(self) -> None:
        """Note what a pass uses."""
        self._note_active()
        self._note_shares()

    def _choices(self, mutator: ChannelMutator, epoch: int, batch_idx: int) -> Choices:
        """Those of a step's first pass."""
        return self._drawn(mutator, epoch, batch_idx)[0]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the module at the widest choices, or at the fixed ones."""
        self._rest()

    def _rest(self) -> None:
        self.mutator.set_choices(self._resting())

    def _resting(self) -> Choices:
        """The fixed choices, the pruned ones, or the widest."""
        fixed = isinstance(self.sampler, (FixedSampler, PrunedSubnet))
        return self._choices(self.mutator, 0, 0) if fixed else self.mutator.sample_choices("max")

    def _evaluation_choices(self) -> Choices | None:
        if self.eval_choices == "current":
            return None
        if self.eval_choices is None:
            return self._resting()
        if isinstance(self.eval_choices, Mapping):
            return {**self.mutator.sample_choices("max"), **self.eval_choices}
        return self.mutator.sample_choices(self.eval_choices)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The mutator's structure: plain data, from which it can be rebuilt without tracing."""
        return {**self.structure(), **self._pruning_state()} if self._mutator is not None else {}

    def structure(self) -> dict[str, Any]:
        """The mutator's structure, as the file beside a checkpoint holds it; empty before there is a mutator."""
        return {} if self._mutator is None else self._mutator.structure()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint's units fit the module, and set its choices."""
        advice = "Resume with the model and units that the checkpoint was written with, or without this checkpoint"
        structure: Any = state_dict  # whatever a file holds
        pruning = None
        if isinstance(structure, Mapping):
            structure = dict(structure)
            pruning = structure.pop(PRUNING, None)
        with as_misconfiguration(f"{self.state_key}: the checkpoint doesn't fit the model", advice):
            pruned = None if pruning is None else self._read_pruning(pruning)
            if self._mutator is not None:
                self._mutator.load_structure(structure)
            if pruned is not None:
                self._pruner, self._progress, self._frozen, self._latency = pruned
