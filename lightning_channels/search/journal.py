"""The journal of a search: what was evaluated so far, so that a search that was killed goes on where it stopped.

.. code-block:: text

    {"version": 1, "space": "5f70bf18…", "metric": "val_acc", "mode": "max", …}
    {"choices": {"conv1_(0, 64)_64": 32, …}, "metrics": {"val_acc": 0.91, …}}

Lines are only added, each at once and waited for until it is on the disk; what a crash left of the last one is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeAlias

from lightning_channels._parsing import parse_json
from lightning_channels._plain import to_plain
from lightning_channels.errors import ChannelsError, ConfigError
from lightning_channels.search.candidate import floats_by_name, numbers_by_name
from lightning_channels.search.space import Choices, Point, SearchSpace

__all__ = ["VERSION", "Journal", "Known"]

VERSION = 1
_MAX_BYTES = 1 << 30
_MAX_LINE = 4 << 20

Known: TypeAlias = dict[Point, dict[str, float]]
"""The metrics of what was evaluated."""


class Journal:
    """A journal that is open for writing.

    Args:
        path: The file; made if there is none.
        space: Whose choices are in it.
        header: What the search is, as plain data; the file must be of the same.

    Attributes:
        path: The file.
        known: The metrics of what was evaluated.

    Raises:
        ConfigError: If the file is no journal, one of another search, damaged, too large, or open in another process.
            It is as it was then.
    """

    def __init__(self, path: str | os.PathLike[str], space: SearchSpace, header: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._space = space
        self.known: Known = {}
        self._file = self._open()
        try:
            _lock(self._file, self.path)
            self._begin({"version": VERSION, **to_plain(header, "header")})
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> IO[bytes]:
        try:
            if self.path.exists() and not self.path.is_file():  # a device or a pipe has no end
                raise ConfigError(f"cannot open the journal {self.path}: it is no regular file")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return self.path.open("a+b")
        except OSError as error:
            raise ConfigError(f"cannot open the journal {self.path}: {error.strerror or error}") from error

    def _begin(self, header: dict[str, Any]) -> None:
        """Read what is there, drop what a crash left of the last line, and write the header where there is none."""
        self._file.seek(0)
        first, whole = _line(header), 0
        for number, line in enumerate(self._lines()):
            if not line.endswith(b"\n"):
                if number == 0 and not first.startswith(line):
                    raise self._foreign()
                break  # the process died while it was written
            self._read(number, line, header)
            whole += len(line)
        if self._file.seek(0, os.SEEK_END) > whole:
            self._file.truncate(whole)
        if whole == 0:
            self._write(first)

    def _lines(self) -> Iterator[bytes]:
        if os.fstat(self._file.fileno()).st_size > _MAX_BYTES:
            raise ConfigError(self._strange(f"it is larger than {_MAX_BYTES >> 20} MiB"))
        while line := self._file.readline(_MAX_LINE + 1):
            if len(line) > _MAX_LINE:
                raise ConfigError(self._strange("it has a line that is longer than any of a journal"))
            yield line

    def _read(self, number: int, line: bytes, header: Mapping[str, Any]) -> None:
        at = f"line {number + 1}"
        try:
            data = to_plain(parse_json(line.decode("utf-8")), at)
        except (ValueError, RecursionError) as error:  # a ConfigError is a ValueError
            if number == 0:
                raise self._foreign() from error
            raise ConfigError(self._strange(f"{at} is damaged: {error}")) from error
        if number == 0:
            self._compare(data, header)
            return
        if not isinstance(data, dict):
            raise ConfigError(self._strange(f"{at} must be a dict, got {data!r:.100}"))
        if data.keys() != {"choices", "metrics"}:
            raise ConfigError(self._strange(f"{at} must have the keys choices and metrics, got {', '.join(data)}"))
        try:
            point = self._space.point(numbers_by_name(data["choices"], "choices"))
            metrics = floats_by_name(data["metrics"], "metrics")
        except ChannelsError as error:
            raise ConfigError(self._strange(f"{at}: {error}")) from error
        if header["metric"] not in metrics:
            raise ConfigError(self._strange(f"{at} has no metric {header['metric']!r}"))
        self.known[point] = metrics

    def _compare(self, found: object, header: Mapping[str, Any]) -> None:
        if not isinstance(found, dict) or found.keys() != header.keys():
            raise self._foreign()
        for key, value in header.items():
            if found[key] != value:
                raise ConfigError(
                    f"the journal {self.path} is of another search: its {key} is {found[key]!r:.100}, and this one's "
                    f"is {value!r:.100}. Go on with the arguments and the model that it was begun with, or take "
                    "another file"
                )

    def _foreign(self) -> ConfigError:
        return ConfigError(
            f"{self.path} can't be used as a journal: its first line is none of a journal's. Take another file"
        )

    def _strange(self, what: str) -> str:
        return f"{self.path} can't be used as a journal: {what}. Take another file, or remove it to begin anew"

    def add(self, point: Point, choices: Choices, metrics: Mapping[str, float]) -> None:
        """Write down what was evaluated; it is on the disk when this returns."""
        self._write(_line({"choices": choices, "metrics": dict(metrics)}))
        self.known[point] = dict(metrics)

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def _line(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, separators=(",", ":")) + "\n").encode()


def _lock(file: IO[bytes], path: Path) -> None:
    """Keep other processes from writing to the same journal, where the system can do that."""
    try:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass
    except BlockingIOError:
        raise ConfigError(f"the journal {path} is being written by another search; take another file") from None
    except OSError:  # a file system without locks
        pass
