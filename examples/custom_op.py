"""A dynamic op for a layer of your own.

A layer that nothing is known about is pruned as well, tensor by tensor. Once it is said what its tensors hold, it has
sides: its units bear its name, it prints what is active, and it can be written into a model with mutables.

    python examples/custom_op.py
"""

import torch
from torch import Tensor, nn

from lightning_channels import ChannelMutator, DynamicMixin, dynamic_op


class TransposedLinear(nn.Module):
    """A linear layer that keeps its weight the other way around, as GPT-2's does."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.randn(in_features, out_features) * in_features**-0.5)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.reshape(-1, self.in_features), self.weight).view(*x.shape[:-1], -1)


@dynamic_op(
    inputs="in_features",
    outputs="out_features",
    tensors={"weight": ("in_features", "out_features"), "bias": ("out_features",)},
)
class DynamicTransposedLinear(DynamicMixin, TransposedLinear):
    """A :class:`TransposedLinear` with a changeable number of channels."""


def main() -> None:
    net = nn.Sequential(TransposedLinear(16, 64), nn.GELU(), TransposedLinear(64, 16))
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(net, torch.randn(2, 5, 16))
    mutator.set_choices({"0_(0, 64)_64": 24})
    print(net)
    small = mutator.export()
    print(f"exported: {type(small[2]).__name__} with a weight of {tuple(small[2].weight.shape)}")


if __name__ == "__main__":
    main()
