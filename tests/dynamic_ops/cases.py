"""Every dynamic op, with what to keep of it: the modules that the shared tester goes through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from lightning_channels.dynamic_ops import DynamicMixin, container_of, containers, dynamic_op, make_dynamic
from lightning_channels.mutables import SimpleMutableChannel, SquentialMutableChannel

Keep = dict[str, "int | list[int]"]


@dataclass
class Case:
    """A module, and selections of its sides.

    ``into`` is the side of the input's channels, ``out`` that of the output's; None where there are none. ``masked``
    says that the full module with the inactive inputs at zero computes the same (no norm runs over the channels).
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    prefix: Keep
    index: Keep
    into: str | None = None
    out: str | None = None
    dim: int = 1
    out_dim: int = 1
    masked: bool = True
    tensors: dict[str, list[int]] = field(default_factory=dict)
    reads: int = 0  # for embeddings: how many words there are

    def keep(self, kind: str) -> Keep:
        return {"prefix": self.prefix, "index": self.index}[kind]

    def module(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The plain module; nothing in it is constant, so that nothing hides a wrong channel."""
        module = self.build().to(dtype)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for tensor in [*module.parameters(), *module.buffers()]:
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=dtype) + 0.1)
        return module

    def input(self, dtype: torch.dtype = torch.float32) -> Tensor:
        generator = torch.Generator().manual_seed(2)
        if self.reads:
            return torch.randint(self.reads, self.shape, generator=generator)
        return torch.randn(self.shape, generator=generator, dtype=dtype)


def steer(module: nn.Module, is_output: bool) -> SquentialMutableChannel:
    """Make a module dynamic and put a mutable on one side."""
    container = container_of(make_dynamic(module), is_output)
    mutable = SquentialMutableChannel(container.num_channels)
    container.register_mutable(mutable)
    return mutable


def prepared(case: Case, module: nn.Module) -> dict[str, SimpleMutableChannel]:
    """Make the module dynamic and put a mutable on each side."""
    make_dynamic(module, case.tensors)
    mutables = {}
    for side, container in containers(module).items():
        mutables[side] = SimpleMutableChannel(container.num_channels, name=side)
        container.register_mutable(mutables[side])
    return mutables


class Scale(nn.Module):
    """A bare parameter, as in ConvNeXt."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Mix(nn.Module):
    """A bare parameter with channels along two dims."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("oi,bip->bop", self.table, x)


class NormWithActivation(nn.BatchNorm2d):
    """A subclass with a forward of its own and a parameter that no table knows."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.slope = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return torch.where(x > 0, x, x * self.slope.view(1, -1, 1, 1))


class AssigningNorm(nn.Module):
    """Running statistics that are replaced instead of written to."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.register_buffer("average", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.average = 0.9 * self.average + 0.1 * x.detach().mean(0)
        return (x - self.average) * self.weight


class Transposed(nn.Module):
    """A linear layer that keeps its weight the other way around."""

    def __init__(self, into: int, out: int, bias: bool = True) -> None:
        super().__init__()
        self.into, self.out = into, out
        self.weight = nn.Parameter(torch.randn(into, out))
        self.bias = nn.Parameter(torch.randn(out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = x.reshape(-1, self.into) @ self.weight
        return (y if self.bias is None else y + self.bias).view(*x.shape[:-1], self.out)


@dynamic_op(inputs="into", outputs="out", tensors={"weight": ("into", "out"), "bias": ("out",)})
class DynamicTransposed(DynamicMixin, Transposed):
    pass


def _conv(name: str, build: Callable[[], nn.Module], shape: tuple[int, ...], prefix: Keep, index: Keep) -> Case:
    return Case(name, build, shape, prefix, index, "in_channels", "out_channels")


def _norm(name: str, build: Callable[[], nn.Module], shape: tuple[int, ...], **kwargs: object) -> Case:
    side = kwargs.pop("side", "num_features")
    assert isinstance(side, str)
    options: dict[str, object] = {"prefix": {side: 4}, "index": {side: [0, 3, 4, 7]}, **kwargs}
    return Case(name, build, shape, into=side, out=side, **options)  # type: ignore[arg-type]


_DENSE: tuple[Keep, Keep] = (
    {"in_channels": 3, "out_channels": 2},
    {"in_channels": [0, 2, 3], "out_channels": [1, 4, 5]},
)
# 4 groups of 2 inputs and 3 outputs: "prefix" is the first ones of each group
_GROUPED: tuple[Keep, Keep] = (
    {"in_channels": [0, 2, 4, 6], "out_channels": [0, 1, 3, 4, 6, 7, 9, 10]},
    {"in_channels": [1, 3, 5, 7], "out_channels": [0, 2, 3, 5, 6, 8, 9, 11]},
)
_DEPTHWISE: tuple[Keep, Keep] = ({"in_channels": 3, "out_channels": 3}, {"in_channels": [0, 5], "out_channels": [0, 5]})
_MULTIPLIED: tuple[Keep, Keep] = (
    {"in_channels": 2, "out_channels": 6},
    {"in_channels": [0, 3], "out_channels": [0, 1, 2, 9, 10, 11]},
)

CASES = [
    _conv("conv1d", lambda: nn.Conv1d(4, 6, 3), (2, 4, 7), *_DENSE),
    _conv("conv2d", lambda: nn.Conv2d(4, 6, 3, 2, 1, padding_mode="circular"), (2, 4, 6, 6), *_DENSE),
    _conv("conv2d-no-bias", lambda: nn.Conv2d(4, 6, 1, bias=False), (2, 4, 3, 3), *_DENSE),
    _conv("conv3d", lambda: nn.Conv3d(4, 6, 2), (2, 4, 3, 3, 3), *_DENSE),
    _conv("conv2d-out-only", lambda: nn.Conv2d(4, 6, 3), (2, 4, 5, 5), {"out_channels": 2}, {"out_channels": [5]}),
    _conv(
        "conv2d-mixed", lambda: nn.Conv2d(4, 6, 3), (2, 4, 5, 5), {"in_channels": 2}, {**_DENSE[1], "in_channels": 2}
    ),
    _conv("conv2d-grouped", lambda: nn.Conv2d(8, 12, 3, groups=4), (2, 8, 5, 5), *_GROUPED),
    _conv("conv2d-depthwise", lambda: nn.Conv2d(6, 6, 3, groups=6), (2, 6, 5, 5), *_DEPTHWISE),
    _conv("conv1d-multiplier", lambda: nn.Conv1d(4, 12, 3, groups=4), (2, 4, 5), *_MULTIPLIED),
    _conv("transposed1d", lambda: nn.ConvTranspose1d(4, 6, 3), (2, 4, 5), *_DENSE),
    _conv("transposed2d", lambda: nn.ConvTranspose2d(4, 6, 3, 2), (2, 4, 5, 5), *_DENSE),
    _conv("transposed3d", lambda: nn.ConvTranspose3d(4, 6, 2), (2, 4, 3, 3, 3), *_DENSE),
    _conv("transposed2d-grouped", lambda: nn.ConvTranspose2d(8, 12, 3, groups=4), (2, 8, 5, 5), *_GROUPED),
    _conv("transposed2d-multiplier", lambda: nn.ConvTranspose2d(4, 12, 3, groups=4), (2, 4, 5, 5), *_MULTIPLIED),
    Case(
        "linear",
        lambda: nn.Linear(4, 6),
        (2, 3, 4),
        {"in_features": 3, "out_features": 2},
        {"in_features": [0, 2, 3], "out_features": [1, 4, 5]},
        "in_features",
        "out_features",
        dim=-1,
        out_dim=-1,
    ),
    _norm("batchnorm1d", lambda: nn.BatchNorm1d(8), (5, 8)),
    _norm("batchnorm2d", lambda: nn.BatchNorm2d(8), (3, 8, 4, 4)),
    _norm("batchnorm2d-cumulative", lambda: nn.BatchNorm2d(8, momentum=None), (3, 8, 4, 4)),
    _norm("batchnorm2d-bare", lambda: nn.BatchNorm2d(8, affine=False, track_running_stats=False), (3, 8, 4, 4)),
    _norm("batchnorm3d", lambda: nn.BatchNorm3d(8), (3, 8, 2, 2, 2)),
    _norm("syncbatchnorm", lambda: nn.SyncBatchNorm(8), (3, 8, 4, 4)),
    _norm("instancenorm1d", lambda: nn.InstanceNorm1d(8, affine=True, track_running_stats=True), (3, 8, 4)),
    _norm("instancenorm2d", lambda: nn.InstanceNorm2d(8), (3, 8, 4, 4)),
    _norm("instancenorm3d", lambda: nn.InstanceNorm3d(8, affine=True), (3, 8, 2, 2, 2)),
    _norm("layernorm", lambda: nn.LayerNorm(8), (3, 5, 8), masked=False, dim=-1, out_dim=-1),
    _norm("layernorm-no-bias", lambda: nn.LayerNorm(8, bias=False), (3, 8), masked=False),
    _norm("rmsnorm", lambda: nn.RMSNorm(8), (3, 5, 8), masked=False, dim=-1, out_dim=-1),
    _norm(
        "groupnorm",
        lambda: nn.GroupNorm(2, 8),
        (3, 8, 4, 4),
        side="num_channels",
        masked=False,
    ),
    _norm("groupnorm-per-channel", lambda: nn.GroupNorm(8, 8), (3, 8, 4, 4), side="num_channels"),
    _norm("prelu", lambda: nn.PReLU(8), (3, 8, 4), side="num_parameters"),
    Case(
        "embedding",
        lambda: nn.Embedding(10, 8, padding_idx=1),
        (2, 5),
        {"embedding_dim": 3},
        {"embedding_dim": [0, 6]},
        out="embedding_dim",
        out_dim=-1,
        reads=10,
    ),
    _norm("bare", lambda: Scale(8), (3, 8, 4, 4), side="gamma", tensors={"gamma": [0]}),
    Case(
        "bare-two-dims",
        Mix,
        (2, 4, 3),
        {"table[0]": 2, "table[1]": 3},
        {"table[0]": [1, 4], "table[1]": [0, 2]},
        "table[1]",
        "table[0]",
        tensors={"table": [0, 1]},
    ),
    _norm(
        "subclass",
        lambda: NormWithActivation(8),
        (3, 8, 4, 4),
        prefix={"num_features": 4, "slope": 4},
        index={"num_features": [0, 3, 7], "slope": [0, 3, 7]},
        tensors={"slope": [0]},
    ),
    _norm(
        "assigned-buffer",
        lambda: AssigningNorm(8),
        (3, 8),
        side="average",
        prefix={"weight": 4, "average": 4},
        index={"weight": [0, 3, 7], "average": [0, 3, 7]},
        tensors={"weight": [0], "average": [0]},
    ),
    Case(
        "registered",
        lambda: Transposed(4, 6),
        (2, 3, 4),
        {"into": 3, "out": 2},
        {"into": [0, 2, 3], "out": [1, 4, 5]},
        "into",
        "out",
        dim=-1,
        out_dim=-1,
    ),
    _norm("torchvision-layernorm2d", lambda: LayerNorm2d(8), (3, 8, 4, 4), masked=False),
]
