"""What takes part in a search: the task, algorithms, and what evaluates their candidates."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from lightning_channels.search.candidate import Candidate
from lightning_channels.search.space import Choices, SearchSpace

__all__ = ["Evaluate", "Executor", "SearchAlgorithm", "SearchTask", "SerialExecutor"]

Evaluate: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""A choice → its metrics."""


@dataclass(frozen=True)
class SearchTask:
    """What an algorithm is to do.

    Attributes:
        space: The choices and their limits.
        metric: The name of the metric.
        mode: ``"max"`` or ``"min"``: which values of it are better.
        objectives: Resources that are to be low as well; the search is for a Pareto front then.
        budget: How many choices are evaluated at most.
        seed: Where all randomness comes from.
    """

    space: SearchSpace
    metric: str
    mode: str = "max"
    objectives: tuple[str, ...] = ()
    budget: int = 100
    seed: int = 0

    def value(self, candidate: Candidate) -> float:
        """What a candidate scored, larger for better ones."""
        scored = candidate.metrics[self.metric]
        return scored if self.mode == "max" else -scored

    def costs(self, candidate: Candidate) -> list[float]:
        """What is to be low: minus :meth:`value`, and the objectives."""
        return [-self.value(candidate), *(candidate.resources[name] for name in self.objectives)]

    def rng(self) -> random.Random:
        """A generator that starts the same for each run of this seed."""
        return random.Random(f"search/{self.seed}")


@runtime_checkable
class SearchAlgorithm(Protocol):
    """What a search algorithm does; any class with these methods is one.

    It must be a pure function of the task and of what it was told: a search that was killed is begun again, and asks
    for the same choices in the same order.

    Besides these methods it may have ``known()``, which is called after each :meth:`ask` and returns pairs of a choice
    and its metrics, for choices that needn't be evaluated.

    Example:
        >>> from lightning_channels.registry import SEARCHES
        >>> @SEARCHES.register("uniform_widths")
        ... class UniformWidths:
        ...     def start(self, task):
        ...         space = task.space
        ...         self.left = [space.choices([round(last * share / 8) for last in space.last]) for share in range(9)]
        ...
        ...     def ask(self, n):
        ...         asked, self.left = self.left[:n], self.left[n:]
        ...         return asked
        ...
        ...     def tell(self, candidates):
        ...         pass
    """

    def start(self, task: SearchTask) -> None:
        """Begin anew, whatever was before.

        Args:
            task: What to do.

        Raises:
            ConfigError: If the algorithm can't do that; nothing has been evaluated then.
        """
        ...

    def ask(self, n: int) -> Sequence[Choices]:
        """What to evaluate next.

        Args:
            n: How many choices are left of the budget.

        Returns:
            At most ``n`` choices, which may be evaluated at the same time; none to end the search.
        """
        ...

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """What was asked for, evaluated, in the same order; a choice that was known already isn't evaluated again."""
        ...


class Executor(Protocol):
    """Evaluates choices.

    Besides :meth:`map` it may have ``at_once`` (how many choices it takes at a time: what was evaluated is written to
    the journal after each such part; all that were asked for by default); and one of several processes ``leads``
    (whether this process reads and writes the journal, true by default), ``share(value)``, which returns the value of
    the process that leads, and ``agree(facts)``, which raises in all processes if these plain data differ.
    """

    def map(self, evaluate: Evaluate, choices: list[Choices]) -> list[Mapping[str, Any]]:
        """The metrics of each choice, in the same order.

        Args:
            evaluate: A choice → its metrics.
            choices: At least one.
        """
        ...


class SerialExecutor:
    """Evaluates one choice after the other."""

    at_once = 1
    leads = True

    def map(self, evaluate: Evaluate, choices: list[Choices]) -> list[Mapping[str, Any]]:
        """The metrics of each choice."""
        return [evaluate(choice) for choice in choices]
