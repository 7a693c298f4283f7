"""Sums of products of sizes, for many choices at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["Sums"]

_ROWS = 256
"""So many choices are worked on at a time, to stay in the processor's cache."""


class Sums:
    """Sums over products ``[factor, size, …]``, where sizes are sums over products ``[factor, column, …]``.

    Args:
        sizes: The sizes.
        sums: Name → products.
        columns: Of each column the unit that it counts the channels of, and how many of these at most.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[Sequence[float]]],
        sums: Mapping[str, Sequence[Sequence[float]]],
        columns: Sequence[tuple[int, float]],
    ) -> None:
        parts: dict[tuple[int, ...], int] = {}
        for size in sizes:
            for _, *places in size:
                parts.setdefault(_key(places), len(parts))
        products: dict[tuple[int, ...], int] = {}
        for own in sums.values():
            for _, *places in own:
                products.setdefault(_key(places), len(products))
        self.names = tuple(sums)
        self._units = torch.tensor([unit for unit, _ in columns], dtype=torch.long)
        self._limits = torch.tensor([limit for _, limit in columns], dtype=torch.float64)
        self._parts, self._products = _places(parts, len(columns)), _places(products, len(sizes))
        self._of_sizes = _factors(sizes, parts)
        self._of_sums = _factors(list(sums.values()), products)

    def at(self, numbers: Tensor) -> dict[str, Tensor]:
        """The sums.

        Args:
            numbers: How many channels each unit keeps in each of its groups, shape (n, units).

        Returns:
            Name → shape (n,).
        """
        found = torch.empty(len(numbers), len(self.names), dtype=torch.float64)
        for start in range(0, len(numbers), _ROWS):
            rows = numbers[start : start + _ROWS].double()[:, self._units].minimum(self._limits)
            sizes = _multiplied(rows, self._parts) @ self._of_sizes
            found[start : start + _ROWS] = _multiplied(sizes, self._products) @ self._of_sums
        return dict(zip(self.names, found.unbind(1), strict=True))


def _key(places: Sequence[float]) -> tuple[int, ...]:
    return tuple(sorted(int(place) for place in places))


def _places(products: Mapping[tuple[int, ...], int], one: int) -> Tensor:
    """Where the factors of each product are, shape (longest, products); ``one`` where a product has no more."""
    longest = max(map(len, products), default=0)
    padded = [[*places, *[one] * (longest - len(places))] for places in products]
    return torch.tensor(padded, dtype=torch.long).reshape(len(products), longest).t()


def _factors(sums: Sequence[Sequence[Sequence[float]]], products: Mapping[tuple[int, ...], int]) -> Tensor:
    factors = torch.zeros(len(products), len(sums), dtype=torch.float64)
    for number, own in enumerate(sums):
        for factor, *places in own:
            factors[products[_key(places)], number] += factor
    return factors


def _multiplied(values: Tensor, places: Tensor) -> Tensor:
    """Products of values, shape (n, products)."""
    if not places.numel():  # no products, or nothing in them but factors
        return torch.ones(len(values), places.shape[1], dtype=torch.float64)
    extended = torch.cat([values, torch.ones(len(values), 1, dtype=torch.float64)], 1)
    result = extended[:, places[0]]
    for row in places[1:]:
        result = result * extended[:, row]
    return result
