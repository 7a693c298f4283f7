"""What Lightning says about tiny runs is no fault of theirs."""

from pathlib import Path

import pytest

from tests.callbacks.conftest import EXPECTED


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            for text in EXPECTED:
                item.add_marker(pytest.mark.filterwarnings(text))
