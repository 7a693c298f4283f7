from collections.abc import Iterator

import pytest

from tests.files.nets import Net, facts, net


@pytest.fixture
def untouched() -> Iterator[Net]:
    """A model that comes out as it went in."""
    model = net()
    before = facts(model)
    yield model
    assert facts(model) == before
