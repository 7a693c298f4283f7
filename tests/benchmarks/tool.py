"""A benchmark's command line, with its files in a folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["Command"]


class Command:
    """Calls a benchmark's ``main``.

    Args:
        main: The benchmark's.
        folder: Where its files are.
    """

    def __init__(self, main: Callable[[Sequence[str]], int], folder: Path) -> None:
        self._main = main
        self.json, self.results = folder / "raw" / "rows.jsonl", folder / "RESULTS.md"
        self.picture = folder / "picture.json"

    def __call__(self, *arguments: str) -> int:
        files = {"--json": self.json, "--results": self.results, "--picture": self.picture}
        return self._main([*arguments, *(str(part) for item in files.items() for part in item)])
