"""The active shares of FLOPs and parameters, logged at each step."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer

from lightning_channels.callbacks._evaluation import EvaluationHooks
from lightning_channels.resources import ResourceCounter

__all__ = ["ResourceLog"]


class ResourceLog(EvaluationHooks):
    """Counts what each pass of a step uses, and logs the average.

    Attributes:
        log_resources: Whether it does.
        prog_bar: Whether the progress bar shows it.
    """

    log_resources: bool
    prog_bar: bool
    _counter: ResourceCounter | None = None
    _shares: list[tuple[int, int]]

    def _note_shares(self) -> None:
        """Count what is active now, for one of the step's passes."""
        counter = self._counter
        if self.log_resources and counter is not None:
            self._shares.append((counter.active_macs(), counter.active_params()))

    def _log_shares(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.log_resources or trainer.barebones:
            return
        prefix = f"channels/{self._part(trainer)}"
        counter = self._counter
        assert counter is not None
        totals = {"flops": counter.total_macs, "params": counter.total_params}
        for (name, total), active in zip(totals.items(), zip(*self._shares, strict=True), strict=True):
            if total:
                share = sum(active) / len(active) / total
                pl_module.log(prefix + name, share, prog_bar=self.prog_bar, on_step=True, on_epoch=False)
