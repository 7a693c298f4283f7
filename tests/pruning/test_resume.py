"""A pruning that is interrupted goes on as if it hadn't been."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_channels import ChannelMutator, Pruner, StructureError
from tests.pruning.nets import Gradients, chain, grouped, numbers, prepared, train_step

STEPS = 12

RUNS: dict[str, Callable[[], Pruner]] = {
    "one_shot": lambda: Pruner("l1", {"flops": 0.4}, start_step=5),
    "linear": lambda: Pruner("l1", {"flops": 0.4}, "linear", start_step=1, end_step=8),
    "cubic": lambda: Pruner("l2", {"params": 0.4}, "cubic", interval=2),
    "regrow": lambda: Pruner("l1", {"flops": 0.4}, "linear", regrow=True),
    "given": lambda: Pruner("l1", None, "linear", scope={"0*": 2, "2*": 0.5}),
    "greedy": lambda: Pruner(Gradients(), {"flops": 0.3}, {"type": "greedy", "interval": 2}),
    "gradients": lambda: Pruner(Gradients(), {"flops": 0.3}, "linear", end_step=9, interval=3),
}


class Run:
    """A pruning training on plain torch."""

    def __init__(self, pruner: Pruner, mutator: ChannelMutator) -> None:
        self.pruner, self.mutator = pruner, mutator
        self.optimizer = torch.optim.SGD(mutator.model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
        self.events: list[str] = []

    def to(self, last: int, first: int = 0) -> Run:
        for step in range(first, last):
            event = self.pruner.before_step(step)
            if event is not None:
                self.events.append(f"{event} {event.after}")
            train_step(self.mutator, self.optimizer, step)
            self.pruner.after_backward()
            self.optimizer.step()
        return self

    def save(self) -> bytes:
        file = io.BytesIO()
        state = {
            "model": self.mutator.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "structure": self.mutator.structure(),
            "pruner": self.pruner.state_dict(),
        }
        torch.save(state, file)
        return file.getvalue()


def resumed(saved: bytes, make: Callable[[], Pruner], load_first: bool) -> Run:
    state: Any = torch.load(io.BytesIO(saved), weights_only=True)
    mutator = ChannelMutator.from_structure(state["structure"])
    model = chain()
    model.load_state_dict(state["model"])
    mutator.prepare_from_supernet(model)
    mutator.load_structure(state["structure"])
    pruner = make()
    if load_first:
        pruner.load_state_dict(state["pruner"])
        pruner.start(mutator, 3 * STEPS)  # of a longer training: the schedule stays what it was
    else:
        pruner.start(mutator, STEPS)
        pruner.load_state_dict(state["pruner"])
    run = Run(pruner, mutator)
    run.optimizer.load_state_dict(state["optimizer"])
    return run


@pytest.mark.parametrize("name", list(RUNS))
def test_it_goes_on_from_every_step(name: str) -> None:
    make = RUNS[name]
    whole = Run(make(), prepared())
    whole.pruner.start(whole.mutator, STEPS)
    snapshots, counts = [], []
    for step in range(STEPS):
        snapshots.append(whole.save())
        counts.append(len(whole.events))
        whole.to(step + 1, step)
    assert whole.events
    for step in range(1, STEPS):
        run = resumed(snapshots[step], make, load_first=step % 2 == 0).to(STEPS, step)
        assert run.events == whole.events[counts[step] :]
        assert run.mutator.kept_channels() == whole.mutator.kept_channels()
        assert run.pruner.finished == whole.pruner.finished
        assert run.pruner.reached == whole.pruner.reached
        for key, value in whole.mutator.model.state_dict().items():
            assert torch.equal(value, run.mutator.model.state_dict()[key])


def state() -> dict[str, Any]:
    pruner = Pruner("l1", {"flops": 0.4}, "linear")
    pruner.start(prepared(), STEPS)
    return pruner.state_dict()


def test_a_state_is_loaded_once() -> None:
    pruner = Pruner("l1", {"flops": 0.4}, "linear")
    pruner.load_state_dict(state())
    assert pruner.state_dict() == state()  # also before it is used
    pruner.start(prepared(), 100)
    assert pruner.state_dict() == state()
    pruner.start(prepared(), 100)
    assert pruner.state_dict()["progress"]["span"]["end"] == 50


def test_a_pruner_that_has_not_started_has_an_empty_state() -> None:
    pruner = Pruner("l1", {"flops": 0.4})
    assert pruner.state_dict() == {}
    pruner.load_state_dict({})
    pruner.start(prepared(), 10)
    assert pruner.before_step(0) is not None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("span", None),
        ("span", {"start": 0}),
        ("span", {"start": 0, "end": 4, "interval": 0, "first": 0}),
        ("span", {"start": 5, "end": 4, "interval": 1, "first": 0}),
        ("span", {"start": 0.5, "end": 4, "interval": 1, "first": 0}),
        ("numbers", {"0_(0, 6)_6": -1, "2_(0, 5)_5": 5}),
        ("numbers", {"0_(0, 6)_6": 6}),
        ("numbers", {"0_(0, 6)_6": 5, "2_(0, 5)_5": 5}),
        ("numbers", [6, 5]),
        ("costs", {"flops": float("nan")}),
        ("costs", {}),
        ("done", -3),
        ("done", "4"),
        ("finished", 1),
        ("extra", 1),
    ],
)
@pytest.mark.parametrize("started", [True, False])
def test_a_state_that_does_not_fit_is_refused(key: str, value: Any, started: bool) -> None:
    pruner, mutator = Pruner("l1", {"flops": 0.4}, "linear"), prepared()
    broken = state()
    broken["progress"][key] = value
    if started:
        pruner.start(mutator, STEPS)
    before = pruner.state_dict()
    with pytest.raises(StructureError):  # noqa: PT012
        pruner.load_state_dict(broken)
        pruner.start(mutator, STEPS)
    if started:
        assert pruner.state_dict() == before
    assert numbers(mutator) == [6, 5]


def test_the_state_of_another_model_is_refused() -> None:
    pruner = Pruner("l1", {"flops": 0.4})
    pruner.load_state_dict(state())
    with pytest.raises(StructureError, match="of a model with other units"):
        pruner.start(prepared(grouped), STEPS)
