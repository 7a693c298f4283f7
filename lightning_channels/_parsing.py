"""Text to data where the text may be anyone's: what parsers let pass silently, or in exponential time, is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

__all__ = ["parse_json", "parse_yaml"]

_MAX_DIGITS = 1000

# several times faster, where PyYAML was built with libyaml
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_json(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: If it isn't JSON, if a key is there twice, or if it holds NaN or Infinity, which JSON doesn't know.
        RecursionError: If it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} is there twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON's")


def parse_yaml(text: str, max_depth: int, max_values: int) -> Any:
    """Parse YAML with its standard types alone.

    Args:
        text: One document.
        max_depth: Deepest nesting.
        max_values: Most values, where what an alias stands for counts each time.

    Raises:
        yaml.YAMLError: If it isn't YAML.
        ValueError: If it has a tag, if a key is there twice, if something contains itself, or if it is deeper or larger
            than that.
    """
    _Check(max_depth, max_values).read(text)
    return yaml.load(text, Loader=_Loader)


class _Node:
    """A collection that is being read: how many values it holds, and the keys of a mapping."""

    def __init__(self, anchor: str | None, is_mapping: bool) -> None:
        self.anchor = anchor
        self.size = 1
        self.keys: set[str] | None = set() if is_mapping else None
        self.awaits_key = is_mapping


class _Check:
    """Goes through a document's events: aliases are expanded, and duplicate keys merged, only after that."""

    def __init__(self, max_depth: int, max_values: int) -> None:
        self._max_depth = max_depth
        self._max_values = max_values
        self._open: list[_Node] = []
        self._anchors: dict[str, tuple[int, str | None]] = {}

    def read(self, text: str) -> None:
        """Check a document."""
        events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
        for event in events:
            if getattr(event, "tag", None) is not None:
                raise ValueError(f"it has the tag {event.tag!r}, and a file of data needs none")
            if isinstance(event, yaml.ScalarEvent):
                if len(event.value) > _MAX_DIGITS and event.implicit[0] and event.value[0] in "+-.0123456789":
                    raise ValueError(f"it holds a number of more than {_MAX_DIGITS} digits")
                self._add(event.anchor, 1, event.value)
            elif isinstance(event, yaml.CollectionStartEvent):
                if len(self._open) > self._max_depth:
                    raise ValueError(f"it is nested more than {self._max_depth} levels deep")
                self._open.append(_Node(event.anchor, isinstance(event, yaml.MappingStartEvent)))
            elif isinstance(event, yaml.CollectionEndEvent):
                node = self._open.pop()
                self._add(node.anchor, node.size, None)
            elif isinstance(event, yaml.AliasEvent):
                if any(node.anchor == event.anchor for node in self._open):
                    raise ValueError(f"&{event.anchor} contains itself")
                self._add(None, *self._anchors.get(str(event.anchor), (1, None)))  # the loader reports an unknown one

    def _add(self, anchor: str | None, size: int, key: str | None) -> None:
        """Count a value of the innermost open collection, or note its key."""
        if anchor is not None:
            self._anchors[anchor] = size, key
        if not self._open:
            return
        node = self._open[-1]
        node.size += size
        if node.size > self._max_values:
            raise ValueError(f"it holds more than {self._max_values:,} values, counting what its aliases stand for")
        if node.keys is None:
            return
        if node.awaits_key and key is not None:
            if key in node.keys:
                raise ValueError(f"the key {key!r} is there twice")
            node.keys.add(key)
        node.awaits_key = not node.awaits_key
