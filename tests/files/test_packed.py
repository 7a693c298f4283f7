"""Plain data, compressed."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_channels._packed import Packed

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(PLAIN)
def test_comes_back_as_it_was(data: object) -> None:
    assert Packed(data).unpacked() == data


def test_is_made_anew_at_each_call() -> None:
    packed = Packed({"conv1.weight": [64, 3, 7, 7]})
    packed.unpacked().clear()
    assert packed.unpacked() == {"conv1.weight": [64, 3, 7, 7]}


def test_takes_a_fraction_of_the_memory() -> None:
    packed = Packed({f"layer{number}.conv.weight": [64, 64, 3, 3] for number in range(400)})
    assert sys.getsizeof(packed._packed) < 4000


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Packed([float("nan")])
