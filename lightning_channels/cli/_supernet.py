"""A prepared model with its weights: what every command works on."""

from __future__ import annotations

import random
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lightning_channels._config import examples_dir, mutator_config
from lightning_channels.cli._build import DATA, data_of, has_group, model_of, module_of
from lightning_channels.cli._compose import Recipe, composed, composed_run
from lightning_channels.cli._output import say, undisturbed
from lightning_channels.cli._part import is_model, part_of, place, trains_one, weights_into
from lightning_channels.cli._runs import config_of, find_source
from lightning_channels.errors import ConfigError
from lightning_channels.mutators import ChannelMutator
from lightning_channels.registry import TRACERS, build
from lightning_channels.resources import Resources

if TYPE_CHECKING:
    from lightning_channels.callbacks import Stored

__all__ = ["Supernet", "supernet"]


@dataclass(frozen=True)
class Supernet:
    """What a command line names.

    Attributes:
        config: The composed config.
        mutator: That of the model, prepared.
        module: The LightningModule, or the model alone.
        data: Its data, where the command asked for them.
        example_inputs: From the data, where the model was traced with these.
        traced: Whether the model was traced, rather than prepared as a checkpoint says.
    """

    config: Mapping[str, Any]
    mutator: ChannelMutator
    module: nn.Module
    data: Any = None
    example_inputs: Any = None
    traced: bool = False

    def inputs(self) -> Any:
        """Example inputs of the prepared model: from the data, else as the tracer makes them.

        Raises:
            ConfigError: If there are none.
        """
        if self.example_inputs is not None:
            return self.example_inputs
        if self.data is None:
            parse_cfg = mutator_config(self.config)["parse_cfg"]
            return TRACERS.build(parse_cfg).inputs_for(self.mutator.model)
        from lightning_channels.callbacks import example_of

        return example_of(self.module, self.data, self.mutator.model)  # type: ignore[arg-type]  # a LightningModule

    def resources(self) -> Resources:
        """What choices cost: for the tracer's example input, or for one sample where that came from data."""
        return Resources(self.mutator, per_sample=not self.traced or self.example_inputs is not None)


def supernet(arguments: Namespace, with_data: bool | None = False) -> Supernet:
    """Build, load and prepare what a command line names.

    Args:
        arguments: Of the command line: ``config``, ``checkpoint``, ``overrides``.
        with_data: Whether the command needs a LightningModule and its data; None for where the config has both, and
            overrides don't say what the tracer takes.

    Raises:
        ChannelsError: If it cannot be found, built or analysed, or if a checkpoint doesn't fit it.
    """
    sys.path.extend(path for path in (str(Path.cwd()), str(examples_dir())) if path not in sys.path)
    # Whatever the model's code prints must not end up in the output.
    with undisturbed():
        source = find_source(arguments.config, arguments.checkpoint)
        if source.run is not None:
            recipe = composed_run(config_of(source.run), arguments.overrides)
        else:
            recipe = composed(str(source.config), arguments.overrides)
        stored = None if source.checkpoint is None else _read(source.checkpoint, arguments.overrides)
        _begin(recipe.config)
        return _Building(recipe, stored, arguments.overrides).build(with_data)


def _begin(config: Mapping[str, Any]) -> None:
    """What a run does first: the same numbers are drawn each time."""
    seed = config.get("seed") or 0
    random.seed(seed)
    torch.manual_seed(seed)
    if config.get("threads") is not None:
        torch.set_num_threads(config["threads"])


def _read(path: Path, overrides: list[str]) -> Stored:
    from lightning_channels.callbacks import read_checkpoint

    say(f"checkpoint: {path}")
    stored = read_checkpoint(path)
    fixed = [item for item in overrides if item.lstrip("+~").startswith(("unit.", "unit=", "mutator.", "mutator="))]
    if fixed and (stored.structures or stored.unnamed):
        raise ConfigError(
            f"the units are those of {path}, which {' '.join(fixed)} would change; leave it out, or leave out the "
            "checkpoint"
        )
    return stored


@dataclass(frozen=True)
class _Building:
    """How a model is put together from a config and what a checkpoint holds."""

    recipe: Recipe
    stored: Stored | None
    overrides: list[str]

    def build(self, with_data: bool | None) -> Supernet:
        config = self.recipe.config
        if with_data is None:
            with_data = not self._says_shape and has_group(config, "module") and has_group(config, *DATA)
        data = data_of(config) if with_data else None  # before the module, as a run does
        part = part_of(config, self.stored)
        whole = with_data or (self.recipe.import_path is None and not is_model(config, part.module))
        module = module_of(self.recipe, part.module) if whole else model_of(self.recipe)
        target, prefix = place(module, part, whole, None if self.stored is None else self.stored.weights)
        if part.structure is not None and self.stored is not None:
            mutator = ChannelMutator.from_structure(part.structure)
            mutator.prepare_from_supernet(target)
            weights_into(module, self.stored.weights, prefix)  # switchable norms have more of them once prepared
            if not (self.stored.is_pruned or trains_one(config)):
                mutator.set_choices(mutator.sample_choices("max"))  # those stored are the last that were drawn
            return Supernet(config, mutator, module, data)
        if self.stored is not None:
            weights_into(module, self.stored.weights, prefix)
        mutator = build(mutator_config(config))
        example = self._example(module, data, target) if whole else None
        mutator.prepare_from_supernet(target, example)
        return Supernet(config, mutator, module, data, example, traced=True)

    def _example(self, module: Any, data: Any, target: nn.Module) -> Any:
        """From the data, unless the user says what the tracer takes."""
        from lightning_channels.callbacks import example_of

        if self._says_shape or (data is None and not has_group(self.recipe.config, *DATA)):
            return None
        return example_of(module, data_of(self.recipe.config) if data is None else data, target)

    @property
    def _says_shape(self) -> bool:
        return any("tracer.input_shape" in item for item in self.overrides)
