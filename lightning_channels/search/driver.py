"""A search: asks an algorithm, evaluates, writes down, tells."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from lightning_channels._plain import is_int
from lightning_channels._progress import Progress, check_progress, told
from lightning_channels.errors import ConfigError, did_you_mean
from lightning_channels.mutators import ChannelMutator, supernet_hash
from lightning_channels.mutators.held import Held
from lightning_channels.pruning.targets import Limits
from lightning_channels.search.building import SearchLike, arguments_of, build_search, name_of
from lightning_channels.search.candidate import Candidate, read_metrics
from lightning_channels.search.fronts import on_front
from lightning_channels.search.journal import Journal, Known
from lightning_channels.search.protocol import Evaluate, Executor, SearchAlgorithm, SearchTask, SerialExecutor
from lightning_channels.search.result import MODES, SearchResult
from lightning_channels.search.space import Point, SearchSpace

__all__ = ["search"]

_IDLE = 100
"""So many questions in a row that bring nothing new end a search."""


def search(
    space: SearchSpace,
    evaluate: Evaluate,
    algorithm: SearchLike = "evolution",
    *,
    metric: str = "val_acc",
    mode: str = "max",
    objectives: Sequence[str] | None = None,
    budget: int = 100,
    seed: int = 0,
    journal: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    on_progress: Progress = None,
) -> SearchResult:
    """Look for the best choice of a trained supernet.

    A choice is evaluated once. The model's widths are afterwards what they were before, whatever ``evaluate`` sets.

    Args:
        space: The choices, and their limits.
        evaluate: A function: a choice, as :meth:`ChannelMutator.set_choices` takes it → its metrics by name.
        algorithm: ``"greedy"``, ``"evolution"``, ``"random"``, another registered name, a dict with ``type`` and
            arguments, or an algorithm.
        metric: The metric that is compared.
        mode: Whether more of it is better, ``"max"``, or less, ``"min"``.
        objectives: Resources that are to be low as well, for instance ``("macs",)``: the search is for the Pareto front
            then.
        budget: How many choices are evaluated at most. The search ends earlier where the algorithm does, or where there
            is no choice left.
        seed: The search is a function of it, and of what ``evaluate`` returns.
        journal: A file to which every evaluated choice is added. A search that was killed is called again with the same
            arguments and goes on with it, so that nothing is evaluated twice; with a larger budget it goes further.
        executor: Evaluates the choices; one after the other by default.
        on_progress: True for a bar on the standard error, or a function that is called with the number of evaluated
            choices, and the budget, after each.

    Returns:
        Everything that was evaluated, the best and the front.

    Raises:
        ConfigError: If an argument is not allowed, the budget is too small for the algorithm, the metric is missing or
            not finite, or the journal is one of another search.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_channels import ChannelMutator, SearchSpace
        >>> mutator = ChannelMutator()
        >>> mutator.prepare_from_supernet(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(1, 4))
        >>> space = SearchSpace(mutator, limits={"macs": 0.5})
        >>> result = search(space, lambda choices: {"width": sum(choices.values())}, metric="width", budget=10)
        >>> result.best.choices, len(result.candidates)
        ({'0_(0, 8)_8': 4}, 4)
    """
    task = SearchTask(space, metric, mode, _names(objectives), budget, seed)
    _check(task, evaluate)
    check_progress(on_progress)
    built, executor = build_search(algorithm), SerialExecutor() if executor is None else executor
    built.start(task)
    shown = None if on_progress is True and not _leads(executor) else on_progress
    with (
        _put_back(space.mutator),
        _journal(journal, task, built, executor) as (opened, known),
        told(shown, "searching", budget, "choice") as step,
    ):
        run = _Run(task, evaluate, executor, opened, known, step)
        run.go(built)
    return _result(task, built, list(run.found.values()))


class _Run:
    """One search that is going on.

    Args:
        task: What is searched for.
        evaluate: A choice → its metrics.
        executor: Evaluates the choices.
        journal: Where they are written down, if they are.
        known: The metrics of what needn't be evaluated.
        step: Called after each.

    Attributes:
        found: Everything that was evaluated, in order.
    """

    def __init__(
        self, task: SearchTask, evaluate: Evaluate, executor: Executor, journal: Journal | None, known: Known, step: Any
    ) -> None:
        self._task, self._evaluate, self._executor, self._journal, self._step = task, evaluate, executor, journal, step
        self._known = dict(known)
        self.found: dict[Point, Candidate] = {}

    def go(self, algorithm: SearchAlgorithm) -> None:
        """Search until the budget is spent, or nothing new is asked for."""
        space, generation, idle = self._task.space, 0, 0
        while len(self.found) < self._task.budget and idle < _IDLE:
            left = self._task.budget - len(self.found)
            asked = [space.point(choices) for choices in algorithm.ask(left)]
            if not asked:
                break
            for choices, metrics in getattr(algorithm, "known", list)():
                self._known.setdefault(space.point(choices), read_metrics(metrics, self._task.metric, choices))
            new = [point for point in dict.fromkeys(asked) if point not in self.found][:left]
            self._add(new, generation)
            algorithm.tell([self.found[point] for point in asked if point in self.found])
            generation, idle = generation + 1, 0 if new else idle + 1

    def _add(self, points: Sequence[Point], generation: int) -> None:
        unknown = [point for point in points if point not in self._known]
        at_once = getattr(self._executor, "at_once", None) or max(1, len(unknown))
        for start in range(0, len(unknown), at_once):
            self._run(unknown[start : start + at_once])
        for point in points:
            space = self._task.space
            self.found[point] = Candidate(space.choices(point), self._known[point], space.measure(point), generation)
            self._step()

    def _run(self, points: Sequence[Point]) -> None:
        """Evaluate choices, and write them down."""
        chosen = [self._task.space.choices(point) for point in points]
        returned = list(self._executor.map(self._evaluate, [dict(choices) for choices in chosen]))
        if len(returned) != len(points):
            raise ConfigError(f"the executor returned metrics of {len(returned)} choices, and was given {len(points)}")
        for point, choices, metrics in zip(points, chosen, returned, strict=True):
            self._known[point] = read_metrics(metrics, self._task.metric, choices)
            if self._journal is not None:
                self._journal.add(point, choices, self._known[point])


# --- before and after -------------------------------------------------------------------------------------------------


def _names(objectives: Sequence[str] | None) -> tuple[str, ...]:
    if objectives is None:
        return ()
    names = (objectives,) if isinstance(objectives, str) else tuple(objectives)
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"objectives must be names of resources, got {objectives!r}")
    return tuple(dict.fromkeys(names))


def _check(task: SearchTask, evaluate: object) -> None:
    if not isinstance(task.space, SearchSpace):
        raise ConfigError(f"space must be a SearchSpace, got {type(task.space).__name__}")
    if not callable(evaluate):
        raise ConfigError(f"evaluate must be a function, choices → metrics, got {type(evaluate).__name__}")
    metric: object = task.metric
    if not isinstance(metric, str) or not metric:
        raise ConfigError(f"metric must be the name of a metric, got {task.metric!r}")
    if task.mode not in MODES:
        raise ConfigError(f"mode must be 'max' or 'min', got {task.mode!r}{did_you_mean(task.mode, MODES)}")
    known = task.space.resources.names
    for name in task.objectives:
        if name not in known:
            hint = did_you_mean(name, known) or "."
            raise ConfigError(f"objectives name an unknown resource {name!r}{hint} Known: {', '.join(known)}")
    if not is_int(task.budget) or task.budget < 1:
        raise ConfigError(f"budget must be a whole number of at least 1, got {task.budget!r}")
    if not is_int(task.seed):
        raise ConfigError(f"seed must be a whole number, got {task.seed!r}")


@contextmanager
def _put_back(mutator: ChannelMutator) -> Iterator[None]:
    held = Held(mutator)
    try:
        yield
    finally:
        held.put_back()


def _leads(executor: Executor) -> bool:
    return bool(getattr(executor, "leads", True))


@contextmanager
def _journal(
    path: str | os.PathLike[str] | None, task: SearchTask, algorithm: SearchAlgorithm, executor: Executor
) -> Iterator[tuple[Journal | None, Known]]:
    """The journal, in the process that has it, and what is in it, in all processes."""
    agree, share = getattr(executor, "agree", None), getattr(executor, "share", None)
    header = {} if path is None and agree is None else _header(task, algorithm)
    if agree is not None:
        agree({**header, "budget": task.budget})
    with ExitStack() as stack:
        journal: Journal | None = None
        failure: ConfigError | None = None
        try:
            if path is not None and _leads(executor):
                journal = stack.enter_context(Journal(path, task.space, header))
        except ConfigError as error:  # the other processes wait for what is in it
            failure = error
        known = {} if journal is None else journal.known
        if share is not None:
            known, message = share((known, failure and str(failure)))
            failure = failure or (message and ConfigError(message))
        if failure is not None:
            raise failure
        yield journal, known


def _header(task: SearchTask, algorithm: SearchAlgorithm) -> dict[str, Any]:
    """What a search is."""
    return {
        "space": task.space.hash,
        "metric": task.metric,
        "mode": task.mode,
        "objectives": list(task.objectives),
        "algorithm": name_of(algorithm),
        "arguments": arguments_of(algorithm),
        "seed": task.seed,
        "weights": _weights_hash(task.space.mutator.model),
    }


def _weights_hash(model: nn.Module) -> str:
    """Changes with the parameters. Buffers don't count: evaluations recalibrate statistics."""
    found = hashlib.sha256()
    for name, parameter in model.named_parameters():
        local: Any = getattr(parameter, "to_local", lambda own=parameter: own)()
        found.update(name.encode())
        found.update(local.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _result(task: SearchTask, algorithm: SearchAlgorithm, candidates: list[Candidate]) -> SearchResult:
    limits = Limits(task.space.limits)
    inside = [at for at, candidate in enumerate(candidates) if limits.met(candidate.resources)]
    if not inside:
        raise ConfigError(
            f"none of the {len(candidates)} choices that {name_of(algorithm)} asked for is within the limits; give a "
            "larger budget, or take another algorithm"
        )
    names = task.objectives or tuple(task.space.limits)
    costs = [[-task.value(candidates[at]), *(candidates[at].resources[name] for name in names)] for at in inside]
    kept = on_front(torch.tensor(costs, dtype=torch.float64)).tolist()
    front = [at for at, is_kept in zip(inside, kept, strict=True) if is_kept]
    return SearchResult(
        candidates=candidates,
        metric=task.metric,
        mode=task.mode,
        objectives=task.objectives,
        algorithm=name_of(algorithm),
        arguments=arguments_of(algorithm),
        seed=task.seed,
        limits=dict(task.space.limits),
        supernet=supernet_hash(task.space.mutator),
        best_index=max(front, key=lambda at: (task.value(candidates[at]), -at)),
        front_indices=tuple(front),
    )
