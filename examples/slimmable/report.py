"""What a trained slimmable network is worth at each width: exported, measured, and printed as a table."""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_channels import ChannelMutator, SlimmableChannelMutator, export_subnet, recalibrate_batch_norm

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Row:
    """One width's figures, measured on the exported module."""

    width: float
    accuracy: float
    flops: int
    parameters: int
    latency_ms: float


@dataclass(frozen=True)
class Latency:
    """How latency is measured: the median over ``runs`` forward passes of a whole batch."""

    batch_size: int = 256
    threads: int = 1
    runs: int = 30


def choices_at(mutator: ChannelMutator, width: float) -> dict[str, int | float]:
    """Every unit at the same share of its channels."""
    return {
        unit.name: width if unit.choice_mode == "ratio" else max(1, round(width * unit.num_channels))
        for unit in mutator.mutable_units
    }


def subnets_of(mutator: ChannelMutator, widths: Iterable[float]) -> list[tuple[float, dict[str, int | float]]]:
    """What is to be measured, as (share of the channels, choices): a slimmable network's subnets, else the widths."""
    if not isinstance(mutator, SlimmableChannelMutator):
        return [(width, choices_at(mutator, width)) for width in widths]
    units = mutator.mutable_units
    total = sum(unit.num_channels for unit in units)
    return [(sum(unit.check_choice(subnet[unit.name]) for unit in units) / total, subnet) for subnet in mutator.subnets]


def export_at(
    net: nn.Module,
    mutator: ChannelMutator,
    choices: dict[str, int | float],
    train_batches: Iterable[Batch] | None,
) -> nn.Module:
    """One subnet as a plain module in eval mode.

    Args:
        net: The slimmable network; it is left at full width.
        mutator: Its mutator.
        choices: Of the subnet.
        train_batches: Batch-norm statistics are recalibrated on these; None leaves them as training left them, which
            fits no single width.
    """
    try:
        mutator.set_choices(choices)
        if train_batches is not None:
            recalibrate_batch_norm(net, train_batches, sync=False)  # only rank zero measures
        return export_subnet(net).eval()
    finally:
        mutator.set_choices(mutator.sample_choices("max"))


def measure(subnet: nn.Module, width: float, test_batches: Iterable[Batch], latency: Latency) -> Row:
    """Accuracy, cost and speed of an exported subnet."""
    correct = total = 0
    with torch.inference_mode():
        for images, labels in test_batches:
            correct += int((subnet(images).argmax(1) == labels).sum())
            total += len(labels)
        with FlopCounterMode(display=False) as counter:
            subnet(images[:1])
        batch = images.repeat(-(-latency.batch_size // len(images)), *[1] * (images.dim() - 1))[: latency.batch_size]
        seconds = median_seconds(lambda: subnet(batch), latency, batch.device)
    return Row(
        width=width,
        accuracy=correct / total,
        flops=counter.get_total_flops(),
        parameters=sum(p.numel() for p in subnet.parameters()),
        latency_ms=seconds * 1000,
    )


def median_seconds(run: Callable[[], Tensor], latency: Latency, device: torch.device) -> float:
    """The median time of a run, after a few to warm up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(latency.threads)
    try:
        return statistics.median([_seconds(run, device) for _ in range(latency.runs + 3)][3:])
    finally:
        torch.set_num_threads(threads)


def _seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    begin = time.perf_counter()
    run()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - begin


def table(rows: Sequence[Row], latency: Latency) -> str:
    """The rows as plain text."""
    lines = ["width  accuracy      MFLOPs  parameters     latency"]
    for row in rows:
        cost = f"{row.flops / 1e6:10.3f}  {row.parameters:10,}  {row.latency_ms:7.2f} ms"
        lines.append(f"{row.width:5.2f}  {row.accuracy:8.2%}  {cost}")
    lines += [
        "",
        "accuracy: on held-out images. FLOPs: one image, two for each multiply-add of convolutions and linear layers.",
        f"latency: median of {latency.runs} runs, batch of {latency.batch_size}, "
        f"{latency.threads} thread{'s' if latency.threads != 1 else ''}.",
    ]
    return "\n".join(lines)


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches, moved."""
    for images, labels in batches:
        yield images.to(device), labels.to(device)


def save(rows: Sequence[Row], latency: Latency, path: Path) -> None:
    """Write the rows, and how they were measured, as JSON."""
    measured = {"torch": torch.__version__, "latency": asdict(latency), "flops": "one image, 2 per multiply-add"}
    path.write_text(json.dumps({"rows": [asdict(row) for row in rows], "measured": measured}, indent=2) + "\n")
