"""Runs of a Hydra app: their folders, configs and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lightning_channels.cli._compose import is_config_name
from lightning_channels.errors import ConfigError

__all__ = ["Source", "config_of", "find_source"]

_CONFIG = Path(".hydra", "config.yaml")
_ENDING = ".ckpt"


class Source(NamedTuple):
    """Where a model comes from.

    Attributes:
        config: Name of a config, path of a YAML file, or import path; None for that of a run.
        run: A run's folder.
        checkpoint: Its weights and units.
    """

    config: str | None
    run: Path | None
    checkpoint: Path | None


def find_source(config: str | None, checkpoint: str | None) -> Source:
    """Find the files that a command line names.

    Args:
        config: CONFIG: also a run's folder, or a checkpoint in one.
        checkpoint: A checkpoint, or a folder of them.

    Raises:
        ConfigError: If there is no such file or folder, or if a checkpoint needs a config.
    """
    if config is not None and config.endswith(_ENDING):
        if checkpoint is not None:
            raise ConfigError(f"CONFIG is a checkpoint, {config}, and --checkpoint another; give one of the two")
        config, checkpoint = None, config
    found = None if checkpoint is None else _checkpoint_at(Path(checkpoint))
    if config is None:
        assert found is not None, "parse() asks for one of the two"
        return Source(None, _run_around(found), found)
    folder = Path(config)
    if (folder / _CONFIG).is_file():
        return Source(None, folder, found or _newest(folder))
    if folder.is_dir() and not is_config_name(config):
        raise ConfigError(f"{config} is no run's folder: it has no {_CONFIG}{_runs_in(folder)}")
    return Source(config, None, found)


def config_of(run: Path) -> Path:
    """The config that Hydra wrote in a run's folder."""
    return run / _CONFIG


def _checkpoint_at(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise ConfigError(f"there is no checkpoint {path}")
    found = _newest(path)
    if found is None:
        raise ConfigError(f"there is no checkpoint in {path}")
    return found


def _newest(folder: Path) -> Path | None:
    """The newest checkpoint of a run: in its folder, or in the one that Lightning makes in it."""
    from lightning_channels.callbacks import newest_checkpoint  # imports Lightning, which takes its time

    for place in (folder, folder / "checkpoints"):
        newest = newest_checkpoint(place)
        if newest is not None:
            return Path(newest)
        files = sorted(place.glob(f"*{_ENDING}"))  # of weights alone
        if len(files) > 1:
            names = ", ".join(file.name for file in files[:8])
            raise ConfigError(f"no checkpoint in {place} says how old it is; choose with --checkpoint: {names}")
        if files:
            return files[0]
    return None


def _run_around(checkpoint: Path) -> Path:
    folders = list(checkpoint.resolve().parents)
    for folder in folders:
        if (folder / _CONFIG).is_file():
            return folder
    raise ConfigError(
        f"{checkpoint} lies in no run's folder: there is no {_CONFIG} beside or above it. Give its config, "
        f"and --checkpoint {checkpoint}"
    )


def _runs_in(folder: Path) -> str:
    runs = sorted(path.parent.parent.relative_to(folder) for path in folder.glob(f"*/{_CONFIG}"))
    return f". It holds runs: {', '.join(map(str, runs[:8]))}" if runs else ""
