"""Targets: what is understood, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_channels import ConfigError, parse_target
from lightning_channels.pruning.targets import Limits, readable

TOTALS = {"macs": 2e9, "flops": 4e9, "params": 25e6, "activations": 40e6}


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("flops", 0.5, 2e9),
        ("flops", "50%", 2e9),
        ("flops", " 0.5 ", 2e9),
        ("flops", "1.2G", 1.2e9),
        ("flops", "1.2 G", 1.2e9),
        ("flops", "1_200_000_000", 1.2e9),
        ("flops", "1.2e9", 1.2e9),
        ("flops", 1200000000, 1.2e9),
        ("flops", 1, 4e9),
        ("flops", "12.5%", 0.5e9),
        ("params", "10M", 10e6),
        ("params", "0.01B", 10e6),
        ("params", "300k", 3e5),
        ("activations", "24MB", 24e6),
        ("activations", "24M", 24e6),
        ("activations", "4000000B", 4e6),
    ],
)
def test_a_value_is_a_share_or_an_amount(name: str, value: Any, limit: float) -> None:
    assert parse_target({name: value}).limits(TOTALS).amounts == {name: pytest.approx(limit, rel=1e-15)}


def test_latency_is_in_milliseconds() -> None:
    totals = {**TOTALS, "latency_ms": 8.0}
    for value in (3.0, "3", "3ms", "3 ms", "37.5%"):
        assert parse_target({"latency_ms": value}).limits(totals).amounts == {"latency_ms": 3.0}
    assert parse_target({"latency_ms": "0.5ms"}).limits(totals).amounts == {"latency_ms": 0.5}
    for value in (0.5, "0.5"):
        with pytest.raises(ConfigError, match=r"could be a share or milliseconds; write '50%' or '0\.5ms'"):
            parse_target({"latency_ms": value})


@pytest.mark.parametrize(
    "value",
    [0, -0.5, "-3%", float("nan"), float("inf"), True, None, "half", "12X", "1.2.3M", "%", "", "120%", "3ms", [1]],
)
def test_what_is_no_amount_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="the target's params"):
        parse_target({"params": value})


@pytest.mark.parametrize("target", [{}, 0.5, "50%", [("flops", 0.5)], None])
def test_what_is_no_dict_is_refused(target: Any) -> None:
    with pytest.raises(ConfigError, match="a target must be a dict of resource"):
        parse_target(target)


@pytest.mark.parametrize(
    ("target", "totals", "message"),
    [
        (
            {"flop": 0.5},
            TOTALS,
            "unknown resource 'flop'; did you mean 'flops'. Known: macs, flops, params, activations",
        ),
        (
            {"latency_ms": "3ms"},
            TOTALS,
            "measure a LatencyModel and give it to Resources.add_latency, or take one of macs, flops",
        ),
        ({"flops": 0.5}, {"params": 10.0}, "prepared without running it"),
        ({"params": "26M"}, TOTALS, "the target's params of 26M are more than the whole model has: 25M"),
    ],
)
def test_what_a_model_cannot_have_is_refused(target: Any, totals: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        parse_target(target).limits(totals)


def test_several_are_met_all_together() -> None:
    target = parse_target({"flops": 0.5, "params": "10M"})
    assert parse_target(target) is target
    assert target.met({"flops": 2e9, "params": 10e6}, TOTALS)
    assert not target.met({"flops": 2e9 + 1, "params": 10e6}, TOTALS)
    assert not target.met({"flops": 1e9, "params": 10e6 + 1}, TOTALS)


def test_limits_on_the_way() -> None:
    limits = Limits({"flops": 40.0, "params": 10.0})
    start = {"flops": 100.0, "params": 8.0}  # the latter is met from the start
    assert limits.between(start, 0).amounts == {"flops": 100.0, "params": 10.0}
    assert limits.between(start, 0.25).amounts == {"flops": 85.0, "params": 10.0}
    assert limits.between(start, 1) == limits


def test_numbers_are_readable() -> None:
    assert [readable(value) for value in (0.125, 999, 999.6, 1234567, 4e9, 1.5e12)] == [
        "0.125",
        "999",
        "0.9996k",
        "1.235M",
        "4G",
        "1.5T",
    ]
