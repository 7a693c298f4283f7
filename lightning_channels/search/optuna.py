"""Search with Optuna: its samplers, and its storages for many machines."""

from __future__ import annotations

import inspect
import random
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field
from typing import Any

from lightning_channels._plain import is_int
from lightning_channels.errors import ConfigError, check_keys, did_you_mean
from lightning_channels.registry import SEARCHES, is_typed
from lightning_channels.search.candidate import Candidate, floats_by_name
from lightning_channels.search.protocol import SearchTask
from lightning_channels.search.space import Choices, Point, SearchSpace

__all__ = ["OptunaSearch"]

_SAMPLERS = {
    "tpe": "TPESampler",
    "nsga2": "NSGAIISampler",
    "nsga3": "NSGAIIISampler",
    "gp": "GPSampler",
    "qmc": "QMCSampler",
    "random": "RandomSampler",
}
_FACTS = "lightning_channels"
"""The study's attribute that says which search it is of."""

_RETRIES = 5
_PAUSE = 0.2
"""Seconds before each of them."""


@SEARCHES.register("optuna")
@dataclass
class OptunaSearch:
    """What Optuna's samplers suggest; needs Optuna (``lightning-channels[optuna]``).

    Each unit's width is an integer parameter, counted from the narrowest. A suggestion over a limit is not evaluated:
    its trial is told to the sampler as one that breaks a constraint, and the nearest choice within the limits takes its
    place. With objectives the study has several directions.

    Without a storage the search is a function of the seed, as all are. With one, several searches with the same
    arguments, on as many machines, work on one study: each knows what the others have evaluated, and the budget is that
    of the study. What another one is evaluating just now isn't known yet, so that a choice may be evaluated twice.

    Args:
        sampler: ``"tpe"`` (the default with a single metric), ``"nsga2"`` (the default with objectives), ``"nsga3"``,
            ``"gp"``, ``"qmc"``, ``"random"``, or a dict with one of these as ``type`` and its arguments.
        storage: Where Optuna keeps the study: a URL (``sqlite:///search.db``), or a file that ends in ``.log``, for its
            own format, which is quicker; in memory by default.
        study: The study's name; needed with a storage.
        batch: How many choices are asked for before results are told; processes evaluate these at the same time.

    Raises:
        ConfigError: If Optuna isn't installed, or an argument is not allowed.
    """

    sampler: str | Mapping[str, Any] | None = None
    storage: InitVar[str | None] = None  # may hold a password, and is no matter of what is found
    study: str | None = None
    batch: int = 4
    _optuna: Any = field(init=False, repr=False)
    _storage: str | None = field(init=False, repr=False)
    _task: SearchTask = field(init=False, repr=False)
    _space: SearchSpace = field(init=False, repr=False)
    _rng: random.Random = field(init=False, repr=False)
    _study: Any = field(init=False, repr=False)
    _names: list[str] = field(init=False, repr=False)
    _distributions: dict[str, Any] = field(init=False, repr=False)
    _pending: list[tuple[Any, Point]] = field(init=False, repr=False)
    _seen: set[int] = field(init=False, repr=False)
    _known: list[tuple[Choices, dict[str, float]]] = field(init=False, repr=False)

    def __post_init__(self, storage: str | None) -> None:
        self._optuna = _import()
        self._storage = storage
        for name, value in (("storage", storage), ("study", self.study)):
            if value is not None and (type(value) is not str or not value):
                raise ConfigError(f"optuna's {name} must be a string, got {value!r}")
        if storage is not None and self.study is None:
            raise ConfigError("optuna's storage needs the name of a study: {'type': 'optuna', …, 'study': 'resnet'}")
        if not is_int(self.batch) or self.batch < 1:
            raise ConfigError(f"optuna's batch must be a whole number of at least 1, got {self.batch!r}")
        if self.sampler is not None:
            self._sampler(self.sampler, 0)

    # --- the protocol ------------------------------------------------------------------------------------------------

    def start(self, task: SearchTask) -> None:
        """Begin anew, or go on with the study that is in the storage.

        Raises:
            ConfigError: If the study can't be opened, or is of another search.
        """
        self._task, self._space, self._rng = task, task.space, task.rng()
        self._names = _parameters(task.space)
        self._distributions = {
            name: self._optuna.distributions.IntDistribution(0, last)
            for name, last in zip(self._names, task.space.last, strict=True)
        }
        self._pending, self._seen, self._known = [], set(), []
        default = "nsga2" if task.objectives else "tpe"
        # with one seed all searches of a study would begin with the same choices
        seed = task.seed if self._storage is None else None
        with _quiet(self._optuna):
            self._study = self._create(self._sampler(self.sampler or default, seed))

    def ask(self, n: int) -> list[Choices]:
        """What other searches of the study have evaluated meanwhile, or else what the sampler suggests.

        Raises:
            ConfigError: If a trial of theirs isn't of this space.
        """
        elsewhere = self._finished_elsewhere(n)
        if elsewhere:
            return elsewhere
        with _quiet(self._optuna):
            asked = [self._suggestion() for _ in range(min(n, self.batch))]
        self._pending += asked
        return [self._space.choices(point) for _, point in asked]

    def known(self) -> list[tuple[Choices, dict[str, float]]]:
        """Choices that were evaluated elsewhere, with their metrics."""
        return self._known

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """Give the results to the sampler."""
        found = {self._space.point(candidate.choices): candidate for candidate in candidates}
        with _quiet(self._optuna):
            for trial, point in self._pending:
                if point in found:
                    self._finish(trial, found[point])
        self._pending = [(trial, point) for trial, point in self._pending if point not in found]

    # --- trials ------------------------------------------------------------------------------------------------------

    def _suggestion(self) -> tuple[Any, Point]:
        """A trial within the limits."""
        fixed: dict[str, int] = {}
        while True:
            trial = self._trial(fixed)
            self._seen.add(trial.number)
            point = tuple(trial.params[name] for name in self._names)
            if bool(self._space.within([point])[0]):
                return trial, point
            self._constrain(trial, self._space.measure(point))
            self._study.tell(trial, state=self._optuna.trial.TrialState.PRUNED)
            fixed = dict(zip(self._names, self._space.narrowed(point, self._rng), strict=True))

    def _trial(self, fixed: dict[str, int]) -> Any:
        """The next trial, with these parameters if there are any.

        Not one that is enqueued: all searches of a study have one queue, and on SQLite two may take the same trial.
        """
        sampler = self._study.sampler
        try:
            if fixed:
                self._study.sampler = self._optuna.samplers.PartialFixedSampler(fixed, sampler)
            return self._study.ask(self._distributions)
        finally:
            self._study.sampler = sampler

    def _constrain(self, trial: Any, resources: Mapping[str, float]) -> None:
        for name, most in self._space.limits.items():
            trial.set_constraint(name, resources[name] / most - 1)

    def _finish(self, trial: Any, candidate: Candidate) -> None:
        self._constrain(trial, candidate.resources)
        for key in ("choices", "metrics"):
            trial.set_user_attr(key, getattr(candidate, key))
        values = [candidate.metrics[self._task.metric], *(candidate.resources[name] for name in self._task.objectives)]
        self._study.tell(trial, values)

    def _finished_elsewhere(self, n: int) -> list[Choices]:
        """At most ``n`` choices that other searches of the study have evaluated."""
        if self._storage is None:
            return []
        complete = self._optuna.trial.TrialState.COMPLETE
        trials = [
            trial
            for trial in self._study.get_trials(deepcopy=False, states=(complete,))
            if trial.number not in self._seen
        ][:n]
        self._seen |= {trial.number for trial in trials}
        self._known = [(self._choices_of(trial), _metrics_of(trial)) for trial in trials]
        return [choices for choices, _ in self._known]

    def _choices_of(self, trial: Any) -> Choices:
        places = [trial.params.get(name) for name in self._names]
        if not all(is_int(at) and 0 <= at <= last for at, last in zip(places, self._space.last, strict=True)):
            raise ConfigError(f"trial {trial.number} of the study {self.study!r} isn't of this search space")
        return self._space.choices(places)

    # --- the study ---------------------------------------------------------------------------------------------------

    def _create(self, sampler: Any) -> Any:
        task = self._task
        better = {"max": "maximize", "min": "minimize"}[task.mode]
        directions = [better, *("minimize" for _ in task.objectives)]
        study = self._opened(sampler=sampler, directions=directions)
        facts = {
            "space": self._space.hash,
            "metric": task.metric,
            "mode": task.mode,
            "objectives": list(task.objectives),
        }
        found = study.user_attrs.get(_FACTS, facts if not study.get_trials(deepcopy=False) else None)
        if found != facts:
            raise ConfigError(
                f"the study {self.study!r} is of another search: its space, metric, mode or objectives differ. Go on "
                "with the arguments that it was begun with, or take another name"
            )
        study.set_user_attr(_FACTS, facts)
        return study

    def _opened(self, **arguments: Any) -> Any:
        """The study; searches that begin at once, of which one makes the tables while another does, try again."""
        left = _RETRIES
        while True:
            try:
                return self._optuna.create_study(
                    storage=self._opened_storage(), study_name=self.study, load_if_exists=True, **arguments
                )
            except Exception as error:  # of the storage's driver, or of a URL that is none
                message = " ".join(str(error).split())[:300]
                if not left or isinstance(error, (ImportError, ValueError)):
                    raise ConfigError(
                        f"Optuna can't open the study {self.study!r}: {type(error).__name__}: {message}"
                    ) from error
            left -= 1
            time.sleep(_PAUSE)

    def _opened_storage(self) -> Any:
        if self._storage is None or not self._storage.endswith(".log"):
            return self._storage
        journal = self._optuna.storages.journal
        return self._optuna.storages.JournalStorage(journal.JournalFileBackend(self._storage))

    def _sampler(self, given: str | Mapping[str, Any], seed: int | None) -> Any:
        arguments = {"type": given} if isinstance(given, str) else given
        name: Any = arguments.get("type") if is_typed(arguments) else None
        if name not in _SAMPLERS:
            hint = did_you_mean(name, _SAMPLERS) or "."
            raise ConfigError(f"unknown Optuna sampler {given!r}{hint} Known: {', '.join(_SAMPLERS)}")
        cls = getattr(self._optuna.samplers, _SAMPLERS[name])
        arguments = {key: value for key, value in arguments.items() if key != "type"}
        check_keys(arguments, inspect.signature(cls).parameters, f"Optuna's {_SAMPLERS[name]}", noun="argument")
        with _quiet(self._optuna):
            return cls(**{"seed": seed, **arguments})


def _import() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "the search algorithm 'optuna' needs Optuna; pip install 'lightning-channels[optuna]'"
        ) from None
    return optuna


def _parameters(space: SearchSpace) -> list[str]:
    """A name for each ladder: that of its unit, or ``subnet`` where all units change together."""
    names = [name for name, numbers in space.candidates.items() if len(numbers) > 1]
    return names if len(names) == len(space.last) else [f"subnet{at or ''}" for at in range(len(space.last))]


def _metrics_of(trial: Any) -> dict[str, float]:
    return floats_by_name(trial.user_attrs.get("metrics"), f"the metrics of trial {trial.number}")


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Without what Optuna tells about each trial, and about its own plans."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
