"""What a choice of widths costs."""

from lightning_channels.resources.counting import ResourceCounter, count_resources

__all__ = ["ResourceCounter", "count_resources"]
