"""Validation at several widths, each with the user's own metrics under a name of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from lightning.pytorch import LightningModule, Trainer

from lightning_channels._rng import preserve_rng
from lightning_channels.callbacks._loop_run import LoopRun
from lightning_channels.errors import ConfigError, did_you_mean
from lightning_channels.mutators import ChannelMutator
from lightning_channels.samplers import Choices, choices_at, read_choices

__all__ = ["SeveralWidths", "Widths", "choices_of", "read_widths"]

Widths: TypeAlias = dict[str, "str | float | Choices"]
"""What is added to the metrics' names → what is validated."""

_NAMES = ("max", "min")

_END = "_on_evaluation_end"
"""What a loop calls at the end of a run."""


def read_widths(given: Any) -> Widths:
    """``["max", "min", 0.5, "small.yaml"]``, or a dict of names for them; each is also a dict of choices there.

    Raises:
        ConfigError: If something else is in it, or two have one name.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {_checked_name(name): _read(width) for name, width in given.items()}
    if isinstance(given, (str, os.PathLike)) or not isinstance(given, Sequence):
        raise ConfigError(
            f"validate must be a list of widths ('max', 'min', parts of the channels, paths of choices) or a dict of "
            f"name → width, got {given!r}"
        )
    found: Widths = {}
    for width in given:
        name = _checked_name(Path(width).name.partition(".")[0] if _is_path(width) else str(width))
        if isinstance(width, Mapping):
            raise ConfigError("validate: choices need a name; pass a dict, name → width")
        if name in found:
            raise ConfigError(f"validate: two widths are named {name!r}; pass a dict, name → width")
        found[name] = _read(width)
    return found


def _checked_name(name: Any) -> str:
    if type(name) is not str or not name:
        raise ConfigError(f"validate: a width's name must be a string that is not empty, got {name!r}")
    return name


def _is_path(width: Any) -> bool:
    return isinstance(width, os.PathLike) or str(width).endswith((".yaml", ".yml", ".json"))


def _read(width: Any) -> str | float | Choices:
    if isinstance(width, str) and width in _NAMES:
        return width
    if isinstance(width, Mapping) or _is_path(width):
        return read_choices(width)
    if not isinstance(width, bool) and isinstance(width, (int, float)) and 0 < width <= 1:
        return float(width)
    hint = did_you_mean(str(width), _NAMES)
    raise ConfigError(f"validate: a width is 'max', 'min', a number in (0, 1] or choices, got {width!r}{hint}")


def choices_of(mutator: ChannelMutator, width: str | float | Choices) -> Choices:
    """The choices of all units at a width."""
    if isinstance(width, Mapping):
        return {**mutator.sample_choices("max"), **width}
    return mutator.sample_choices(width) if isinstance(width, str) else choices_at(mutator, width)


class SeveralWidths(LoopRun):
    """Stands in for a validation loop's ``run``: one run for each width, and the ordinary one last.

    The ordinary one is what other callbacks see the end of, such as checkpoints: by then all metrics are there. A width
    with the choices of the ordinary one needs no run of its own: its metrics get both names.

    Args:
        loop: Lightning's evaluation loop.
        trainer: Its trainer.
        enter: Says which choices the next run validates.
        leave: Puts what was active before back.
        widths: Name → choices, and the ordinary choices; looked up for each validation.
    """

    def __init__(
        self,
        loop: Any,
        trainer: Trainer,
        enter: Callable[[Choices], None],
        leave: Callable[[], None],
        widths: Callable[[], tuple[dict[str, Choices], Choices]],
    ) -> None:
        super().__init__(loop)
        self._trainer = trainer
        self._enter = enter
        self._leave = leave
        self._widths = widths

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Validate at all widths."""
        trainer = self._trainer
        # inside another callback's run for one of its widths there is only the ordinary one
        if trainer.sanity_checking or _END in self._loop.__dict__:
            return self._run(*args, **kwargs)
        widths, ordinary = self._widths()
        shared = [name for name, choices in widths.items() if choices == ordinary]
        found: list[dict[str, Any]] = []
        for name, choices in widths.items():
            if name not in shared:
                self._enter(choices)
                try:
                    # making an iterator draws a number, and training is to go on as if that hadn't been
                    with preserve_rng(), _logged_as(trainer, [name], keep=False), _without_end(self._loop, trainer):
                        found = _merged(found, self._run(*args, **kwargs))
                finally:
                    self._leave()
        with _logged_as(trainer, shared, keep=True):
            return _merged(found, self._run(*args, **kwargs))


def _merged(found: list[dict[str, Any]], more: Any) -> list[dict[str, Any]]:
    """What runs return: a dict of metrics for each data loader."""
    more = list(more or [])
    return [{**a, **b} for a, b in zip(found, more, strict=True)] if found and more else more or found


@contextmanager
def _logged_as(trainer: Trainer, names: list[str], keep: bool) -> Iterator[None]:
    """Log everything as ``metric/name``, for each of the names; and as ``metric`` itself if it is to be kept."""
    if keep and not names:
        yield
        return
    module: LightningModule = trainer.lightning_module
    log = module.log

    def renamed(name: str, *args: Any, **kwargs: Any) -> None:
        for alias in [*([name] if keep else []), *(f"{name}/{width}" for width in names)]:
            log(alias, *args, **kwargs)

    loggers: list[Any] = [module, *trainer.callbacks]  # type: ignore[attr-defined]
    with ExitStack() as stack:
        for logger in loggers:
            before = logger.__dict__.get("log")
            object.__setattr__(logger, "log", renamed)
            stack.callback(_put_back, logger, before)
        yield


def _put_back(logger: Any, before: Any) -> None:
    if before is None:
        logger.__dict__.pop("log", None)
    else:
        logger.__dict__["log"] = before


@contextmanager
def _without_end(loop: Any, trainer: Trainer) -> Iterator[None]:
    """Leave the hooks at the end of validation to the last run; others are called in each."""
    setattr(loop, _END, lambda *args, **kwargs: trainer._logger_connector.reset_results())
    try:
        yield
    finally:
        delattr(loop, _END)
