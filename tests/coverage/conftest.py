"""These take an hour: they run only where they are asked for, by their marker or by their folder."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "coverage" in config.option.markexpr or any("coverage" in argument for argument in config.args):
        return
    left = [item for item in items if item.get_closest_marker("coverage") is None]
    if len(left) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(left)])
        items[:] = left
