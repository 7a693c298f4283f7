"""Which channels a structure keeps, and in which order: what can be checked without its model.

.. code-block:: yaml

    kept: {conv1_(0, 64)_64: [1, 4, 6, …], …}    # active channels, where these aren't the first ones
    order: {conv1_(0, 64)_64: [6, 1, 4, …], …}   # of each ranked unit, the most important place in a group first
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_channels._plain import is_int, is_number
from lightning_channels.errors import StructureError, did_you_mean

__all__ = ["OPTIONAL", "check_lists", "read_kept", "take_lists"]

OPTIONAL = ("kept", "order")
"""Keys that are there only where they are needed, in a structure and in the config of a unit."""


def check_lists(data: Mapping[str, Any]) -> None:
    """Check the form of what a structure keeps.

    Args:
        data: A structure, or something else with ``choices``, a dict.

    Raises:
        StructureError: If it isn't unit → channels for units that have a choice.
    """
    for key in OPTIONAL:
        lists = data.get(key, {})
        if not isinstance(lists, dict):
            raise StructureError(f"{key!r} of a structure must be a dict, unit → channels, got {type(lists).__name__}")
        for name, channels in lists.items():
            if name not in data["choices"]:
                hint = did_you_mean(name, data["choices"])
                raise StructureError(
                    f"{key!r} of the structure names the unit {name!r}, which has no choice there{hint}"
                )
            if not isinstance(channels, list) or not all(map(is_int, channels)):
                raise StructureError(
                    f"{key!r} of the structure must be a list of integers for {name!r}, got {channels!r:.200}"
                )


def take_lists(units: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, list[int]]]:
    """Take what is kept out of units' configs.

    Returns:
        Those of the optional keys of a structure for which there is something.
    """
    taken = {key: {name: unit.pop(key) for name, unit in units.items() if key in unit} for key in OPTIONAL}
    return {key: lists for key, lists in taken.items() if lists}


def read_kept(data: Mapping[str, Any]) -> dict[str, list[int]]:
    """What a structure keeps, for a model that needn't be prepared with it.

    Raises:
        StructureError: If not as many channels are kept as the choices beside them say.
    """
    check_lists(data)
    kept: dict[str, list[int]] = data.get("kept", {})
    for name, channels in kept.items():
        choice, arguments = data["choices"][name], _init_args(data, name)
        total, number = arguments.get("num_channels"), choice
        if arguments.get("choice_mode") == "ratio" and is_number(total) and is_number(choice):
            number = choice * total
        if not is_number(number) or abs(number - len(channels)) > 1e-6:
            raise StructureError(
                f"the structure has the choice {choice!r} for the unit {name!r} and keeps {len(channels)} of its "
                "channels. To change the choice, leave out what is kept"
            )
    return kept


def _init_args(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The init arguments of a unit of a structure."""
    found: Any = data
    for key in ("template", "channel_unit_cfg", "units", name, "init_args"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}
