"""Networks of vectors and sequences: recurrent ones, bare parameters, parametrizations, operators without a rule."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from networks.case import case, features, ids, tokens
from torch import Tensor, nn
from torch.nn.utils import parametrizations

RECURRENT = "flattened weights"


@case(
    tokens,
    mutable={"a": 6, "c": 7},
    refused={"b": RECURRENT},
)
class LongShortTermMemory(nn.Module):
    """What surrounds the recurrent part can change."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 8)
        self.rnn = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)
        self.c, self.out = nn.Linear(12, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.c(self.rnn(self.b(F.relu(self.a(x))))[0][:, -1])))


@case(tokens, mutable={"a": 7}, refused={"a": RECURRENT})
class Cell(nn.Module):
    """Steps in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.a, self.out = nn.GRUCell(5, 6), nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 6)
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.out(F.relu(self.a(state)))


@case(tokens, mutable={"step": 6, "inputs": 8})
class OwnCell(nn.Module):
    """A recurrence of plain layers: the state's channels are read and written by the same layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.step, self.out = nn.Linear(5, 8), nn.Linear(14, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.shape[0], self.step.out_features, dtype=x.dtype)
        for t in range(x.shape[1]):
            state = torch.tanh(self.step(torch.cat([self.inputs(x[:, t]), state], 1)))
        return self.out(state)


@case(features, mutable={"a": 16})
class Maxout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(5, 32), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x).view(x.shape[0], 2, -1).max(1)[0])


@case(features, mutable={}, refused={"a": "fails|something else"})
class MaxoutByNumber(Maxout):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x).view(x.shape[0], 2, 16).max(1)[0])


@case(features, mutable={"a": 16})
class MaxoutByAttribute(Maxout):
    def __init__(self) -> None:
        super().__init__()
        self.units = 16

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x).view(x.shape[0], 2, self.units).max(1)[0])


@case(
    lambda: torch.randn(2, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    mutable={"b": 6},
    refused={"b2": r"in c\.parametriz"},
)
class Parametrized(nn.Module):
    """Weights that are computed at each access keep their width; the layers around them don't have to."""

    def __init__(self) -> None:
        super().__init__()
        self.a = parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
        self.b = nn.Conv2d(8, 6, 3)
        self.b2 = nn.Conv2d(6, 8, 1)
        self.c = parametrizations.spectral_norm(nn.Conv2d(8, 8, 3))
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.c(F.relu(self.b2(F.relu(self.b(F.relu(self.a(x)))))))))


@case(tokens, mutable={"a": 6, "b": 8, "mix[1]": 4}, reads=(("mix", 0),))
class BareMatrix(nn.Module):
    """A parameter that no module owns as its weight multiplies the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(5, 6), nn.Linear(6, 8), nn.Linear(4, 3)
        self.mix = nn.Parameter(torch.rand(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.einsum("bnc,cd->bnd", self.b(F.relu(self.a(x))), self.mix))


@case(features, mutable={"encoder": 6, "hidden": 4}, reads=(("encoder.weight", 0),))
class TiedAutoencoder(nn.Module):
    """Decodes by the encoder's weight, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.hidden, self.back = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.back(F.relu(self.hidden(F.relu(self.encoder(x)))))
        return F.linear(x, self.encoder.weight.t())


class Cosine(nn.Linear):
    """The angle between input and weight."""

    def forward(self, x: Tensor) -> Tensor:
        return 5 * F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))


@case(features, mutable={"a": 6, "b": 8})
class CosineClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(5, 6), nn.Linear(6, 8), Cosine(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.softplus(self.b(F.relu(self.a(x)))))


@case(
    features,
    mutable={"experts.0.0": 6, "experts.1.0": 6, "experts.0.2": 8, "trunk": 7},
    refused={"gate": "meets a dimension"},
)
class MixtureOfExperts(nn.Module):
    """All experts run; what weighs them has one channel for each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.gate, self.out = nn.Linear(5, 7), nn.Linear(7, 2), nn.Linear(8, 3)
        self.experts = nn.ModuleList(
            [nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 8), nn.Tanh()) for _ in range(2)]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.trunk(x))
        results = torch.stack([expert(x) for expert in self.experts], 1)
        return self.out((self.gate(x).softmax(-1)[:, :, None] * results).sum(1))


@case(features, mutable={"a": 6}, refused={"b": "roll|something else|fails"})
class Rolled(nn.Module):
    """Rolling fewer channels gives other neighbours: runs, but is another model."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(5, 6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(F.relu(self.a(x))).roll(1, 1))


@case(features, mutable={"a": 6}, refused={"b": "index|something else|fails"})
class Permuted(nn.Module):
    """Permutes channels by numbers that are stored."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(5, 6), nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("order", torch.tensor([3, 1, 0, 2, 7, 6, 5, 4]))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(F.relu(self.a(x)))[:, self.order])


@case(features, mutable={"a": 6, "c": 5}, refused={"b": r"without a rule \(linalg_inv_ex in the model"})
class Unruled(nn.Module):
    """An operator that nothing is known of."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = nn.Linear(5, 6), nn.Linear(6, 9), nn.Linear(9, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.relu(self.a(x))).view(-1, 3, 3)
        return self.out(F.relu(self.c(torch.linalg.inv(x).flatten(1))))


@case(tokens, mutable={"a": 6, "c": 5}, refused={"b": r"fft"})
class Fourier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = nn.Linear(5, 6), nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.relu(self.a(x)))
        return self.out(F.relu(self.c(torch.fft.fft2(x).real)))


@case(
    features, mutable={"a": 6, "b": 8, "c": 5}, refused={"a2": "_trilinear", "b2": "_trilinear", "bilinear.bias": "."}
)
class BilinearLayer(nn.Module):
    """Three tensors at once."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.a2, self.b = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(5, 8)
        self.b2, self.bilinear = nn.Linear(8, 3), nn.Bilinear(4, 3, 6)
        self.c, self.out = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bilinear(self.a2(F.relu(self.a(x))), self.b2(F.relu(self.b(x))))
        return self.out(F.relu(self.c(x)))


@case(ids, mutable={"a": 6}, refused={"bag.weight": "_embedding_bag"})
class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.a, self.out = nn.EmbeddingBag(11, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.a(self.bag(x))))


@case(features, mutable={"left": 6, "right": 4, "head": 5})
class WritesByWidth(nn.Module):
    """Writes into a new tensor, at places that follow its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head, self.out = nn.Linear(5, 6), nn.Linear(5, 4), nn.Linear(10, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.left.out_features
        both = x.new_zeros(x.shape[0], first + self.right.out_features)
        both[:, :first] = self.left(x)
        both[:, first:] = self.right(x).relu_()
        return self.out(F.relu(self.head(both)))


@case(features, mutable={"head": 5}, refused={"left": "fails|copy_", "right": "fails|copy_|as_strided"})
class WritesByNumber(WritesByWidth):
    def forward(self, x: Tensor) -> Tensor:
        both = x.new_zeros(x.shape[0], 10)
        both[:, :6] = self.left(x)
        both[:, 6:] = self.right(x).relu_()
        return self.out(F.relu(self.head(both)))
