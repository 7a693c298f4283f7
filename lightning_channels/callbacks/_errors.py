"""The package's errors as Lightning users expect them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from lightning_channels.errors import ChannelsError

__all__ = ["as_misconfiguration", "keep_visible"]


@contextmanager
def as_misconfiguration(who: str, advice: str = "") -> Iterator[None]:
    """Raise what the package refuses as a ``MisconfigurationException``, chained from the original error.

    Args:
        who: Begins the message: the callback's state key.
        advice: Ends the message: what to do.
    """
    try:
        yield
    except ChannelsError as error:
        raise MisconfigurationException(f"{who}: {error}{'. ' + advice if advice else ''}") from error


def keep_visible(trainer: Trainer, pl_module: LightningModule) -> None:
    """Let the error that ended a run with a module on the meta device be the one that the user sees.

    Lightning's teardown would move the module to the CPU, which raises an error of its own where there is no data.
    """
    if any(parameter.is_meta for parameter in pl_module.parameters()):
        trainer.strategy._lightning_module = None
