"""Milliseconds among the resources of a search: read from a file of what was measured, or measured first."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from lightning_channels.cli._arguments import Parser, whole

if TYPE_CHECKING:
    from lightning_channels.cli._supernet import Supernet
    from lightning_channels.resources import LatencyModel, Resources

__all__ = ["LATENCY", "add_latency", "check_latency", "resources_of"]

LATENCY = "latency_ms"

_ENDINGS = (".yaml", ".yml", ".json")


def add_latency(parser: Parser) -> None:
    """How latency is known."""
    group = parser.add_argument_group(
        "latency", f"for a limit or an objective of {LATENCY}; it is measured at a few widths and estimated at others"
    )
    group.add_argument(
        "--latency",
        metavar="FILE",
        help="what was measured: read from this .json or .yaml file, or measured and written there if there is none",
    )
    group.add_argument("--latency-device", metavar="DEVICE", help="measure on cpu (the default), cuda or cuda:N")
    group.add_argument("--latency-batch", metavar="N", type=whole, help="measure with N examples at once (1)")


def check_latency(arguments: Namespace, limits: Mapping[str, Any]) -> None:
    """Refuse what can't be meant, before anything is built or measured.

    Args:
        arguments: Of the command line.
        limits: Of the search.

    Raises:
        ConfigError: If an option is of no use or not allowed, or if a journal would be gone on with after another
            measurement.
    """
    from lightning_channels.errors import ConfigError
    from lightning_channels.pruning import parse_target

    path = arguments.latency
    if LATENCY in limits:
        parse_target({LATENCY: limits[LATENCY]})
    if path is not None and not path.endswith(_ENDINGS):
        raise ConfigError(f"--latency is a .json, .yaml or .yml file, got {path}")
    if arguments.latency_batch == 0:
        raise ConfigError("--latency-batch must be a number of examples, at least 1, got 0")
    if path is not None:
        return
    if LATENCY not in (*limits, *arguments.objective):
        for name, given in _asked(arguments).items():
            raise ConfigError(
                f"{name} {given} is for a search by latency; add --limit {LATENCY}=VALUE, --objective {LATENCY} or "
                "--latency FILE, or leave it out"
            )
    elif arguments.journal is not None:
        raise ConfigError(
            "no two measurements of a latency are the same, and a search that goes on from its journal must go on with "
            "the same one; add --latency FILE, which keeps it"
        )


def resources_of(net: Supernet, arguments: Namespace, limits: Collection[str], executor: Any = None) -> Resources:
    """What choices cost, with their latency if that is asked for.

    Args:
        net: With data.
        arguments: Of the command line.
        limits: What is limited.
        executor: Of several processes: the first one reads or measures, and all go on with the same numbers.

    Raises:
        ChannelsError: In all processes, if the latency can't be read or measured.
    """
    from lightning_channels.errors import ChannelsError, ConfigError
    from lightning_channels.resources import LatencyModel

    found = net.resources()
    if arguments.latency is None and LATENCY not in (*limits, *arguments.objective):
        return found
    if executor is None:
        found.add_latency(_known_or_measured(net, arguments))
        return found
    measured: Mapping[str, Any] | None = None
    failure: ChannelsError | None = None
    if executor.leads:
        try:
            measured = _known_or_measured(net, arguments).to_dict()
        except ChannelsError as error:  # the other processes wait for it
            failure = error
    measured, message = executor.share((measured, failure and str(failure)))
    if failure is not None:
        raise failure
    if measured is None:
        raise ConfigError(message)
    found.add_latency(LatencyModel.from_dict(net.mutator, measured))
    return found


def _asked(arguments: Namespace) -> dict[str, str]:
    """How it is to be measured, as far as the user says it."""
    given = {"--latency-device": arguments.latency_device, "--latency-batch": arguments.latency_batch}
    return {name: str(value) for name, value in given.items() if value is not None}


def _known_or_measured(net: Supernet, arguments: Namespace) -> LatencyModel:
    from pathlib import Path

    from lightning_channels.cli._output import say
    from lightning_channels.errors import StructureError
    from lightning_channels.resources import LatencyModel

    path = arguments.latency
    if path is not None and Path(path).exists():
        try:
            model = LatencyModel.load(net.mutator, path)
        except StructureError as error:
            raise StructureError(f"{path}: {error}") from error
        _check_same(model, arguments)
        say(f"latency read from {path}: {_told(net, model)}")
        return model
    model = _measured(net, arguments)
    if path is not None:
        model.save(path)
    say(f"latency measured{'' if path is None else f', and written to {path}'}: {_told(net, model)}")
    return model


def _check_same(model: LatencyModel, arguments: Namespace) -> None:
    """What was measured must be what is asked for, where that is said."""
    from lightning_channels.errors import ConfigError

    known = {"--latency-device": str(model.device), "--latency-batch": str(model.batch_size)}
    for name, given in _asked(arguments).items():
        if given != known[name]:
            raise ConfigError(
                f"{arguments.latency} was measured with {name} {known[name]}, and {given} is asked for; take another "
                "file, or leave the option out"
            )


def _measured(net: Supernet, arguments: Namespace) -> LatencyModel:
    from lightning_channels.cli._output import wants_bar
    from lightning_channels.resources import LatencyModel
    from lightning_channels.tracing.running import with_batch

    inputs = with_batch(net.inputs(), arguments.latency_batch or 1)
    return LatencyModel(net.mutator, inputs, arguments.latency_device or "cpu", progress=wants_bar(arguments))


def _told(net: Supernet, model: LatencyModel) -> str:
    full = float(model.predict(net.resources().full[None])[0])
    where, error = model.told()
    return f"{full:.4g} ms at full width on {where}; {error}"
