"""Networks whose widths a compiler meets in different ways."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.callbacks.nets import conv_net


class Concatenated(nn.Module):
    """A norm over two units, and a flatten that counts each channel 16 times."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 10, 1)
        self.norm = nn.BatchNorm2d(16)
        self.mix = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1)))
        return self.head(self.mix(x).flatten(1))


class Depthwise(nn.Sequential):
    """As many groups as channels."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(8, 8, 3, groups=8),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 6, 1),
            nn.Flatten(),
            nn.Linear(6 * 4, 3),
        )


class Grouped(nn.Sequential):
    """The same channels of each group, so that no prefix is kept."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=4), nn.BatchNorm2d(12), nn.Flatten(), nn.Linear(12 * 4, 3)
        )


class Attention(nn.Module):
    """Whole heads go, and an attribute counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.embed, self.qkv, self.out = nn.Linear(6, 16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, length, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, length, 3, self.num_heads, 4).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2]).transpose(1, 2).reshape(batch, length, -1)
        return self.head((x + self.out(mixed)).mean(1))


class Norms(nn.Sequential):
    """Statistics, and a layer norm, under dropout that draws nothing."""

    def __init__(self) -> None:
        super().__init__(*conv_net(width=9, dropout=0.0))


class Dense(nn.Sequential):
    """No convolution, whose sizes inductor fixes."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


PREFIXES = {
    "norms": (Norms, (4, 3, 4, 4)),
    "concatenated": (Concatenated, (4, 3, 4, 4)),
    "depthwise": (Depthwise, (4, 3, 4, 4)),
    "attention": (Attention, (2, 5, 6)),
}
"""Name → class and shape of its inputs, of those whose units keep their first channels."""
