"""What Lightning says about tiny runs is no fault of theirs."""

from pathlib import Path

import pytest

EXPECTED = (
    "ignore:.*but have no `val_dataloader`",
    "ignore:.*sampler has shuffling enabled",
    "ignore:.*callbacks used to create the checkpoint need to be provided",
    "ignore:.*ended before the epoch ended and your dataloader is not resumable",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            for text in EXPECTED:
                item.add_marker(pytest.mark.filterwarnings(text))
