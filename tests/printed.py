"""What the documents' notebook prints, and what there is to find in its network."""

from __future__ import annotations

from lightning_channels import MutableChannelUnit

__all__ = ["CONVS", "UNIT", "assert_toy_units"]

UNIT = """\
SequentialMutableChannelUnit(
  name=net.conv0_(0, 8)_8
  (output_related): ModuleList(
    (0): Channel(net.conv0, index=(0, 8), is_output_channel=true, expand_ratio=1)
  )
  (input_related): ModuleList(
    (0): Channel(net.conv1, index=(0, 8), is_output_channel=false, expand_ratio=1)
  )
  (mutable_channel): SquentialMutableChannel(num_channels=8, activated_channels=8)
)"""

CONVS = """\
DynamicConv2d(
  3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1)
  (mutable_attrs): ModuleDict(
    (in_channels): MutableChannelContainer(num_channels=3, activated_channels=3)
    (out_channels): MutableChannelContainer(num_channels=8, activated_channels={active})
  )
)
DynamicConv2d(
  8, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1)
  (mutable_attrs): ModuleDict(
    (in_channels): MutableChannelContainer(num_channels=8, activated_channels={active})
    (out_channels): MutableChannelContainer(num_channels=16, activated_channels=16)
  )
)"""


def assert_toy_units(units: list[MutableChannelUnit]) -> None:
    """Assert that these are the units of the notebook's network."""
    assert [unit.name for unit in units] == [
        "net.conv0_(0, 3)_3",
        "net.conv0_(0, 8)_8",
        "net.conv1_(0, 16)_16",
        "head_(0, 1000)_1000",
    ]
    assert [unit.is_mutable for unit in units] == [False, True, True, False]
