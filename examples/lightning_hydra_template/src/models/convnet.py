"""A small net of plain PyTorch."""

from collections.abc import Sequence

from torch import Tensor, nn


class ConvNet(nn.Module):
    """A convolution, batch norm and ReLU for each of some widths, and a classifier."""

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip((1, *channels), channels, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean((2, 3)))
