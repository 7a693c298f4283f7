"""``lightning-channels search``: the best subnets of a trained supernet."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lightning_channels.cli._arguments import (
    Commands,
    add_command,
    add_progress,
    add_recalibration,
    whole,
)
from lightning_channels.cli._latency import add_latency, check_latency, resources_of

if TYPE_CHECKING:
    from lightning_channels.search import SearchResult

__all__ = ["add_parser", "run"]

_TEXT = """\
Look for the widths of a trained supernet that validate best within limits, and print the best, or with --objective the
Pareto front. The algorithm is one of the group search (evolution, greedy, optuna, random), with its arguments as
overrides (search.population=40). A search is a function of its seed. With --journal every evaluated choice is written
down; the same command goes on from there after an interruption, and further with a larger --budget.

A limit or an objective of latency_ms is measured first, or read from the FILE of --latency.

Batch-norm statistics of a supernet fit no single width: --recalibrate computes them anew for each candidate.
In several processes: torchrun --nproc-per-node 4 -m lightning_channels search ...
"""

_EXAMPLES = (
    "outputs/12-00-00 --limit flops=0.5 --metric val/accuracy --recalibrate 4 -o search.json",
    "outputs/12-00-00 --objective macs --metric val/accuracy --budget 300 --journal search.jsonl -o search.json",
    "outputs/12-00-00 --limit latency_ms=3ms --latency latency.json --metric val/accuracy --journal search.jsonl",
    "mine.yaml --checkpoint last.ckpt --algorithm greedy --limit params=2M --metric val_loss --mode min",
)


def add_parser(commands: Commands) -> None:
    """Add the command to the program."""
    usage = "--metric NAME [--mode max|min] [--limit RESOURCE=VALUE ...]\n"
    usage += "       [--objective RESOURCE ...] [--algorithm NAME] [--budget N] [--seed N] [--divisor N]\n"
    usage += "       [--latency FILE] [--latency-device DEVICE] [--latency-batch N]\n"
    usage += "       [--batches N] [--recalibrate N] [--journal FILE] [--[no-]progress] [--json] [-o FILE]"
    parser = add_command(commands, "search", usage, "find the best subnets", _TEXT, _EXAMPLES, with_data=True)
    parser.add_argument("--metric", metavar="NAME", required=True, help="what the validation logs and is compared")
    parser.add_argument("--mode", choices=("max", "min"), help="which values of it are better (max by default)")
    parser.add_argument(
        "--limit",
        metavar="RESOURCE=VALUE",
        action="append",
        default=[],
        help="the most of macs, flops, params, activations or latency_ms: a share (0.5, 50%%) or an amount (10M, 3ms); "
        "repeatable",
    )
    parser.add_argument(
        "--objective",
        metavar="RESOURCE",
        action="append",
        default=[],
        help="look for the Pareto front of the metric against it; any number of them",
    )
    parser.add_argument("--algorithm", metavar="NAME", help="evolution (the default), greedy, random, ...")
    parser.add_argument("--budget", metavar="N", type=whole, default=100, help="evaluate N choices at most (100)")
    parser.add_argument("--seed", metavar="N", type=whole, default=0, help="where its randomness comes from (0)")
    parser.add_argument("--divisor", metavar="N", default="1", help="widths are multiples of N (1)")
    parser.add_argument("--journal", "--resume", metavar="FILE", help="write every choice there, and go on from it")
    add_recalibration(parser)
    add_latency(parser)
    add_progress(parser)
    parser.add_argument("-o", "--output-path", metavar="FILE", help="write all candidates to this .json file as well")
    parser.add_argument("--json", action="store_true", help="print all candidates as JSON instead of a table")


def run(arguments: Namespace) -> None:
    """Carry out the command.

    Raises:
        ChannelsError: If the module cannot be found, built or loaded, or if it cannot be searched like that.
    """
    from lightning_channels.cli._compose import group_of, search_settings
    from lightning_channels.cli._evaluating import evaluator
    from lightning_channels.cli._interrupt import Interrupted
    from lightning_channels.cli._output import is_first, say, to_json, undisturbed, wants_bar, write
    from lightning_channels.cli._supernet import supernet
    from lightning_channels.errors import ConfigError
    from lightning_channels.search import SearchSpace, search

    limits, mode = _limits(arguments.limit), _checked_mode(arguments)
    if arguments.output_path is not None and not arguments.output_path.endswith(".json"):
        raise ConfigError(f"what a search found is written as JSON; {arguments.output_path} must end in .json")
    check_latency(arguments, limits)
    own = [item for item in arguments.overrides if group_of(item) == "search"]
    arguments.overrides = [item for item in arguments.overrides if item not in own]
    net = supernet(arguments, with_data=True)
    algorithm = search_settings(net.config, arguments.algorithm, own)
    divisor: Any = int(arguments.divisor) if arguments.divisor.isdecimal() else arguments.divisor
    try:
        with undisturbed(), _executor() as executor:
            resources = resources_of(net, arguments, limits, executor)
            space = SearchSpace(net.mutator, resources, limits or None, divisor)
            with evaluator(net, arguments, arguments.metric) as evaluate:
                result = search(
                    space,
                    evaluate,
                    algorithm,
                    metric=arguments.metric,
                    mode=mode,
                    objectives=arguments.objective,
                    budget=arguments.budget,
                    seed=arguments.seed,
                    journal=arguments.journal,
                    executor=executor,
                    on_progress=wants_bar(arguments),
                )
    except Interrupted as stop:
        kept = f"what was evaluated is in {arguments.journal}, and the same command goes on from there"
        stop.told = f"; {kept if arguments.journal else 'with --journal FILE a search can be continued'}"
        raise
    if arguments.output_path is not None and is_first():
        result.save(arguments.output_path)
        say(f"{len(result.candidates)} candidates written to {arguments.output_path}")
    write(to_json(result.to_dict()) if arguments.json else _told(result), None, "")


@contextmanager
def _executor() -> Iterator[Any]:
    """What spreads candidates over the processes that torchrun started; None in a single one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield None
        return
    import torch.distributed as dist

    from lightning_channels.search import RankExecutor

    yield RankExecutor()
    dist.destroy_process_group()


