"""The replay itself: what it leaves alone, what it shows, which program it runs and how much memory it takes."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from replay_checks import draws, mutable, traced
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_channels.tracing.replay import Replay, UnsupportedReplayError


class Net(nn.Module):
    """Writes into its input, into a buffer and into a tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 12, 1), nn.BatchNorm2d(12), nn.Conv2d(12, 2, 1)
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2.0)
        self.seen.add_(x.mean((0, 2, 3)))
        y = self.norm(self.a(x + self.seen[:, None, None])).relu_()
        kept = torch.zeros_like(y)
        kept[:, :, 1:] = y[:, :, 1:]
        return self.b(kept)


def test_parameters_buffers_and_inputs_are_left_alone() -> None:
    graph, inputs = traced(Net(), torch.rand(2, 3, 4, 4))
    tensors = dict([*graph.model.named_parameters(), *graph.model.named_buffers()])
    before = copy.deepcopy((tensors, inputs))
    for program in (None, graph.training):
        assert program is None or graph.walk.training is not None
        first = Replay(graph, draws(mutable(graph), 2), program)
        once, again = (first.run(tensors, list(inputs)) for _ in range(2))
        assert torch.equal(once[0], again[0])
    assert all(torch.equal(tensors[name], before[0][name]) for name in tensors)
    assert torch.equal(inputs[0], before[1][0])


def test_the_program_of_train_mode() -> None:
    graph, inputs = traced(Net(), torch.rand(2, 3, 4, 4))
    assert graph.training is not None
    assert graph.walk.training is not None
    assert graph.walk.training.program is graph.training
    tensors = dict([*graph.model.named_parameters(), *graph.model.named_buffers()])
    doubled = [torch.cat([x, x]) for x in inputs]
    replayed = Replay(graph, [], graph.training).run(tensors, doubled)
    with torch.no_grad():
        expected = copy.deepcopy(graph.model).train()(*copy.deepcopy(doubled))
    torch.testing.assert_close(replayed[0], expected, rtol=1e-10, atol=1e-10)
    dropped = draws(mutable(graph), 2)
    assert Replay(graph, dropped, graph.training).run(tensors, doubled)[0].shape == expected.shape
    with pytest.raises(ValueError, match="program must be one that the graph was made from"):
        Replay(graph, [], copy.copy(graph.program))


def test_watching() -> None:
    graph, inputs = traced(nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3)), torch.rand(4, 5))
    tensors = dict(graph.model.named_parameters())
    (relu,) = (op for op in graph.program.ops if op.name == "relu")
    ref = relu.outputs[0].id
    (group,) = mutable(graph)
    replay = Replay(graph, [group.classes[[0, 3, 7]]])
    replay.run(tensors, list(inputs))
    assert replay.watched == {}
    replay.run(tensors, list(inputs), watch=[ref])
    kept = [k for k in range(12) if k not in (0, 3, 7)]
    with torch.no_grad():
        expected = graph.model[0](inputs[0]).relu()[:, kept]
    assert list(replay.watched) == [ref]
    torch.testing.assert_close(replay.watched[ref], expected, rtol=1e-10, atol=1e-10)


def test_an_operator_that_cannot_run_narrow() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 12), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).relu()[:, [1, 5]].relu())

    graph, inputs = traced(Fixed(), torch.rand(4, 5))
    (index,) = (op for op in graph.program.ops if op.name == "index")
    ops = graph.program.ops
    graph.program.ops = [
        type(op)(torch.ops.aten.view.default, (op.args[0], [1, 2, 3]), {}, op.outputs, op.module) if op is index else op
        for op in ops
    ]
    (relu,) = (op.outputs[0].id for op in ops[:-3] if op.name == "relu" and op.args[0] != index.outputs[0])
    replay = Replay(graph, [])
    with pytest.raises(UnsupportedReplayError, match="view in the model") as caught:
        replay.run(dict(graph.model.named_parameters()), list(inputs), watch=[relu])
    assert caught.value.op is not None
    assert caught.value.op.name == "view"
    assert list(replay.watched) == [relu]  # what was computed before is there


class Counting(TorchDispatchMode):
    """The most bytes of a tensor that operators made, apart from views of ``given``."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for out in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(out, Tensor) and out.untyped_storage().data_ptr() not in self.given:
                self.most = max(self.most, out.untyped_storage().nbytes())
        return result


def test_weights_are_not_copied_as_a_whole() -> None:
    """A weight that stays as it is is read where it lies, and a narrow one is all that is made of a full one."""
    graph, inputs = traced(nn.Sequential(nn.Linear(8, 300), nn.Linear(300, 200), nn.Linear(200, 2)), torch.rand(1, 8))
    tensors = dict(graph.model.named_parameters())
    whole = tensors["1.weight"].numel() * 8
    with Counting(tensors.values()) as counting:
        Replay(graph, []).run(tensors, list(inputs))
    assert counting.most < whole / 10
    for group in mutable(graph):
        with Counting(tensors.values()) as counting:
            Replay(graph, [group.classes[: len(group.classes) // 2]]).run(tensors, list(inputs))
        assert counting.most <= whole / 2
