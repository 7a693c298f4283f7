"""Example inputs for the tracer: the module's own, or the first batch of the loader."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_channels._rng import preserve_rng
from lightning_channels.callbacks._batch import ADVICE, candidates
from lightning_channels.callbacks._packages import is_lightnings, overrides
from lightning_channels.tracing.running import call, evaluating

__all__ = ["example_of", "find_example_inputs", "fitting", "generators_of", "placed"]


def find_example_inputs(trainer: Trainer, pl_module: LightningModule, target: nn.Module, given: Any, stage: str) -> Any:
    """The inputs to trace ``target`` with, on its device and in its floating dtype.

    Args:
        trainer: Knows the loaders.
        pl_module: The LightningModule.
        target: ``pl_module`` or one of its submodules.
        given: What the user passed for the target, or None.
        stage: Lightning's stage; its loader is the one looked at.

    Raises:
        MisconfigurationException: If none are given and none can be derived.
    """
    if given is not None:
        return placed(given, target)
    return _derived(pl_module, target, lambda: _first_batch(trainer, pl_module, stage))


def example_of(pl_module: LightningModule, datamodule: LightningDataModule, target: nn.Module) -> Any:
    """The inputs to trace ``target`` with, from the first batch that is validated; without a trainer.

    Raises:
        MisconfigurationException: If none can be derived.
    """
    datamodule.prepare_data()
    datamodule.setup("validate")
    return _derived(pl_module, target, lambda: _moved(_peek(datamodule.val_dataloader()), pl_module))


def _derived(pl_module: LightningModule, target: nn.Module, first_batch: Callable[[], Any]) -> Any:
    """The module's own example, or one from a batch."""
    has_forward = overrides(pl_module, "forward")
    if target is pl_module and not has_forward:
        children = ", ".join(repr(name) for name, _ in pl_module.named_children())
        raise MisconfigurationException(
            f"{type(pl_module).__name__} has no forward() that could be traced. Define one, or confine the callback to "
            f"the submodule that is the net: ChannelPruning(module=…), one of {children or 'none'}"
        )
    example = pl_module.example_input_array
    if example is None:
        example = fitting(first_batch(), pl_module if has_forward else target)
    if target is pl_module or not has_forward:
        return placed(example, target)
    return placed(_capture(pl_module, target, placed(example, target)), target)


def placed(inputs: Any, target: nn.Module) -> Any:
    """Inputs on the device of a module's parameters, and in their floating dtype."""
    parameter = next((p for p in target.parameters() if p.is_floating_point()), None)
    if parameter is None:
        return inputs

    def cast(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        return tensor.to(parameter.dtype) if tensor.is_floating_point() else tensor

    return apply_to_collection(move_data_to_device(inputs, parameter.device), Tensor, cast)


class _Reached(Exception):
    pass


def _capture(pl_module: LightningModule, target: nn.Module, example: Any) -> Any:
    """What ``target`` is called with while the LightningModule's forward runs."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args, kwargs))
        raise _Reached

    modes = [(module, module.training) for module in pl_module.modules()]
    handle = target.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        pl_module.eval()
        with torch.no_grad():
            call(pl_module, example)
    except _Reached:
        pass
    finally:
        handle.remove()
        for module, mode in modes:
            module.training = mode
    if not seen:
        raise MisconfigurationException(
            f"{type(pl_module).__name__}.forward() doesn't call the submodule that the callback is confined to. "
            + ADVICE
        )
    args, kwargs = seen[0]
    if not kwargs:
        return args
    return _by_name(target, args, kwargs) if args else kwargs


def _by_name(target: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call as keyword arguments."""
    signature = inspect.signature(target.forward)
    named: dict[str, Any] = {}
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        kind = signature.parameters[name].kind
        if kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            raise MisconfigurationException(
                f"{type(target).__name__}.forward() is called with positional arguments without names ({name}) and "
                f"with keyword arguments; example inputs are either. {ADVICE}"
            )
        named |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    return named


def fitting(batch: Any, module: nn.Module) -> Any:
    """What the module is called with for a batch: where that may be one of several things, the first that works."""
    found = candidates(batch, module)
    for inputs in found[:-1]:
        with suppress(Exception), evaluating(module), torch.no_grad():
            call(module, placed(inputs, module))
            return inputs
    return found[-1]


def _first_batch(trainer: Trainer, pl_module: LightningModule, stage: str) -> Any:
    loops = {
        "fit": trainer.fit_loop,
        "validate": trainer.validate_loop,
        "test": trainer.test_loop,
        "predict": trainer.predict_loop,
    }
    source = loops[stage]._data_source  # type: ignore[attr-defined]
    if not source.is_defined():
        raise MisconfigurationException(
            f"there are no example inputs, and no {source.name} to take them from. {ADVICE}"
        )
    with preserve_rng():
        return _moved(trainer.precision_plugin.convert_input(_peek(source.dataloader())), pl_module)


def _moved(batch: Any, pl_module: LightningModule) -> Any:
    """A batch as the module gets it, on its device."""
    batch = pl_module._on_before_batch_transfer(batch)
    device = next((p.device for p in pl_module.parameters()), torch.device("cpu"))
    return pl_module._apply_batch_transfer_handler(batch, device=device)


def _peek(loader: Any) -> Any:
    """A first batch, in the structure that Lightning would give it; the loader is afterwards as it was."""
    if is_lightnings(loader, "CombinedLoader"):
        return _peek(loader.iterables)
    if isinstance(loader, Mapping):
        return {key: _peek(value) for key, value in loader.items()}
    if isinstance(loader, (tuple, list)):
        return [_peek(value) for value in loader]
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, IterableDataset):
        raise MisconfigurationException(
            f"no example input is taken from {type(dataset).__name__}: an IterableDataset would lose its first batch. "
            + ADVICE
        )
    if isinstance(loader, DataLoader):
        return _peek_map_style(loader)
    if not isinstance(loader, Iterable) or iter(loader) is loader:
        raise MisconfigurationException(
            f"no example input is taken from a {type(loader).__name__}: looking at it would consume it. {ADVICE}"
        )
    return _first(loader, "the loader")


def _peek_map_style(loader: DataLoader[Any]) -> Any:
    """Two samples are enough, fetched here: no worker process is started."""
    with preserve_rng(*generators_of(loader)):
        if loader.batch_sampler is None:
            return loader.collate_fn(loader.dataset[_first(loader.sampler, "the loader's sampler")])
        keys = list(_first(loader.batch_sampler, "the loader's batch sampler"))[:2]
        if hasattr(loader.dataset, "__getitems__"):
            return loader.collate_fn(loader.dataset.__getitems__(keys))
        return loader.collate_fn([loader.dataset[key] for key in keys])


def generators_of(loader: DataLoader[Any]) -> list[torch.Generator]:
    """The random number generators that a loader and its samplers draw from, but for the global ones."""
    samplers = (loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
    found = (getattr(sampler, "generator", None) for sampler in samplers)
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _first(iterable: Iterable[Any], what: str) -> Any:
    for item in iterable:
        return item
    raise MisconfigurationException(f"no example input was found: {what} is empty. {ADVICE}")
