"""What a choice of widths costs."""

from lightning_channels.resources.counting import ResourceCounter, count_resources, resources_left
from lightning_channels.resources.latency import HeldOut, LatencyModel
from lightning_channels.resources.left import ResourcesLeft
from lightning_channels.resources.model import Resources
from lightning_channels.resources.tables import ResourceTable

__all__ = [
    "HeldOut",
    "LatencyModel",
    "ResourceCounter",
    "ResourceTable",
    "Resources",
    "ResourcesLeft",
    "count_resources",
    "resources_left",
]
