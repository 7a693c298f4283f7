"""Invariants 1 to 5 on networks that hypothesis makes up."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from networks.building import Spec
from networks.properties import check, specs


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,  # the same networks everywhere, so that a failure is one that everybody sees
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(specs())
def test_generated_networks(spec: Spec) -> None:
    check(spec)
