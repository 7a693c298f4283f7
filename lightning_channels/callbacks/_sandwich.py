"""A callback's samplers of several passes a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from lightning_channels.callbacks._errors import as_misconfiguration
from lightning_channels.callbacks._passes import Memory, Passes
from lightning_channels.callbacks._run import RunHooks
from lightning_channels.distillation import Distillation
from lightning_channels.mutators import ChannelMutator
from lightning_channels.samplers import Choices, Sampler, passes_of

__all__ = ["SeveralPasses"]


class SeveralPasses(RunHooks, ABC):
    """Runs the passes of a step, where the sampler has several.

    Attributes:
        sampler: Draws the choices.
        seed: Of the draws.
        every_n_steps: Draw for every n-th batch.
        distillation: The loss of a narrow pass.
        memory: How the passes are run.
    """

    of_a_run: ClassVar[tuple[str, ...]] = ("_passes",)
    sampler: Sampler
    seed: int
    every_n_steps: int
    distillation: Distillation
    memory: Memory
    _passes: Passes | None = None

    @property
    @abstractmethod
    def mutator(self) -> ChannelMutator:
        """The mutator that steers the module."""

    @abstractmethod
    def _on_width(self) -> None:
        """Called when the choices of a pass were set."""

    @property
    def _watcher(self) -> str | None:
        """What watches a training step, and calls the net again; None if nothing does."""
        return "a sampler of several passes a step" if hasattr(self.sampler, "passes") else None

    def _check_steps(self, pl_module: LightningModule, callbacks: Sequence[SeveralPasses]) -> None:
        """Refuse to watch training steps where that can't be.

        Args:
            pl_module: The module that will be trained.
            callbacks: All of this package.
        """
        what = self._watcher
        if what is None:
            return
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                f"{self.state_key}: {what} needs automatic optimization; with manual optimization call "
                "mutator.set_choices() and the net for each width in training_step, with sampler='max'"
            )
        if getattr(pl_module, "_compiler_ctx", None) is not None:
            raise MisconfigurationException(
                f"{self.state_key}: {what} watches what training_step calls, and would have a compiled one compiled "
                "again for each batch. Compile the net and not the LightningModule: self.net.compile() in its "
                "__init__, or self.net = torch.compile(net)"
            )
        if sum(callback._watcher is not None for callback in callbacks) > 1:
            raise MisconfigurationException(
                f"{self.state_key}: only one callback can run several passes a step; give the others another sampler, "
                "and no teacher"
            )

    def _drawn(self, mutator: ChannelMutator, epoch: int, batch_idx: int) -> list[Choices]:
        """The choices of each pass of a step."""
        step = batch_idx // self.every_n_steps * self.every_n_steps
        return passes_of(self.sampler, mutator, seed=self.seed, epoch=epoch, batch_idx=step)

    def _start_passes(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if hasattr(self.sampler, "passes"):
            mean = getattr(self.sampler, "reduction", "sum") == "mean"
            self._passes = Passes(
                trainer, pl_module, self.mutator, self.distillation, self.memory, mean, self._on_width
            )

    def _begin_passes(self, drawn: list[Choices]) -> None:
        if self._passes is not None:
            self._passes.begin(drawn)

    def _stop_passes(self) -> None:
        passes, self._passes = self._passes, None
        if passes is not None:
            passes.take_off()

    def _let_go(self) -> None:
        super()._let_go()
        self._stop_passes()

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the passes of a lean step that are left."""
        if self._passes is not None:
            with as_misconfiguration(self.state_key):
                self._passes.after_backward()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the module its own training_step back."""
        super().on_train_end(trainer, pl_module)
        self._stop_passes()