def _limits(given: list[str]) -> dict[str, Any]:
    """``["flops=0.5", "params=10M"]`` → ``{"flops": 0.5, "params": "10M"}``.

    Raises:
        ConfigError: If one has no ``=``, or a resource has two.
    """
    import yaml

    from lightning_channels.errors import ConfigError

    found: dict[str, Any] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or not value:
            raise ConfigError(f"a limit is written RESOURCE=VALUE, such as flops=0.5, got {item!r}")
        if name in found:
            raise ConfigError(f"there are two limits for {name}; leave out one")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            found[name] = value  # which is no amount
    return found


def _checked_mode(arguments: Namespace) -> str:
    """Which values of the metric are better; a loss is not maximised by mistake."""
    from lightning_channels.errors import ConfigError

    if arguments.mode is None and any(word in arguments.metric.lower() for word in ("loss", "error", "perplexity")):
        raise ConfigError(f"say whether more of {arguments.metric} is better: --mode max or --mode min")
    return arguments.mode or "max"


def _told(result: SearchResult) -> str:
    """The front as a table, under what was done."""
    from lightning_channels.cli._table import cost, subnet_table

    limits = ", ".join(f"{name} up to {cost(name, value)}" for name, value in result.limits.items())
    best = result.best.metrics[result.metric]
    head = f"{len(result.candidates)} choices by {result.algorithm}, seed {result.seed}"
    head += f", {limits}" if limits else ""
    rows = [
        (f"{at}{' (best)' if at == result.best_index else ''}", candidate.resources, candidate.metrics)
        for at, candidate in zip(result.front_indices, result.front, strict=True)
    ]
    rows.sort(key=lambda row: row[1].get("macs", 0.0))
    table = subnet_table(rows, [*result.objectives, *result.limits], "candidate")
    return f"{head}: {result.metric} {best:.4f}\n\n{table}"
