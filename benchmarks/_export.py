"""Which formats a model at half width can be written in, and whether each computes the same without this library."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from benchmarks._check import TOLERANCE, WrongResultError, outputs, relative
from benchmarks._models import Example, build
from benchmarks._ours import warm_up
from lightning_channels import (
    ChannelMutator,
    ChannelsError,
    export_onnx,
    export_pt2,
    export_subnet,
    export_weights,
    load_subnet,
    save_subnet,
)

__all__ = ["FORMATS", "lay_out", "measure", "reloaded", "warm_up"]

RELOAD = Path(__file__).with_name("_reload.py")
_ALLOWED = TOLERANCE[torch.float32]
_PROGRAMS: dict[str, Callable[..., Path]] = {"model.pt2": export_pt2, "model.onnx": export_onnx}
FORMATS = ("subnet.yaml", "weights.safetensors", *_PROGRAMS)


def measure(example: Example, row: dict[str, Any]) -> None:
    """Halve all units, write every format and compare what each computes with the prepared model.

    Args:
        example: The model, which is changed.
        row: Gets format → seconds, bytes and difference, or why it isn't.

    Raises:
        WrongResultError: If a file was written that computes something else.
        RuntimeError: If a format isn't possible; what becomes of the plain model in it is in the row.
    """
    model, inputs = example.model, example.inputs
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, inputs)
    mutator.set_choices({unit.name: _half(unit) for unit in mutator.mutable_units})
    with tempfile.TemporaryDirectory() as folder:
        formats = row["formats"] = lay_out(model, inputs, Path(folder) / "model")
        for name, error in reloaded(Path(folder))["model"].items():
            formats[name]["error"] = error
        formats["subnet.yaml"] = _rebuilt(row["model"], model, inputs, Path(folder))
    for name, found in formats.items():
        if isinstance(found.get("error"), str):
            found |= {"reason": found.pop("error")}
        if name in _PROGRAMS and "reason" in found:
            found["plain"] = _plain(name, row["model"])
    wrong = [f"{name} by {f['error']:.1e}" for name, f in formats.items() if f.get("error", 0.0) > _ALLOWED]
    if wrong:
        raise WrongResultError(f"computes something else: {', '.join(wrong)}")
    missing = [f"{name}: {found['reason']}" for name, found in formats.items() if "reason" in found]
    if missing:
        raise RuntimeError("; ".join(missing))


def _half(unit: Any) -> Any:
    return unit.num_channels // 2 // unit.groups * unit.groups or unit.groups


def lay_out(model: nn.Module, inputs: Any, folder: Path) -> dict[str, dict[str, Any]]:
    """Write all formats of a prepared model for ``_reload.py``, with what the model gives for two sizes of the batch.

    Returns:
        File → seconds and bytes, or the reason that there is none.
    """
    folder.mkdir(parents=True)
    args = inputs if isinstance(inputs, tuple) else (inputs,)
    batches = [args, _grown(args)]
    torch.save([(own, outputs(model, own)) for own in batches], folder / "data.pt")
    rows = {name: _written(name, export, model, args, folder) for name, export in _PROGRAMS.items()}
    rows["weights.safetensors"] = _timed(lambda: export_weights(model, folder / "weights.safetensors"))
    empty = export_subnet(model)
    for tensor in empty.state_dict().values():
        tensor.zero_()
    torch.save(empty, folder / "empty.pt")
    return rows


def _grown(args: tuple[Any, ...]) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(5)

    def three(item: Any) -> Any:
        if not isinstance(item, torch.Tensor):
            return item
        shape = (3, *item.shape[1:])
        if item.is_floating_point():
            return torch.randn(shape, generator=generator, dtype=item.dtype)
        return item[torch.zeros(3, dtype=torch.long)]

    grown: tuple[Any, ...] = tree_map(three, args)
    return grown


def _written(name: str, export: Callable[..., Path], model: nn.Module, args: Any, folder: Path) -> dict[str, Any]:
    return _timed(lambda: export(model, folder / name, args, verify=False))


def _timed(write: Callable[[], Path]) -> dict[str, Any]:
    begin = time.perf_counter()
    try:
        path = write()
    except ChannelsError as error:
        return {"reason": str(error)}
    return {"seconds": time.perf_counter() - begin, "bytes": path.stat().st_size}


def reloaded(folder: Path) -> dict[str, dict[str, Any]]:
    """Folder → file → its difference, or what was raised, from one process that can't import this library."""
    command = [sys.executable, "-I", str(RELOAD), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def _rebuilt(name: str, model: nn.Module, inputs: Any, folder: Path) -> dict[str, Any]:
    """The subnet's two files, and the small model made from them and the original class."""
    found = _timed(lambda: save_subnet(model, folder))
    if "reason" in found:
        return found
    begin = time.perf_counter()
    small = load_subnet(build(name).model, folder / "subnet.yaml").eval()
    loaded = time.perf_counter() - begin
    size = sum(path.stat().st_size for path in folder.glob("subnet.*"))
    same = relative(outputs(small, inputs), outputs(model, inputs))
    return {**found, "bytes": size, "loaded": loaded, "error": same}


def _plain(format_: str, name: str) -> str:
    """What becomes of the plain full model in a format: ``"works"``, or why not."""
    example = build(name)
    with tempfile.TemporaryDirectory() as folder:
        inputs = copy.deepcopy(example.inputs)
        row = _timed(lambda: _PROGRAMS[format_](example.model, Path(folder) / format_, inputs, verify=False))
    return str(row.get("reason", "works"))
