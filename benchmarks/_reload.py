"""Runs what was exported where lightning_channels can't be imported, and compares: ``python _reload.py FOLDER``.

``FOLDER/*/`` each hold ``data.pt``, a list of (arguments, outputs), and some of ``model.pt2``, ``model.onnx`` and
``weights.safetensors``, the last with ``empty.pt``, the pickled module without its weights. Prints one JSON object:
folder → file → largest difference, relative to the largest value of its output, or what was raised.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

BLOCKED = "lightning_channels"


class Block:
    """Finds no such package, wherever it may be."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raise for the one package."""
        if name.split(".")[0] == BLOCKED:
            raise ModuleNotFoundError(name)


def program(folder: Path) -> Callable[..., Any]:
    """The loaded ``.pt2``."""
    import torch

    return torch.export.load(folder / "model.pt2").module()  # type: ignore[no-any-return]


def onnx(folder: Path) -> Callable[..., Any]:
    """A session of onnxruntime."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(*args: Any) -> list[Any]:
        feed = {name: value.numpy() for name, value in zip(names, args, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, feed)]

    return run


def weights(folder: Path) -> Callable[..., Any]:
    """The module with the weights of the file."""
    import torch
    from safetensors.torch import load_file

    module: Any = torch.load(folder / "empty.pt", weights_only=False).eval()
    state = module.state_dict()  # with the metadata that some modules ask for (mnasnet); tied names share their memory
    state.update(load_file(folder / "weights.safetensors"))
    module.load_state_dict(state)
    return module  # type: ignore[no-any-return]


FORMATS = {"model.pt2": program, "model.onnx": onnx, "weights.safetensors": weights}


def difference(found: Any, expected: list[Any]) -> float:
    """The largest, relative to the largest value of its output."""
    import torch
    from torch.utils._pytree import tree_leaves

    own = [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)]
    if [tensor.shape for tensor in own] != [tensor.shape for tensor in expected]:
        raise ValueError(f"shapes {[list(t.shape) for t in own]}, not {[list(t.shape) for t in expected]}")
    pairs = [(a.double(), b.double()) for a, b in zip(own, expected, strict=True) if b.numel()]
    worst = max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)
    if worst != worst:
        raise ValueError("the difference is no number")
    return worst


def compare(folder: Path) -> dict[str, Any]:
    """File → difference, or what was raised."""
    import torch

    data = torch.load(folder / "data.pt", weights_only=True)
    rows: dict[str, Any] = {}
    for name, load in FORMATS.items():
        if not (folder / name).exists():
            continue
        try:
            run = load(folder)
            with torch.no_grad():
                rows[name] = max(difference(run(*args), expected) for args, expected in data)
        except Exception as error:
            rows[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return rows


def main() -> None:
    """Compare all that is in a folder."""
    warnings.simplefilter("ignore")
    sys.meta_path.insert(0, Block())  # type: ignore[arg-type]
    try:
        __import__(BLOCKED)
    except ModuleNotFoundError:
        pass
    else:
        raise SystemExit(f"{BLOCKED} was there before it was blocked")
    import torch

    torch.backends.mha.set_fastpath_enabled(False)
    rows = {folder.name: compare(folder) for folder in sorted(Path(sys.argv[1]).iterdir()) if folder.is_dir()}
    if any(name.split(".")[0] == BLOCKED for name in sys.modules):
        raise SystemExit(f"{BLOCKED} was imported")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
