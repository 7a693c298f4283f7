"""The networks: plain torch, with no word about pruning in them."""

from typing import Any

from torch import Tensor, nn
from torchvision.models import get_model


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.shortcut(x))


class DigitsResNet(nn.Module):
    """A stem, one residual block for each stage, a linear head.

    Args:
        widths: Channels of the stages; every stage but the first halves the image.
        in_channels: Channels of the image.
        num_classes: Number of classes.
    """

    def __init__(self, widths: list[int], in_channels: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        inputs = [widths[0], *widths[:-1]]
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(i, o, stride=1 if n == 0 else 2)
                for n, (i, o) in enumerate(zip(inputs, widths, strict=True))
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))


def torchvision_model(name: str, num_classes: int, weights: str | None = None, **kwargs: Any) -> nn.Module:
    """Any model of torchvision's, by name.

    Args:
        name: One of ``torchvision.models.list_models()``.
        num_classes: Number of classes; with ``weights`` it must be the weights' own.
        weights: Name of pretrained weights (``"DEFAULT"``), which torchvision downloads.
        **kwargs: Further arguments of the model.
    """
    return get_model(name, weights=weights, num_classes=num_classes, **kwargs)
