"""One operator between two linear layers: which channels can go, whether exactly, and what the replay computes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from replay_checks import assert_replayed, mutable, reasons, traced, widths
from torch import Tensor, nn

WIDTH = 12
SHAPES = {"flat": (4, 8), "tokens": (2, 5, 8)}


class Between(nn.Module):
    """Two linear layers with a function of the activation between them."""

    def __init__(self, middle: Callable[[Tensor], Tensor], back: int, width: int = WIDTH) -> None:
        super().__init__()
        self.middle = middle
        self.a, self.b = nn.Linear(8, width), nn.Linear(back, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.middle(self.a(x)))


INDEX = torch.tensor([3, 0, 11, 3, 7])
ORDER = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(0))
GRID = torch.tensor([[0, 1], [4, 5]])
PLACES = torch.rand(2, 4, 4, 2, dtype=torch.float64)


def written(x: Tensor) -> Tensor:
    """Writes into a tensor that it makes, part by part."""
    out = x.new_zeros(x.shape[0], 2 * x.shape[1])
    out[:, : x.shape[1]] = x
    out[:, x.shape[1] :] = x.relu()
    return out


def fft(x: Tensor) -> Tensor:
    return torch.fft.irfft(torch.fft.rfft(x, dim=1), n=x.shape[1], dim=1)


def complex_pairs(x: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(x.new_ones(1), x.new_ones(1))).flatten(-2)


# name, shape, function, width of its result, (channels, tiles) expected, exact, does the Python code follow the width
CASES = [
    ("copy", "flat", lambda x: x.clone(), 12, [(12, 1)], True, True),
    ("roll", "flat", lambda x: x.roll(3, 1), 12, [(12, 1)], True, False),
    ("roll tokens", "tokens", lambda x: x.roll((1, 2), (0, 1)), 12, [(12, 1)], True, True),
    ("index", "flat", lambda x: x[:, ORDER], 12, [(12, 1)], True, False),
    ("index some", "flat", lambda x: x[:, INDEX], 5, [(4, 1), (8, 1)], True, False),
    ("index select", "flat", lambda x: x.index_select(1, ORDER), 12, [(12, 1)], True, False),
    ("index grid", "flat", lambda x: x[:, GRID].flatten(1), 4, [(2, 1), (8, 1)], True, False),
    ("index mask", "flat", lambda x: x[:, ORDER > 5], 6, [(6, 1), (6, 1)], True, False),
    ("index tokens", "tokens", lambda x: x[:, [0, 3, 3]], 12, [(12, 1)], True, True),
    ("index pairs", "tokens", lambda x: x[[0, 1], [2, 4]], 12, [(12, 1)], True, True),
    ("index computed", "tokens", lambda x: x[torch.arange(2)[:, None], x.mean(2).argsort(1)], 12,
     [(12, 1)], False, True),
    ("gather computed", "tokens", lambda x: x.gather(1, x.argsort(1)), 12, [(12, 1)], True, True),
    ("gather", "flat", lambda x: x.gather(1, ORDER.expand(4, -1)), 12, [(12, 1)], True, False),
    ("put tokens", "tokens", lambda x: x.index_put((torch.tensor([0, 1]), torch.tensor([1, 2])), x[:, 0]), 12,
     [(12, 1)], True, True),
    ("put channels", "flat", lambda x: x.index_put((torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 0, 0])), x.sum(1)),
     12, [], True, False),
    ("sort tokens", "tokens", lambda x: x.sort(1).values, 12, [(12, 1)], True, True),
    ("sort channels", "tokens", lambda x: x.sort(2).values, 12, [], True, True),
    ("topk", "tokens", lambda x: x.topk(3, 1).values, 12, [(12, 1)], True, True),
    ("median", "tokens", lambda x: x.median(1).values, 12, [(12, 1)], True, True),
    ("max", "tokens", lambda x: x.max(1).values, 12, [(12, 1)], True, True),
    ("min with itself", "tokens", lambda x: torch.min(x, x.flip(1)), 12, [(12, 1)], True, True),
    ("gate by the maximum", "tokens", lambda x: x * x.max(2, keepdim=True).values, 12, [(12, 1)], False, True),
    ("argmax", "tokens", lambda x: x * x.argmax(1, keepdim=True), 12, [(12, 1)], True, True),
    ("norm", "tokens", lambda x: x / x.norm(dim=2, keepdim=True), 12, [(12, 1)], False, True),
    ("norm of tokens", "tokens", lambda x: F.normalize(x, dim=1), 12, [(12, 1)], True, True),
    ("std", "tokens", lambda x: x - x.std(1, keepdim=True), 12, [(12, 1)], True, True),
    ("any", "tokens", lambda x: x * (x > 0).any(1, keepdim=True), 12, [(12, 1)], True, True),
    ("prod", "tokens", lambda x: x.prod(1), 12, [(12, 1)], True, True),
    ("cumsum of tokens", "tokens", lambda x: x.cumsum(1), 12, [(12, 1)], True, True),
    ("cumsum", "tokens", lambda x: x.cumsum(2), 12, [(12, 1)], False, True),
    ("cummax", "tokens", lambda x: x.cummax(1).values, 12, [(12, 1)], True, True),
    ("softmax", "tokens", lambda x: x.softmax(2), 12, [(12, 1)], False, True),
    ("softmax of tokens", "tokens", lambda x: x.softmax(1), 12, [(12, 1)], True, True),
    ("glu", "flat", lambda x: F.glu(x, 1), 6, [(6, 1)], True, True),
    ("fft of tokens", "tokens", fft, 12, [(12, 1)], True, True),
    ("fft", "flat", fft, 12, [], True, True),
    ("complex pairs", "tokens", complex_pairs, 12, [(6, 1)], True, True),
    ("triangle", "tokens", lambda x: x.unsqueeze(1).expand(-1, 5, -1, -1).permute(0, 3, 1, 2).tril().sum(3).mT, 12,
     [(12, 1)], True, True),
    ("triangle of channels", "tokens", lambda x: x.tril(), 12, [], True, True),
    ("unfold tokens", "tokens", lambda x: x.unfold(1, 2, 1).sum(3), 12, [(12, 1)], True, True),
    ("unfold channels", "flat", lambda x: x.unfold(1, 3, 3).sum(2), 4, [], True, True),
    ("diagonal", "flat", lambda x: (x[:, :, None] * x[:, None, :]).diagonal(0, 1, 2), 12, [(12, 1)], True, True),
    ("diagonal of tokens", "tokens", lambda x: x.unsqueeze(1).expand(-1, 5, -1, -1).diagonal(0, 1, 2).mT, 12,
     [(12, 1)], True, True),
    ("repeat", "flat", lambda x: x.repeat(1, 2), 24, [(12, 1)], True, True),
    ("repeat each", "flat", lambda x: x.repeat_interleave(2, 1), 24, [(12, 1)], True, True),
    ("stack", "flat", lambda x: torch.stack([x, -x], 1).flatten(1), 24, [(12, 1)], True, True),
    ("slice scatter", "tokens", lambda x: x.slice_scatter(x[:, :2], 1, 3, 5), 12, [(12, 1)], True, True),
    ("slice scatter of channels", "flat", lambda x: x.slice_scatter(x[:, 6:], 1, 0, 6), 12, [(12, 2)], True, False),
    ("select scatter", "tokens", lambda x: x.select_scatter(x[:, 2], 1, 0), 12, [(12, 1)], True, True),
    ("write into views", "flat", written, 24, [(12, 1)], True, False),
    ("zero in place", "tokens", lambda x: x.index_fill(1, torch.tensor([1]), 0.0), 12, [(12, 1)], True, True),
    ("scatter", "tokens", lambda x: x.scatter(1, x.argsort(1), x), 12, [(12, 1)], True, True),
    ("masked fill", "tokens", lambda x: x.masked_fill(x > 0.3, 0.5), 12, [(12, 1)], True, True),
    ("where", "tokens", lambda x: torch.where(x > 0, x, 2.0), 12, [(12, 1)], True, True),
    ("bucketize", "tokens", lambda x: torch.bucketize(x, torch.tensor([0.0])).double(), 12, [(12, 1)], True, True),
    ("distance", "tokens", lambda x: torch.cdist(x, x) @ x, 12, [(12, 1)], False, True),
    ("mean square", "tokens", lambda x: F.rms_norm(x, x.shape[-1:], x.new_ones(x.shape[-1])), 12,
     [(12, 1)], False, True),
    ("channel shuffle", "tokens", lambda x: F.channel_shuffle(x.mT.unsqueeze(3), 3).squeeze(3).mT, 12,
     [(4, 1)], True, True),
    ("split and swap", "flat", lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), 12, [(12, 2)], True, True),
    ("unbind", "tokens", lambda x: sum(x.unflatten(2, (3, 4)).unbind(2)), 4, [(4, 1)], True, False),
    ("unbind tokens", "tokens", lambda x: torch.stack(x.unbind(1)[::-1], 1), 12, [(12, 1)], True, True),
    ("squeeze", "flat", lambda x: x.unsqueeze(2).squeeze(), 12, [(12, 1)], True, False),
    ("dropout", "tokens", lambda x: F.dropout(x, 0.0, training=True), 12, [(12, 1)], True, True),
    ("crop", "flat", lambda x: F.pad(x, (-2, -4)), 6, [(6, 1), (6, 1)], True, False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "middle", "back", "expected", "exact", "follows"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_channels_and_numbers(
    shape: str,
    middle: Callable[[Tensor], Tensor],
    back: int,
    expected: list[tuple[int, int]],
    exact: bool,
    follows: bool,
) -> None:
    graph, inputs = traced(Between(middle, back), torch.rand(SHAPES[shape]))
    groups = mutable(graph)
    assert widths(groups) == expected, reasons(graph)
    assert all((group.inexact is None) == exact for group in groups)
    assert graph.unruled == []
    assert_replayed(graph, *inputs, python=follows)


IMAGES = [
    ("resize", lambda x: F.interpolate(x, scale_factor=2, mode="nearest-exact"), 12, [(12, 1)]),
    ("bicubic", lambda x: F.interpolate(x, size=(7, 5), mode="bicubic"), 12, [(12, 1)]),
    ("bilinear", lambda x: F.interpolate(x, size=(3, 3), mode="bilinear", antialias=True), 12, [(12, 1)]),
    ("windows", lambda x: F.fold(F.unfold(x, 3, padding=1), (6, 6), 3, padding=1), 12, [(12, 1)]),
    ("unfold", lambda x: F.unfold(x, 2, stride=2).unflatten(2, (3, 3)), 48, [(12, 1)]),
    ("fold", lambda x: F.fold(x.flatten(2), (7, 7), 2), 3, [(3, 1)]),
    ("pixel shuffle", lambda x: F.pixel_shuffle(x, 2), 3, [(3, 1)]),
    ("pixel unshuffle", lambda x: F.pixel_unshuffle(x, 2), 48, [(12, 1)]),
    ("circular", lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"), 12, [(12, 1)]),
    ("reflect", lambda x: F.pad(x, (1, 2, 1, 2), mode="reflect"), 12, [(12, 1)]),
    ("max pool", lambda x: F.max_pool2d(x, 2), 12, [(12, 1)]),
    ("unpool", lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), 12, [(12, 1)]),
    ("grid", lambda x: F.grid_sample(x, PLACES, align_corners=False), 12, [(12, 1)]),
    ("lp pool", lambda x: F.lp_pool2d(x, 2.0, 2), 12, [(12, 1)]),
    ("local response", lambda x: F.avg_pool2d(x, 3, 1, 1) - x, 12, [(12, 1)]),
    ("fft", lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 0.5, s=(6, 6)), 12, [(12, 1)]),
]


@pytest.mark.parametrize(("middle", "back", "expected"), [c[1:] for c in IMAGES], ids=[c[0] for c in IMAGES])
def test_images(middle: Callable[[Tensor], Tensor], back: int, expected: list[tuple[int, int]]) -> None:
    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, WIDTH, 1), nn.Conv2d(back, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(middle(self.a(x)))

    graph, inputs = traced(Images(), torch.rand(2, 3, 6, 6))
    assert widths(mutable(graph)) == expected, reasons(graph)
    assert mutable(graph, exact=False) == []
    assert graph.unruled == []
    assert_replayed(graph, *inputs, python=True)


PINNED = [
    (lambda x: x.flatten()[x.flatten() > 0].sum() * x, "is a place in another tensor (index in the model"),
    (lambda x: torch.take(x, torch.arange(WIDTH)).expand(4, -1), "whose places cannot be followed"),
    (lambda x: x * (2.0 if torch.equal(x, -x) else 3.0), "its value is read by Python code"),
    (lambda x: torch.linalg.qr(x.view(-1, 4, 3)).Q.flatten(1), "reaches an operator without a rule"),
]


@pytest.mark.parametrize(("middle", "reason"), PINNED, ids=["mask", "take", "equal", "qr"])
def test_pinned_with_the_reason(middle: Callable[[Tensor], Tensor], reason: str) -> None:
    graph, _ = traced(Between(middle, WIDTH), torch.rand(SHAPES["flat"]))
    assert mutable(graph) == []
    assert any(reason in why for why in reasons(graph)), reasons(graph)
