"""What every part of the callback does that takes hold of a run."""

from __future__ import annotations

from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

__all__ = ["RunHooks"]


class RunHooks(Callback):
    """Lets go of the run when it ends, however it ends.

    Attributes:
        of_a_run: Names of the attributes that belong to a run that is under way; no copy of the callback has them.
    """

    of_a_run: ClassVar[tuple[str, ...]] = ()

    def _let_go(self) -> None:
        """Take off what stands in for something of the module's, the trainer's or an optimizer's; may come twice."""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the run."""
        self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the run."""
        self._let_go()

    def __getstate__(self) -> dict[str, Any]:
        of_a_run = {name for cls in type(self).__mro__ for name in cls.__dict__.get("of_a_run", ())}
        return {key: value for key, value in self.__dict__.items() if key not in of_a_run}
