"""Schedules against their formulas, and when something happens."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_channels import SCHEDULES, ConfigError, build_schedule
from lightning_channels.pruning import CubicSchedule, LinearSchedule, Schedule
from lightning_channels.pruning.schedules import share_at
from lightning_channels.pruning.targets import Limits
from lightning_channels.pruning.timing import Span, Timing, read_schedule


def test_the_formulas() -> None:
    assert [build_schedule("linear")(t) for t in (0, 0.25, 1)] == [0, 0.25, 1]
    assert [build_schedule("one_shot")(t) for t in (0, 0.25, 1)] == [1, 1, 1]
    # Zhu and Gupta (2017), equation 1, for what is left: from 1 to 0.2 in ten steps
    for step in range(11):
        t = step / 10
        left = Limits({"flops": 0.2}).between({"flops": 1.0}, build_schedule("cubic")(t)).amounts["flops"]
        assert left == pytest.approx(0.2 + (1.0 - 0.2) * (1 - t) ** 3, abs=1e-15)
    assert CubicSchedule()(0.5) == 0.875


def test_what_makes_a_schedule() -> None:
    assert isinstance(build_schedule({"type": "cubic"}), CubicSchedule)
    assert isinstance(build_schedule(LinearSchedule), LinearSchedule)
    own = LinearSchedule()
    assert build_schedule(own) is own
    assert build_schedule(lambda progress: progress**2)(0.5) == 0.25
    assert isinstance(own, Schedule)
    assert {"cubic", "greedy", "linear", "one_shot"} <= set(SCHEDULES.names())


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("linaer", "unknown schedule 'linaer'; did you mean 'linear'"),
        ({"type": "cubic", "power": 3}, "schedule cubic takes no argument 'power'"),
        ({"start": 3}, "must be a dict with a 'type'"),
        (3, "a schedule must be a name, a dict with 'type' or a function of the progress, got 3"),
        (lambda progress: 2 * progress, r"must return a number in \[0, 1\], got 1.02 at 0.51"),
        (lambda progress: None, "got None at 0"),
        (lambda progress: progress / 2, "never reaches the target: it ends at 0.5"),
        ({"type": "greedy", "channels": 0}, "channels must be a whole number of at least 1"),
        ({"type": "greedy", "per": 3}, "per must be the name of a resource"),
    ],
)
def test_what_makes_none_is_refused(schedule: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_schedule(schedule)


def test_a_share_is_checked_when_it_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="must return a number"):
        share_at(lambda progress: float("nan"), 0.5)


def due(span: Span, steps: range) -> list[int]:
    """The steps at which something happens."""
    done, found = None, []
    for step in steps:
        point = span.due(step, done)
        if point is not None:
            done = point
            found.append(step)
    return found


def test_when_something_is_due() -> None:
    def spans(schedule: str, timing: Timing, total: float | None) -> list[int]:
        return due(timing.span(build_schedule(schedule), total), range(timing.start_step, 40))

    assert spans("one_shot", Timing(), 40) == [0]
    assert spans("one_shot", Timing(start_step=7), None) == [7]
    assert spans("linear", Timing(start_step=5, end_step=12, interval=3), 40) == [5, 8, 11, 12]
    assert spans("linear", Timing(start_step=5, end_step=5), 40) == [5]
    assert spans("cubic", Timing(interval=8), 40) == [0, 8, 16, 20]  # half the training
    assert spans("cubic", Timing(start_step=30), 40) == [30]
    assert spans("greedy", Timing(start_step=5, interval=10), -1) == [15, 25, 35]
    assert spans("greedy", Timing(interval=10, end_step=25), float("inf")) == [10, 20, 25]


def test_what_was_missed_is_made_up_for_once() -> None:
    span = Span(0, 20, 5)
    assert span.due(13, None) == 10
    assert span.due(14, 10) is None
    assert span.due(99, 10) == 20
    assert span.due(100, 20) is None


def test_progress() -> None:
    span = Span(10, 20, 1)
    assert [span.progress(step) for step in (10, 15, 20, 30)] == [0, 0.5, 1, 1]
    assert Span(4, 4, 1).progress(4) == 1


@pytest.mark.parametrize(
    ("steps", "total", "message"),
    [
        ({"start_step": -1}, 40, "start_step must be a whole number of at least 0, got -1"),
        ({"start_step": 2.5}, 40, "start_step must be a whole number"),
        ({"end_step": "last"}, 40, "end_step must be a whole number of at least 0, or None, got 'last'"),
        ({"interval": 0}, 40, "interval must be a whole number of at least 1, got 0"),
        ({"start_step": 9, "end_step": 8}, 40, "starts at step 9, and ends before, at step 8"),
        ({"start_step": 40}, 40, "starts at step 40, and the training has 40 steps, 0 to 39"),
        ({"end_step": 40}, 40, "ends at step 40, and the training has 40 steps.*give an earlier end_step"),
        ({}, None, "has no last step, so the schedule needs an end_step"),
        ({}, -1, "has no last step"),
        ({}, float("inf"), "has no last step"),
    ],
)
def test_steps_that_do_not_fit_are_refused(steps: Any, total: float | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Timing(**steps).span(build_schedule("linear"), total)


def test_steps_may_stand_in_the_schedules_dict() -> None:
    schedule, timing = read_schedule({"type": "cubic", "start_step": 2, "end_step": 9}, 0, None, 5)
    assert isinstance(schedule, CubicSchedule)
    assert timing == Timing(2, 9, 5)
    with pytest.raises(ConfigError, match="prunes at once, at its start_step, and takes no end_step"):
        read_schedule("one_shot", 0, 5, 1)
