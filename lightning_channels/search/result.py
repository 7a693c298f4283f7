"""What a search found, in memory and as a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_channels._files import replacing
from lightning_channels._plain import is_int, is_number, read_file, to_plain
from lightning_channels.errors import ConfigError, StructureError, check_complete, check_keys
from lightning_channels.mutators import ChannelMutator, supernet_hash
from lightning_channels.search.candidate import Candidate, floats_by_name

__all__ = ["MODES", "VERSION", "SearchResult"]

VERSION = 1
MODES = ("max", "min")
_MAX_BYTES = 256 << 20
_MAX_VALUES = 20_000_000


@dataclass(frozen=True)
class SearchResult:
    """Everything that was evaluated, and the best of it.

    Attributes:
        candidates: All evaluated choices, in order. A greedy search comes from above, so that not all of them are
            within the limits.
        metric: What they were compared by.
        mode: Whether more of it is better, ``"max"``, or less, ``"min"``.
        objectives: The resources that were to be low as well.
        algorithm: The algorithm's name.
        arguments: Its arguments, as far as they are known.
        seed: The seed.
        limits: Resource → most that was allowed.
        supernet: What :func:`lightning_channels.supernet_hash` says of the supernet.
        best_index: Which candidate is the best.
        front_indices: Which candidates are on the front.
    """

    candidates: list[Candidate]
    metric: str
    mode: str
    objectives: tuple[str, ...]
    algorithm: str
    arguments: dict[str, Any]
    seed: int
    limits: dict[str, float]
    supernet: str
    best_index: int
    front_indices: tuple[int, ...]

    @property
    def best(self) -> Candidate:
        """The candidate with the best metric within the limits; it is on the front."""
        return self.candidates[self.best_index]

    @property
    def front(self) -> list[Candidate]:
        """The candidates within the limits that no other is better than in everything.

        That is in the metric and the objectives, or where there are none, the limited resources.
        """
        return [self.candidates[at] for at in self.front_indices]

    @property
    def path(self) -> list[Candidate]:
        """The best of each generation, in order: of a greedy search the choices that it went on from."""
        sign = 1 if self.mode == "max" else -1
        best: dict[int, Candidate] = {}
        for candidate in self.candidates:
            known = best.get(candidate.generation)
            if known is None or sign * candidate.metrics[self.metric] > sign * known.metrics[self.metric]:
                best[candidate.generation] = candidate
        return [best[generation] for generation in sorted(best)]

    # --- files -------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data, which JSON can hold."""
        return {
            "version": VERSION,
            "metric": self.metric,
            "mode": self.mode,
            "objectives": list(self.objectives),
            "algorithm": self.algorithm,
            "arguments": dict(self.arguments),
            "seed": self.seed,
            "limits": dict(self.limits),
            "supernet": self.supernet,
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "best": self.best_index,
            "front": list(self.front_indices),
        }

    @classmethod
    def from_dict(cls, data: object, what: str = "a search result") -> SearchResult:
        """Read what :meth:`to_dict` returned.

        Args:
            data: Plain data, from anywhere.
            what: What it is called in messages.

        Raises:
            ConfigError: If it isn't that.
        """
        plain = to_plain(data, what)
        keys = ("version", *_READ, "candidates", "best", "front")
        check_keys(plain, keys, what)
        check_complete(plain, keys, what, advice="take it as it was written")
        if plain["version"] != VERSION:
            raise ConfigError(f"{what} has version {plain['version']!r:.100}; this release reads version {VERSION}")
        for key, (kind, fits) in _READ.items():
            if not fits(plain[key]):
                raise ConfigError(f"{what}'s {key} must be {kind}, got {plain[key]!r:.100}")
        limits = floats_by_name(plain["limits"], f"{what}'s limits")
        candidates = _candidates(plain, what)
        front: list[Any] = plain["front"] if isinstance(plain["front"], list) else [None]
        for index in (plain["best"], *front):
            if not is_int(index) or not 0 <= index < len(candidates):
                raise ConfigError(
                    f"{what}'s best and front must be numbers of candidates, from 0 to {len(candidates) - 1}, "
                    f"got {index!r:.100}"
                )
        fields = {key: plain[key] for key in _READ if key not in ("limits", "objectives")}
        objectives = tuple(plain["objectives"])
        return cls(
            candidates,
            objectives=objectives,
            limits=limits,
            best_index=plain["best"],
            front_indices=tuple(front),
            **fields,
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result as JSON, a candidate a line; a crash leaves the old file or the new one, never a half.

        Returns:
            The path written.

        Raises:
            ConfigError: If the path doesn't end in ``.json``.
        """
        path = Path(path)
        if path.suffix != ".json":
            raise ConfigError(f"a search result is written as JSON; {path} must end in .json")
        with replacing(path) as temporary:
            temporary.write_text(_text(self.to_dict()), encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str], mutator: ChannelMutator | None = None) -> SearchResult:
        """Read a file that :meth:`save` wrote, as data: nothing in it is imported or run.

        Args:
            path: The file.
            mutator: The mutator whose search it must have been; its choices are checked then.

        Raises:
            ConfigError: If it is no such file.
            StructureError: If it is of another supernet than the mutator's.
            ChoiceError: If a choice isn't one of the mutator's.
        """
        result = cls.from_dict(read_file(path, max_bytes=_MAX_BYTES, max_values=_MAX_VALUES), str(path))
        if mutator is not None:
            result.check(mutator)
        return result

    def check(self, mutator: ChannelMutator) -> None:
        """Refuse a result of another supernet.

        Raises:
            StructureError: If the hash of the mutator's structure is another one.
            ChoiceError: If a choice isn't one of the mutator's.
        """
        here = supernet_hash(mutator)
        if here != self.supernet:
            raise StructureError(
                f"the search result is of the supernet {self.supernet[:12]:.12}…, and this is {here[:12]}…. Take the "
                "model, units and example inputs that were searched"
            )
        for candidate in self.candidates:
            mutator.check_choices(candidate.choices)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_name, value))


def _are_limits(value: object) -> bool:
    return isinstance(value, dict) and all(is_number(amount) and amount > 0 for amount in value.values())


_READ: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "metric": ("a name", _is_name),
    "mode": ("'max' or 'min'", lambda value: value in MODES),
    "objectives": ("a list of names", _are_names),
    "algorithm": ("a name", _is_name),
    "arguments": ("a dict", lambda value: isinstance(value, dict)),
    "seed": ("a whole number", is_int),
    "limits": ("a dict, resource → a number above 0", _are_limits),
    "supernet": ("a hash", _is_name),
}
"""Key → what it must be."""


def _candidates(plain: Mapping[str, Any], what: str) -> list[Candidate]:
    given = plain["candidates"]
    if not isinstance(given, list) or not given:
        raise ConfigError(f"{what}'s candidates must be a list of at least one, got {given!r:.100}")
    found = [Candidate.from_dict(own, f"{what}'s candidate {at}") for at, own in enumerate(given)]
    for at, candidate in enumerate(found):
        for kind, names, there in (
            ("metric", (plain["metric"],), candidate.metrics),
            ("resource", (*plain["objectives"], *plain["limits"]), candidate.resources),
        ):
            missing = [name for name in names if name not in there]
            if missing:
                raise ConfigError(f"{what}'s candidate {at} has no {kind} {missing[0]!r:.100}")
    return found


def _text(data: Mapping[str, Any]) -> str:
    """JSON with a candidate on each line, for those who look into the file."""
    rows = ",\n".join(f"    {json.dumps(candidate)}" for candidate in data["candidates"])
    lines = [
        f"  {json.dumps(key)}: " + (f"[\n{rows}\n  ]" if key == "candidates" else json.dumps(value))
        for key, value in data.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"
