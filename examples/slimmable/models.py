"""The networks: plain torch, with no word about pruning in them."""

from typing import Any

import torch
import torch.nn.functional as F
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


class Attention(nn.Module):
    """Self-attention of ``num_heads`` heads, whose queries, keys and values come from one linear layer."""

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.qkv = nn.Linear(dim, 3 * num_heads * head_dim)
        self.proj = nn.Linear(num_heads * head_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value)
        return self.proj(out.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Attention and an MLP, each behind a layer norm and with a shortcut around it."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads, head_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DigitsViT(nn.Module):
    """A vision transformer for small images.

    Args:
        dim: Channels of each token.
        depth: Number of blocks.
        num_heads: Attention heads of each block, each of ``dim // num_heads`` channels.
        hidden: Hidden units of each block's MLP.
        image_size: Height and width of the image.
        patch_size: Height and width of the patch that becomes a token.
        in_channels: Channels of the image.
        num_classes: Number of classes.
    """

    def __init__(
        self,
        dim: int = 48,
        depth: int = 3,
        num_heads: int = 4,
        hidden: int = 192,
        image_size: int = 8,
        patch_size: int = 2,
        in_channels: int = 1,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        tokens = (image_size // patch_size) ** 2 + 1
        self.patches = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        # as large as what a patch becomes: with far less, learning takes long to tell places apart
        self.positions = nn.Parameter(torch.randn(1, tokens, dim) / 2)
        self.blocks = nn.Sequential(*(TransformerBlock(dim, num_heads, dim // num_heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def torchvision_model(name: str, num_classes: int, weights: str | None = None, **kwargs: Any) -> nn.Module:
    """Any model of torchvision's, by name.

    Args:
        name: One of ``torchvision.models.list_models()``.
        num_classes: Number of classes; with ``weights`` it must be the weights' own.
        weights: Name of pretrained weights (``"DEFAULT"``), which torchvision downloads.
        **kwargs: Further arguments of the model.
    """
    return get_model(name, weights=weights, num_classes=num_classes, **kwargs)
