"""What a choice of widths costs."""

from lightning_channels.resources.counting import ResourceCounter, count_resources
from lightning_channels.resources.model import Resources

__all__ = ["ResourceCounter", "Resources", "count_resources"]
