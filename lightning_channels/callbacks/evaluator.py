"""What a subnet's validation logs, for a search that tries many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader

from lightning_channels._modules import is_sharded
from lightning_channels._plain import is_int
from lightning_channels._rng import preserve_rng
from lightning_channels.callbacks._alone import trainer_alone
from lightning_channels.callbacks._choices import Held
from lightning_channels.callbacks._example import generators_of
from lightning_channels.callbacks._packages import is_lightnings
from lightning_channels.callbacks._random_state import seed_anew
from lightning_channels.callbacks._recalibrate import forward_of, moved_batches
from lightning_channels.callbacks._target import find_mutators, lost_modules
from lightning_channels.callbacks._validation import Validation
from lightning_channels.errors import ConfigError, PrepareError, did_you_mean
from lightning_channels.mutators import ChannelMutator
from lightning_channels.recalibration import recalibrated
from lightning_channels.samplers import Choices

__all__ = ["SubnetEvaluator"]


class SubnetEvaluator:
    """Validates a prepared module at any choices: a function choices → all metrics that the validation logs.

    The validation is Lightning's own, by a trainer of this process alone: on one device, without logger, checkpoints,
    progress bar and early stopping. It is set up at the first call; afterwards a call runs the batches and little else.
    The same choices give the same metrics: random number generators start anew for each, so that a loader that shuffles
    gives all candidates the same batches. Afterwards choices, statistics, modes, the module's trainer and the
    generators are as they were; the module stays on the trainer's device.

    Args:
        trainer: The arguments of a ``Trainer`` as a dict (``{"accelerator": "gpu", "precision": "bf16-mixed"}``), or a
            trainer, whose device, precision and callbacks are taken over; what belongs to a training is left out.
        module: A LightningModule that is prepared, by a ``ChannelPruning`` that it was trained with or by hand, or one
            of whose submodules is.
        metric: A metric that has to be among those that are logged.
        datamodule: Where the batches come from, if not from the module's ``val_dataloader``.
        dataloaders: One or several validation loaders, in place of a data module.
        batches: Validate on the first ``batches`` of each loader alone; on all by default.
        recalibrate: Compute the batch-norm statistics of each candidate anew, on this many training batches.
        recalibrate_on: The training batches: a loader or a list of batches. By default ``train_dataloader`` of the data
            module, or of the module.
        submodule: Dotted name of the prepared submodule; needed where several are.
        seed: Where the random number generators start.

    Raises:
        PrepareError: If nothing in the module is prepared, or its parameters are sharded.
        ConfigError: If an argument isn't allowed; and from a call, if ``metric`` isn't logged.

    Example::

        evaluate = SubnetEvaluator({"accelerator": "gpu"}, model, datamodule=data, batches=20, recalibrate=4)
        evaluate(mutator.sample_choices("min"))  # {"val_loss": 0.71, "val_acc": 0.78}
    """

    def __init__(
        self,
        trainer: Any,
        module: LightningModule,
        metric: str | None = None,
        *,
        datamodule: Any = None,
        dataloaders: Any = None,
        batches: int | None = None,
        recalibrate: int = 0,
        recalibrate_on: Any = None,
        submodule: str | None = None,
        seed: int = 0,
    ) -> None:
        _check(module, datamodule, dataloaders, recalibrate, recalibrate_on)
        for name, number, least in (("batches", batches, 1), ("recalibrate", recalibrate, 0), ("seed", seed, None)):
            _check_number(name, number, least)
        self.mutator = _mutator_of(module, submodule)
        self.module = module
        self.metric = metric
        self.seed = seed
        self._recalibrate = recalibrate
        self._recalibrate_on = recalibrate_on
        self._validation = Validation(trainer_alone(trainer, module, batches), module, datamodule, dataloaders)

    def __call__(self, choices: Choices) -> dict[str, float]:
        """Validate at these choices.

        Args:
            choices: As for :meth:`ChannelMutator.set_choices`; units that are not named keep theirs.

        Returns:
            Metric → value: what ``trainer.callback_metrics`` holds after ``trainer.validate``.

        Raises:
            ChoiceError: If a choice isn't allowed.
            ConfigError: If ``metric`` isn't among the metrics.
            PrepareError: If the module isn't prepared any more.
        """
        with self.at(choices):
            metrics = self._validation.run()
        self._check_logged(metrics)
        return metrics

    @contextmanager
    def at(self, choices: Choices) -> Iterator[nn.Module]:
        """For a block, the model as it is validated at these choices: to export what was measured.

        Args:
            choices: As for a call.

        Yields:
            The prepared model, with the statistics of these choices.

        Raises:
            ChannelsError: As a call does.
        """
        with self._as_before():
            self._open()
            loaders = [loader for loader in self._validation.loaders() if isinstance(loader, DataLoader)]
            with preserve_rng(*(generator for loader in loaders for generator in generators_of(loader))):
                self.mutator.set_choices(choices)
                seed_anew(self.seed, 0)
                with self._recalibrated():
                    yield self.mutator.model

    def close(self) -> None:
        """Call the ``teardown`` of data module, callbacks and module, if the validation was set up."""
        self._validation.close()

    def __enter__(self) -> SubnetEvaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what a call does --------------------------------------------------------------------------------------------

    @contextmanager
    def _as_before(self) -> Iterator[None]:
        """Put back what evaluating changes."""
        module, held = self.module, Held(self.mutator)
        modes = [(part, part.training) for part in module.modules()]
        owner = module._trainer
        with preserve_rng(), _metrics_alone(module):
            try:
                yield
            finally:
                module.trainer = owner
                held.put_back()
                for part, mode in modes:
                    part.training = mode

    def _open(self) -> None:
        self._validation.open()
        lost = lost_modules(self.mutator)
        if self.mutator not in find_mutators(self.module).values() or lost:
            raise PrepareError(
                f"{type(self.module).__name__}'s setup or configure_model built the net anew"
                f"{' (' + ', '.join(lost[:3]) + ')' if lost else ''}, and nothing is prepared any more. Let it build "
                "the net only where there is none"
            )

    @contextmanager
    def _recalibrated(self) -> Iterator[None]:
        if not self._recalibrate:
            yield
            return
        trainer, module, target = self._validation.trainer, self.module, self.mutator.model
        with ExitStack() as stack:
            with (
                self._validation.running(),
                moved_batches(trainer, module, self._training_data(), self._recalibrate) as batches,
            ):
                # candidates are spread over ranks, not batches
                stack.enter_context(recalibrated(target, batches, forward_of(trainer, module, target), sync=False))
            yield

    def _training_data(self) -> Any:
        if self._recalibrate_on is None:
            self._recalibrate_on = self._validation.training_loader()
        return self._recalibrate_on

    def _check_logged(self, metrics: Mapping[str, float]) -> None:
        if not metrics:
            raise ConfigError(f"{type(self.module).__name__}'s validation logs nothing: call self.log in it")
        if self.metric is not None and self.metric not in metrics:
            hint = did_you_mean(self.metric, metrics) or "."
            raise ConfigError(f"the validation logs no metric {self.metric!r}{hint} Logged: {', '.join(metrics)}")


def _check(module: Any, datamodule: Any, dataloaders: Any, recalibrate: Any, recalibrate_on: Any) -> None:
    if not is_lightnings(module, "LightningModule"):
        raise ConfigError(
            f"module must be a LightningModule (before torch.compile, if it is compiled), got a {type(module).__name__}"
        )
    if datamodule is not None and dataloaders is not None:
        raise ConfigError("datamodule and dataloaders were both given; leave out one")
    if recalibrate_on is not None and not recalibrate:
        raise ConfigError("recalibrate_on was given without recalibrate, which says how many batches of it to take")
    if isinstance(recalibrate_on, Iterator):
        raise ConfigError(
            "recalibrate_on is an iterator, which the first candidate would use up; give a loader or list"
        )
    sharded = next((name for name, parameter in module.named_parameters() if is_sharded(parameter)), None)
    if sharded is not None:
        raise PrepareError(
            f"the parameter {sharded!r} is sharded over processes, and each of them evaluates subnets of its own. Load "
            "the checkpoint into a module that isn't sharded"
        )


def _check_number(name: str, value: Any, least: int | None) -> None:
    if name == "batches" and value is None:
        return
    if not is_int(value) or (least is not None and value < least):
        wanted = "an integer" if least is None else f"a number of batches, at least {least}"
        raise ConfigError(f"{name} must be {wanted}, got {value!r}")


def _mutator_of(module: LightningModule, submodule: str | None) -> ChannelMutator:
    found = find_mutators(module)
    if not found:
        raise PrepareError(
            f"nothing in {type(module).__name__} is prepared. Fit it with ChannelPruning(), or call "
            "ChannelMutator(...).prepare_from_supernet(model) and load the weights; "
            "ChannelMutator.from_structure(...) prepares it as a run's structure file or checkpoint says"
        )
    if submodule is None and len(found) > 1:
        raise ConfigError(f"several submodules are prepared ({', '.join(found)}); say which one, with submodule=…")
    if submodule is not None and submodule not in found:
        hint = did_you_mean(submodule, found) or "."
        known = ", ".join(name or "the module itself" for name in found)
        raise ConfigError(f"the submodule {submodule!r} isn't prepared{hint} Prepared: {known}")
    return next(iter(found.values())) if submodule is None else found[submodule]


@contextmanager
def _metrics_alone(module: nn.Module) -> Iterator[None]:
    """Let torchmetrics count what this process saw, also where there is a process group."""
    metrics: list[Any] = [part for part in module.modules() if hasattr(part, "distributed_available_fn")]
    before: list[Callable[[], bool]] = [metric.distributed_available_fn for metric in metrics]
    try:
        for metric in metrics:
            metric.distributed_available_fn = _never
        yield
    finally:
        for metric, available in zip(metrics, before, strict=True):
            metric.distributed_available_fn = available


def _never() -> bool:
    return False
