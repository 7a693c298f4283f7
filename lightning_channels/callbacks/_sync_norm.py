"""Lightning's ``sync_batchnorm=True`` and dynamic norms.

The strategy replaces each batch norm by a plain SyncBatchNorm when it sets up, and back when it tears down; a dynamic
norm would silently lose its choices both times. So the target's norms become SyncBatchNorm *before* they are made
dynamic, and the strategy's conversion passes over dynamic ones.
"""

from __future__ import annotations

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import LayerSync
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_channels.callbacks._packages import is_lightnings
from lightning_channels.dynamic_ops import is_dynamic

__all__ = ["KeepDynamic"]


class KeepDynamic(LayerSync):
    """Decorates a layer-sync plugin: it works on each plain batch norm, never on a dynamic one."""

    def __init__(self, inner: LayerSync) -> None:
        self.inner = inner

    @classmethod
    def install(cls, trainer: Trainer) -> KeepDynamic | None:
        """Put the decorator around the strategy's plugin, once; None if no norms will be synchronised."""
        inner = getattr(trainer.strategy, "_layer_sync", None)
        if inner is None or isinstance(inner, cls):
            return inner
        wrapped = cls(inner)
        trainer.strategy._layer_sync = wrapped  # type: ignore[attr-defined]
        return wrapped

    def apply(self, model: nn.Module) -> nn.Module:
        """Convert the plain batch norms in ``model``."""
        return self._each(model, self.inner.apply)

    def revert(self, model: nn.Module) -> nn.Module:
        """Convert back what is plain; dynamic norms stay SyncBatchNorm, which equals batch norm in one process."""
        return self._each(model, self.inner.revert)

    def _each(self, model: nn.Module, convert: object) -> nn.Module:
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, _BatchNorm) and not is_dynamic(child):
                    setattr(parent, name, convert(child))  # type: ignore[operator]
        return model

    def check(self, model: nn.Module) -> None:
        """Refuse a model that was prepared while its norms were not synchronised.

        Raises:
            MisconfigurationException: If a dynamic norm would be left out.
        """
        if not is_lightnings(self.inner, "TorchSyncBatchNorm"):
            return
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm) and is_dynamic(module) and not isinstance(module, nn.SyncBatchNorm):
                raise MisconfigurationException(
                    f"sync_batchnorm=True, but the model was prepared before, and its norm {name!r} isn't a "
                    "SyncBatchNorm. Call ChannelPruning.restore(model) first, or convert the model with "
                    "torch.nn.SyncBatchNorm.convert_sync_batchnorm before you prepare it"
                )
