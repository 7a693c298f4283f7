"""Static models: what is left when the inactive channels are gone."""

from lightning_channels.export.static import export_subnet

__all__ = ["export_subnet"]
