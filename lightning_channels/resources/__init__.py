"""What a choice of widths costs."""

from lightning_channels.resources.counting import ResourceCounter, count_resources
from lightning_channels.resources.latency import HeldOut, LatencyModel
from lightning_channels.resources.model import Resources
from lightning_channels.resources.tables import ResourceTable

__all__ = ["HeldOut", "LatencyModel", "ResourceCounter", "ResourceTable", "Resources", "count_resources"]
