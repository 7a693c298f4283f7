"""What tells one supernet from another: a hash of its structure, whichever subnet is set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning_channels.mutators.kept import OPTIONAL

if TYPE_CHECKING:
    from lightning_channels.mutators.channel_mutator import ChannelMutator

__all__ = ["structure_hash", "supernet_hash", "without_choices"]

_CHOSEN = ("choice", "choices", *OPTIONAL)


def supernet_hash(mutator: ChannelMutator) -> str:
    """The same for equal supernets, whatever their widths; a file that names it belongs to them.

    Args:
        mutator: A prepared one.

    Returns:
        SHA-256 of the structure's canonical JSON without choices, in hexadecimal.

    Raises:
        PrepareError: If no model is prepared.
    """
    return structure_hash(mutator.structure())


def structure_hash(structure: Mapping[str, Any]) -> str:
    """:func:`supernet_hash` of the mutator that wrote a structure, with or without its choices.

    Costs don't count: they are those of the batch that the model was traced with.
    """
    bare = without_choices(structure)
    template = bare["template"]
    found_by = {key: value for key, value in template["parse_cfg"].items() if key != "costs"}
    text = json.dumps({**bare, "template": {**template, "parse_cfg": found_by}}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def without_choices(structure: Mapping[str, Any]) -> dict[str, Any]:
    """A structure without what says which subnet is set; its units are listed as they were."""
    template = structure["template"]
    config = template["channel_unit_cfg"]
    units = {name: _bare(unit) for name, unit in config["units"].items()}
    return {**_bare(structure), "template": {**template, "channel_unit_cfg": {**config, "units": units}}}


def _bare(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in _CHOSEN}
