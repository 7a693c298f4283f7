"""Kernels that cannot be taken apart, and torchvision's operators on boxes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from replay_checks import assert_replayed, mutable, reasons, traced, widths
from torch import Tensor, nn
from torchvision import ops


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_pinned_with_the_reason(kind: Any) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.rnn, self.b = nn.Linear(5, 8), kind(8, 6), nn.Linear(6, 2)
            self.c = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.rnn(self.a(x))[0]))

    graph, inputs = traced(Recurrent(), torch.rand(4, 2, 5))
    assert widths(mutable(graph)) == [(2, 1)]  # between b and c
    assert graph.unruled == []
    assert any("can't be narrowed" in why or "reaches a recurrent kernel" in why for why in reasons(graph))
    assert_replayed(graph, *inputs, python=True)


def test_a_recurrent_kernel_called_by_name() -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(6, 2)
            self.w, self.u = nn.Parameter(torch.rand(6, 8)), nn.Parameter(torch.rand(6, 6))

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(x.shape[1], 6)
            for step in self.a(x):
                h = torch.rnn_tanh_cell(step, h, self.w, self.u)
            return self.b(h)

    graph, inputs = traced(Cell(), torch.rand(3, 2, 5))
    assert graph.unruled == []
    assert_replayed(graph, *inputs)


class Boxes(nn.Module):
    def __init__(self, crop: Any, back: int) -> None:
        super().__init__()
        self.a, self.b, self.crop = nn.Conv2d(3, 12, 1), nn.Conv2d(back, 2, 1), crop

    def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
        return self.b(self.crop(self.a(x), [boxes]))


BOXES = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 2.0, 7.0, 6.0]])


@pytest.mark.parametrize(
    ("crop", "back", "expected"),
    [
        (lambda x, boxes: ops.roi_align(x, boxes, 2), 12, (12, 1)),
        (lambda x, boxes: ops.roi_pool(x, boxes, 2), 12, (12, 1)),
        (lambda x, boxes: ops.ps_roi_align(x, boxes, 2), 3, (3, 1)),
        (lambda x, boxes: ops.ps_roi_pool(x, boxes, 2), 3, (3, 1)),
    ],
    ids=["align", "pool", "position sensitive align", "position sensitive pool"],
)
def test_channels_pass_the_cutting_of_boxes(crop: Any, back: int, expected: tuple[int, int]) -> None:
    graph, inputs = traced(Boxes(crop, back), torch.rand(1, 3, 8, 8), BOXES)
    (group,) = mutable(graph)
    assert widths([group]) == [expected]
    assert group.inexact is None
    assert graph.unruled == []
    assert_replayed(graph, *inputs, python=True)


def test_boxes_that_the_model_computes_are_pinned() -> None:
    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 2, 1)
            self.boxes, self.scores = nn.Linear(12, 4), nn.Linear(12, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            points = x.flatten(2)[0].T
            boxes = self.boxes(points).sigmoid().cumsum(1) * 2
            kept = ops.nms(boxes, self.scores(points).squeeze(1), 0.5)
            return self.b(ops.roi_align(x, [boxes[kept]], 2))

    graph, _ = traced(Computed(), torch.rand(1, 3, 8, 8))
    (channels,) = mutable(graph)
    assert channels.num_channels == 12  # of the image; those of the boxes are four coordinates
    found = " ".join(reasons(graph))
    assert "is a coordinate of boxes" in found or "reaches torchvision's nms" in found
    assert graph.unruled == []


def test_deformable_convolutions_are_pinned() -> None:
    graph, _ = traced(Deformable(), torch.rand(1, 3, 6, 6))
    assert mutable(graph) == []
    assert any("reaches torchvision's deform_conv2d (deform_conv2d in c," in why for why in reasons(graph))
    assert graph.unruled == []


class Deformable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.b = nn.Conv2d(3, 6, 1), ops.DeformConv2d(6, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.c(self.a(x), x.new_zeros(x.shape[0], 18, *x.shape[2:])))
