"""A resumed run goes on as the one that wrote the checkpoint: its random numbers, and its loader at an epoch's end."""

from __future__ import annotations

import math
from abc import ABC
from functools import partial
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from lightning.fabric.utilities.data import _set_sampler_epoch, sized_len
from lightning.fabric.utilities.types import _Stateful
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from lightning_channels._plain import is_int
from lightning_channels._rng import preserve_rng
from lightning_channels.callbacks import _random_state
from lightning_channels.callbacks._errors import as_misconfiguration
from lightning_channels.callbacks._random_state import RandomState
from lightning_channels.callbacks._run import RunHooks
from lightning_channels.errors import ConfigError

__all__ = ["RESUME", "ResumeHooks"]

RESUME = "lightning_channels.resume"
"""The key of what each rank needs, in a checkpoint."""


class ResumeHooks(RunHooks, ABC):
    """Saves in a checkpoint what each rank needs to go on exactly, and lets a run that resumes from it do so.

    Attributes:
        exact_resume: Whether it does.
        seed: Of the generators where the saved states don't fit.
    """

    of_a_run: ClassVar[tuple[str, ...]] = ("_resumption",)
    exact_resume: bool
    seed: int
    _resumption: _Resumption | None = None
    _has_saved = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin a run, which hasn't saved anything."""
        self._has_saved = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the ranks' states; one of several callbacks does."""
        self._has_saved = True
        if self.exact_resume and RESUME not in checkpoint:
            checkpoint[RESUME] = {"world_size": trainer.world_size, "ranks": _gather(trainer)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Arrange that a run which resumes goes on with the states in it."""
        # a tuner loads what the same run has saved before it tried this and that
        if self.exact_resume and trainer.state.fn == TrainerFn.FITTING and not self._has_saved:
            saved = checkpoint.get(RESUME)
            state = {} if saved is None else self._fitting(saved, trainer, checkpoint["global_step"])
            self._resumption = _Resumption(trainer, **state)

    def _fitting(self, saved: Any, trainer: Trainer, step: int) -> dict[str, Any]:
        """This rank's states, or a new one if there aren't any for each rank."""
        with as_misconfiguration(f"{self.state_key}: the checkpoint", "Resume with exact_resume=False"):
            world_size, ranks = _read(saved)
        reason = _misfit(trainer, world_size, len(ranks))
        if reason is None:
            return ranks[trainer.global_rank]
        rank_zero_warn(
            f"{self.state_key}: the checkpoint {reason}. Python's, NumPy's and torch's generators start anew, as a "
            f"function of seed={self.seed} and step {step}; choices go on as they would have"
        )
        return {"random": _anew(self.seed, step, trainer.strategy.root_device)}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on from the saved state, once the loaders are ready."""
        if self._resumption is not None:
            self._resumption.go_on()
            self._resumption = None

    def _let_go(self) -> None:
        super()._let_go()
        if self._resumption is not None:
            self._resumption.take_off()
            self._resumption = None


class _Resumption:
    """Begins a resumed run with what the run before it had at the same moment.

    Lightning makes the loader's iterator, which draws random numbers, before ``on_train_start``. A run that goes on
    with a new epoch made it after the checkpoint was written, one that goes on within an epoch long before. More is
    mended here: Lightning makes that iterator before samplers know the epoch; it gives all ranks the state of rank
    zero's loader; and at an epoch's end it leaves this state out, or takes that of an iterator without a batch left,
    which costs the next epoch.

    Args:
        trainer: Has loaded a checkpoint.
        random: This rank's random state in it, if there is one.
        loaders: The states of this rank's loaders, if they aren't where Lightning keeps them.
    """

    def __init__(self, trainer: Trainer, random: RandomState | None = None, loaders: list[Any] | None = None) -> None:
        self._device = trainer.strategy.root_device
        self._random = random
        self._loaders = loaders
        self._loop: Any = trainer.fit_loop
        self._loop.__dict__["setup_data"] = self._setup_data

    def take_off(self) -> None:
        """Give the loop its own methods back."""
        for name in ("setup_data", "_load_combined_loader_states"):
            self._loop.__dict__.pop(name, None)

    def go_on(self) -> None:
        """Set the random state of the first step."""
        self.take_off()
        if self._random is not None:
            _random_state.set_back(self._random, self._device)

    def _setup_data(self) -> None:
        loop = self._loop
        self.take_off()
        if self._loaders is not None:
            loop._combined_loader_states_to_load = self._loaders
        progress, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress
        is_complete = progress.ready == progress.processed
        after_last_batch = batches.is_last_batch and batches.current.completed < batches.current.ready
        if is_complete:  # with max_steps, Lightning would go on within the epoch that is over
            _Loop.restarting.fset(loop, False)  # type: ignore[attr-defined]
        begins = is_complete or after_last_batch
        epoch = progress.processed + (begins and not is_complete)
        # called when the loaders are there and have no iterator yet
        loop.__dict__["_load_combined_loader_states"] = partial(self._begin if begins else self._go_on_within, epoch)
        try:
            loop.setup_data()
        finally:
            self.take_off()
        if begins and self._random is not None:
            self._random = _random_state.get(self._device)

    def _begin(self, epoch: int) -> None:
        loop, combined = self._loop, self._loop._combined_loader
        states, loop._combined_loader_states_to_load = loop._combined_loader_states_to_load, []
        if states:
            loaders = zip(combined.flattened, combined.limits, strict=True)
            stateful = [(loader, limit) for loader, limit in loaders if isinstance(loader, _Stateful)]
            for (loader, limit), state in zip(stateful, states, strict=False):
                # where an epoch is a part of the loader's batches, the state is in the midst of them, and of no use
                if limit >= (sized_len(loader) or math.inf):
                    _finish_epoch(loader, state)
        for loader in combined.flattened:
            _set_sampler_epoch(loader, epoch)
        if self._random is not None:
            _random_state.set_back(self._random, self._device)

    def _go_on_within(self, epoch: int) -> None:
        for loader in self._loop._combined_loader.flattened:
            if isinstance(loader, _Stateful):  # another one begins the epoch anew, as it does without this
                _set_sampler_epoch(loader, epoch)
        type(self._loop)._load_combined_loader_states(self._loop)


def _finish_epoch(loader: Any, state: dict[str, Any]) -> None:
    """Bring a loader to where the epoch left it, so that its next iterator is the next epoch's."""
    loader.load_state_dict(state)
    nothing = object()
    if next(iter(loader), nothing) is not nothing:  # its state at the end is that of the next epoch's beginning
        loader.load_state_dict(state)


def _gather(trainer: Trainer) -> list[dict[str, Any]]:
    """All ranks' states, on each; after an exception only this one's, since the others may be elsewhere."""
    own: dict[str, Any] = {"random": _random_state.get(trainer.strategy.root_device)}
    if trainer.world_size == 1 or trainer.interrupted or not dist.is_initialized():
        return [own]
    combined = trainer.fit_loop._combined_loader
    loaders = [] if combined is None else combined._state_dicts()
    states: list[Any] = [None] * trainer.world_size
    dist.all_gather_object(states, {**own, "loaders": loaders} if loaders else own)
    return states


def _read(saved: Any) -> tuple[int, list[dict[str, Any]]]:
    """The number of processes that wrote a checkpoint, and their states in it.

    Raises:
        ConfigError: If it isn't what :class:`ResumeHooks` writes.
    """
    if not isinstance(saved, dict) or not is_int(saved.get("world_size")) or not isinstance(saved.get("ranks"), list):
        raise ConfigError(f"{RESUME!r} in it must hold world_size and ranks")
    for state in saved["ranks"]:
        if not isinstance(state, dict) or not {"random"} <= set(state) <= {"random", "loaders"}:
            raise ConfigError(f"the ranks in {RESUME!r} in it must hold random, and perhaps loaders")
        _random_state.check(state["random"])
    return saved["world_size"], saved["ranks"]


def _misfit(trainer: Trainer, world_size: int, known: int) -> str | None:
    """Why the saved states aren't those of the present ranks; None if they are."""
    if world_size != trainer.world_size:
        return f"was written by {world_size} processes and is resumed by {trainer.world_size}"
    if known != world_size:
        return "was written after an exception, when one process can't ask the others for their random state"
    return None


def _anew(seed: int, step: int, device: torch.device) -> RandomState:
    with preserve_rng():
        _random_state.seed_anew(seed, step)
        return _random_state.get(device)
