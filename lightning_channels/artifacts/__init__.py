"""Files of a subnet: what it is made from again, and what it runs from without this package."""

from lightning_channels.artifacts.onnx import export_onnx
from lightning_channels.artifacts.pt2 import export_pt2
from lightning_channels.artifacts.subnet import load_subnet, save_subnet
from lightning_channels.artifacts.weights import export_weights

__all__ = ["export_onnx", "export_pt2", "export_weights", "load_subnet", "save_subnet"]
