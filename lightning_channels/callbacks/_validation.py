"""Lightning's validation of one module on one device: set up once, run many times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_channels.callbacks._alone import is_for_evaluation

__all__ = ["Validation"]


class Validation:
    """``trainer.validate``, cut into its set-up and its loop.

    ``trainer.validate`` sets everything up for each call: data, the module's own ``setup``, the loaders. Here Lightning
    does that once, by the same code; then the loop alone is run, as often as is wanted, until :meth:`close`.

    Args:
        trainer: A trainer of a single device that nobody else uses.
        module: What is validated.
        datamodule: Its data module, if it has one.
        dataloaders: Its loaders, if they were given.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, datamodule: Any, dataloaders: Any) -> None:
        self.trainer = trainer
        self.module = module
        self.datamodule = datamodule
        self._dataloaders = dataloaders
        self._loop: Any = trainer.validate_loop
        self._is_open = False

    def open(self) -> None:
        """Set everything up, unless it is."""
        if self._is_open:
            return
        with ExitStack() as undo:
            configured = self.module.configure_callbacks
            _stand_in(undo, self.module, "configure_callbacks", lambda: _kept(configured()))
            _stand_in(undo, self.trainer, "_run_stage", lambda: self._set_up(undo))
            self.trainer.validate(self.module, self._dataloaders, verbose=False, datamodule=self.datamodule)
        # from now on signals are the program's again
        self.trainer._signal_connector.teardown()
        self._is_open = True

    def _set_up(self, undo: ExitStack) -> None:
        """In place of the loop: make the loaders; and let what Lightning does next leave all as it is."""
        self._loop.setup_data()
        self._loop.setup_data = _nothing
        _stand_in(undo, self.trainer, "_teardown", _nothing)
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        for owner in (self.datamodule, *callbacks, self.module):
            if owner is not None:
                _stand_in(undo, owner, "teardown", _nothing)

    def run(self) -> dict[str, float]:
        """Validate once.

        Returns:
            All that was logged, by the names that ``trainer.callback_metrics`` has.
        """
        trainer, connector = self.trainer, self.trainer._logger_connector
        with self.running():
            connector.reset_results()
            connector.reset_metrics()
            try:
                self._loop.run()
            finally:
                if self._loop._data_fetcher is not None:
                    self._loop._data_fetcher.teardown()  # no worker outlives the run
            return {name: float(value) for name, value in trainer.callback_metrics.items()}

    @contextmanager
    def running(self) -> Iterator[None]:
        """The module is the trainer's, on its device, while the trainer validates; and whose it was afterwards."""
        trainer, before = self.trainer, self.module._trainer
        self.module.trainer = trainer
        trainer.validating = True
        parameter = next(self.module.parameters(), None)
        if parameter is None or parameter.device != trainer.strategy.root_device:
            trainer.strategy.model_to_device()
        try:
            yield
        finally:
            trainer.validating = False
            self.module.trainer = before

    def loaders(self) -> list[Any]:
        """The validation loaders, as far as they are set up."""
        combined = self._loop._combined_loader
        return [] if combined is None else list(combined.flattened)

    def training_loader(self) -> Any:
        """The training data of the data module, which is set up for that, or of the module."""
        if self.datamodule is None:
            return self.module.train_dataloader()
        self.datamodule.setup("fit")
        return self.datamodule.train_dataloader()

    def close(self) -> None:
        """Tear down what was set up: data module, callbacks and module, in Lightning's order."""
        if not self._is_open:
            return
        self._is_open = False
        del self._loop.setup_data
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        if self.datamodule is not None:
            self.datamodule.teardown("validate")
        for callback in callbacks:
            callback.teardown(self.trainer, self.module, "validate")
        self.module.teardown("validate")


def _kept(callbacks: Any) -> list[Any]:
    """Those of a module's own callbacks that have something to say in an evaluation."""
    given = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks] if callbacks else []
    return [callback for callback in given if is_for_evaluation(callback)]


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass


def _stand_in(undo: ExitStack, owner: Any, name: str, function: Any) -> None:
    """Put a function in place of an object's method until ``undo`` is closed."""
    missing = object()
    before = owner.__dict__.get(name, missing)
    object.__setattr__(owner, name, function)

    def put_back() -> None:
        if before is missing:
            owner.__dict__.pop(name, None)
        else:
            object.__setattr__(owner, name, before)

    undo.callback(put_back)
