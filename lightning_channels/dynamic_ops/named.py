"""The dynamic ops that have a name, and can be constructed directly.

Each takes the arguments of its plain class and has that class's forward; the table in ``spec`` says what is narrowed.
"""

from __future__ import annotations

from torch import nn

from lightning_channels.dynamic_ops.factory import named, switchable
from lightning_channels.dynamic_ops.mixin import DynamicMixin
from lightning_channels.dynamic_ops.switching import SwitchableMixin

__all__ = [
    "DynamicBatchNorm1d",
    "DynamicBatchNorm2d",
    "DynamicBatchNorm3d",
    "DynamicConv1d",
    "DynamicConv2d",
    "DynamicConv3d",
    "DynamicConvTranspose1d",
    "DynamicConvTranspose2d",
    "DynamicConvTranspose3d",
    "DynamicEmbedding",
    "DynamicGroupNorm",
    "DynamicInstanceNorm1d",
    "DynamicInstanceNorm2d",
    "DynamicInstanceNorm3d",
    "DynamicLayerNorm",
    "DynamicLinear",
    "DynamicPReLU",
    "DynamicRMSNorm",
    "DynamicSyncBatchNorm",
    "SwitchableBatchNorm1d",
    "SwitchableBatchNorm2d",
    "SwitchableBatchNorm3d",
    "SwitchableSyncBatchNorm",
]


@named
class DynamicConv1d(DynamicMixin, nn.Conv1d):
    """:class:`torch.nn.Conv1d` with a changeable number of channels."""


@named
class DynamicConv2d(DynamicMixin, nn.Conv2d):
    """:class:`torch.nn.Conv2d` with a changeable number of channels.

    Example:
        >>> import torch
        >>> from lightning_channels.mutables import MutableChannelContainer, SquentialMutableChannel
        >>> conv = DynamicConv2d(3, 8, 3, 1, 1)
        >>> mutable = SquentialMutableChannel(8)
        >>> MutableChannelContainer.register_mutable_channel_to_module(conv, mutable, is_to_output_channel=True)
        >>> mutable.current_choice = 2
        >>> conv(torch.randn(1, 3, 4, 4)).shape
        torch.Size([1, 2, 4, 4])
    """


@named
class DynamicConv3d(DynamicMixin, nn.Conv3d):
    """:class:`torch.nn.Conv3d` with a changeable number of channels."""


@named
class DynamicConvTranspose1d(DynamicMixin, nn.ConvTranspose1d):
    """:class:`torch.nn.ConvTranspose1d` with a changeable number of channels."""


@named
class DynamicConvTranspose2d(DynamicMixin, nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d` with a changeable number of channels."""


@named
class DynamicConvTranspose3d(DynamicMixin, nn.ConvTranspose3d):
    """:class:`torch.nn.ConvTranspose3d` with a changeable number of channels."""


@named
class DynamicLinear(DynamicMixin, nn.Linear):
    """:class:`torch.nn.Linear` with a changeable number of channels."""


@named
class DynamicBatchNorm1d(DynamicMixin, nn.BatchNorm1d):
    """:class:`torch.nn.BatchNorm1d` with a changeable number of channels."""


@named
class DynamicBatchNorm2d(DynamicMixin, nn.BatchNorm2d):
    """:class:`torch.nn.BatchNorm2d` with a changeable number of channels."""


@named
class DynamicBatchNorm3d(DynamicMixin, nn.BatchNorm3d):
    """:class:`torch.nn.BatchNorm3d` with a changeable number of channels."""


@named
class DynamicSyncBatchNorm(DynamicMixin, nn.SyncBatchNorm):
    """:class:`torch.nn.SyncBatchNorm` with a changeable number of channels."""


@named
class DynamicInstanceNorm1d(DynamicMixin, nn.InstanceNorm1d):
    """:class:`torch.nn.InstanceNorm1d` with a changeable number of channels."""


@named
class DynamicInstanceNorm2d(DynamicMixin, nn.InstanceNorm2d):
    """:class:`torch.nn.InstanceNorm2d` with a changeable number of channels."""


@named
class DynamicInstanceNorm3d(DynamicMixin, nn.InstanceNorm3d):
    """:class:`torch.nn.InstanceNorm3d` with a changeable number of channels."""


@named
class DynamicLayerNorm(DynamicMixin, nn.LayerNorm):
    """:class:`torch.nn.LayerNorm` with a changeable number of channels."""


@named
class DynamicRMSNorm(DynamicMixin, nn.RMSNorm):
    """:class:`torch.nn.RMSNorm` with a changeable number of channels."""


@named
class DynamicGroupNorm(DynamicMixin, nn.GroupNorm):
    """:class:`torch.nn.GroupNorm` with a changeable number of channels."""


@named
class DynamicPReLU(DynamicMixin, nn.PReLU):
    """:class:`torch.nn.PReLU` with a changeable number of channels."""


@named
class DynamicEmbedding(DynamicMixin, nn.Embedding):
    """:class:`torch.nn.Embedding` with a changeable number of channels."""


@switchable
class SwitchableBatchNorm1d(SwitchableMixin, DynamicBatchNorm1d):
    """:class:`torch.nn.BatchNorm1d` with a changeable number of channels, and tensors for each candidate."""


@switchable
class SwitchableBatchNorm2d(SwitchableMixin, DynamicBatchNorm2d):
    """:class:`torch.nn.BatchNorm2d` with a changeable number of channels, and tensors for each candidate."""


@switchable
class SwitchableBatchNorm3d(SwitchableMixin, DynamicBatchNorm3d):
    """:class:`torch.nn.BatchNorm3d` with a changeable number of channels, and tensors for each candidate."""


@switchable
class SwitchableSyncBatchNorm(SwitchableMixin, DynamicSyncBatchNorm):
    """:class:`torch.nn.SyncBatchNorm` with a changeable number of channels, and tensors for each candidate."""
