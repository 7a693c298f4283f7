"""Subnets of one model for deployment, and their latencies, in a process of its own.

``build`` prunes the model by each divisor and writes what comes out; ``time`` runs it all in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels import ChannelMutator, Pruner, Resources

__all__ = ["CLOCKS", "FULL", "RUNTIMES", "UNIFORM", "build", "main", "take_turns", "variants"]

FULL, UNIFORM = "full", "uniform"

Run = Callable[[], Any]

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""The second counts what the process computes alone: for one thread on a machine that others use."""


def variants(divisors: Sequence[int]) -> list[str]:
    """The names of what is compared: the whole model, subnets by divisor, and one of the same share of all units."""
    return [FULL, *map(str, divisors), UNIFORM]


# --- building
# -----------------------------------------------------------------------------------------------------------------


def build(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Prune a model by each divisor to the same share of its MACs, and write the subnets.

    The weights are the random ones: how long it takes doesn't depend on their values.

    Returns:
        What is left of each resource, by variant.
    """
    import torchvision

    torch.manual_seed(arguments.seed)
    options = {"image_size": arguments.size} if name.startswith("vit_") else {}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    images = torch.randn(1, 3, arguments.size, arguments.size)
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, images)
    resources = Resources(mutator)
    widest = {unit.name: unit.max_choice for unit in mutator.mutable_units}
    left: dict[str, Any] = {}
    for variant in variants(arguments.divisors):
        mutator.set_choices(widest)
        if variant != FULL:
            is_uniform = variant == UNIFORM
            divisor = max(arguments.divisors) if is_uniform else int(variant)
            target = {"macs": arguments.target}
            pruner = Pruner("l1", target, scope="unit" if is_uniform else "global", divisor=divisor)
            pruner.start(mutator, 1, resources)
            pruner.before_step(0)
            pruner.stop()
        measured = resources.measure(resources.current)
        left[variant] = {key: float(measured[key]) / total for key, total in resources.totals.items()}
        write(mutator.export(), folder / variant, images, "onnxruntime" in arguments.runtimes)
    return {"left": left}


def write(model: nn.Module, path: Path, images: Tensor, onnx: bool) -> None:
    """Write a plain model for PyTorch, and for onnxruntime where it is asked for."""
    torch.save(model, path.with_suffix(".pt"))
    if onnx:
        batch = (torch.cat([images, images]),)  # two, since the exporter takes a batch of one for a fixed size
        sizes = ({0: torch.export.Dim.DYNAMIC},)
        torch.onnx.export(model, batch, path.with_suffix(".onnx"), dynamo=True, dynamic_shapes=sizes, verbose=False)


# --- running
# -----------------------------------------------------------------------------------------------------------------


def _loaded(path: Path) -> nn.Module:
    model: nn.Module = torch.load(path.with_suffix(".pt"), weights_only=False)  # that build wrote
    return model.eval()


def _eager(path: Path, images: Tensor) -> Run:
    model = _loaded(path)
    return lambda: model(images)


def _compiled(path: Path, images: Tensor) -> Run:
    torch._dynamo.reset()
    model = torch.compile(_loaded(path))
    return lambda: model(images)


def _on_gpu(path: Path, images: Tensor, compiled: bool = False) -> Run:
    model = _loaded(path).to("cuda", torch.bfloat16, memory_format=torch.channels_last)
    if compiled:
        torch._dynamo.reset()
        model = torch.compile(model)
    batch = images.to("cuda", torch.bfloat16, memory_format=torch.channels_last)

    def run() -> None:
        model(batch)
        torch.cuda.synchronize()

    return run


def _compiled_on_gpu(path: Path, images: Tensor) -> Run:
    return _on_gpu(path, images, compiled=True)


def _onnxruntime(path: Path, images: Tensor) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path.with_suffix(".onnx"), options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, inputs)


RUNTIMES: dict[str, Callable[[Path, Tensor], Run]] = {
    "eager": _eager,
    "compile": _compiled,
    "onnxruntime": _onnxruntime,
    "cuda": _on_gpu,
    "cuda-compile": _compiled_on_gpu,
}
"""What runs a model: on the CPU in float32, on a GPU in bfloat16 with the channels last."""


def measure(runtime: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each variant, which take turns.

    Returns:
        ``seconds`` by variant, one for each turn, and what the slowest took to ``load``.
    """
    torch.manual_seed(arguments.seed)
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size)
    runs: dict[str, Run] = {}
    begin = time.perf_counter()
    with torch.no_grad():
        for variant in variants(arguments.divisors):
            runs[variant] = RUNTIMES[runtime](folder / variant, images)
            runs[variant]()  # compiles, chooses kernels
        load = time.perf_counter() - begin
        return {"seconds": take_turns(runs, arguments.repeat, arguments.sample, CLOCKS[arguments.clock]), "load": load}


def take_turns(
    runs: Mapping[str, Run], repeat: int, sample: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of one call, one number for each turn; in every other turn the order is the opposite.

    Args:
        runs: Name → what is timed.
        repeat: How many turns are kept; two more go before them.
        sample: About as many seconds are spent on each in a turn.
        clock: What tells the seconds.
    """
    calls = dict.fromkeys(runs, 1)
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(-2, repeat):
        for name in list(runs) if turn % 2 else list(reversed(runs)):
            begin = clock()
            for _ in range(calls[name]):
                runs[name]()
            took = (clock() - begin) / calls[name]
            if turn < 0:
                calls[name] = max(1, round(sample / max(took, 1e-9)))
            else:
                found[name].append(took)
    return found


def speedup(seconds: Mapping[str, Sequence[float]], variant: str) -> float:
    """How many times as fast as the whole model: the median over the turns."""
    return statistics.median(full / own for full, own in zip(seconds[FULL], seconds[variant], strict=True))


def main() -> None:
    """Build or measure, and write the result to a file."""
    parser = argparse.ArgumentParser(description="subnets of one torchvision model, or their latencies")
    parser.add_argument("part", help="build, or a runtime: " + ", ".join(RUNTIMES))
    parser.add_argument("model")
    parser.add_argument("folder", type=Path, help="of the subnets")
    parser.add_argument("result", type=Path, help="file for the JSON object")
    parser.add_argument("--divisors", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--runtimes", nargs="+", default=[], choices=RUNTIMES)
    for name, default in (("size", 224), ("batch", 1), ("seed", 0), ("repeat", 11)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, standard in (("target", 0.5), ("sample", 0.2)):
        parser.add_argument(f"--{name}", type=float, default=standard)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    try:
        if arguments.part == "build":
            row = build(arguments.model, arguments.folder, arguments)
        else:
            row = measure(arguments.part, arguments.folder, arguments)
    except Exception as error:
        row = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    arguments.result.write_text(json.dumps(row))


if __name__ == "__main__":
    main()
