"""Networks that are generated, and what must hold for each of them."""

from __future__ import annotations

import networks.attention_blocks
import networks.function_blocks
import networks.map_blocks
import networks.rare_blocks
import networks.token_blocks  # noqa: F401  # importing them adds their blocks
import torch
from hypothesis import strategies as st
from networks.building import Built, Spec, build_chain, chains
from networks.checks import Prepared
from torch import Tensor, nn
from zoo import randomise

__all__ = ["build", "check", "specs"]


class Images(nn.Module):
    """Images in, classes or a map out."""

    def __init__(self, body: nn.Module, channels: int, head: str) -> None:
        super().__init__()
        self.body, self.head = body, head
        self.out = nn.Conv2d(channels, 3, 1) if head == "map" else nn.Linear(channels * (4 if head == "flat" else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        if self.head == "map":
            return self.out(x)
        if self.head == "flat":
            return self.out(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))
        return self.out(x.mean((2, 3)))


class Sequences(nn.Module):
    """Token ids in; the head's weight can be the embedding's."""

    def __init__(self, body: nn.Module, first: int, channels: int, tied: bool) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(11, first), body
        self.back = nn.Linear(channels, first) if tied else nn.Identity()
        self.out = nn.Linear(first if tied else channels, 11, bias=False)
        if tied:
            self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.back(self.body(self.embed(x))))


def specs() -> st.SearchStrategy[Spec]:
    """Strategy for the spec of a network."""
    stem = st.tuples(st.just("conv"), st.integers(3, 8), st.just(3), st.just(True), st.just("none"), st.just("none"))
    maps = st.tuples(
        st.just("maps"),
        st.tuples(stem, chains("maps", 2, least=1, most=4)).map(lambda parts: (parts[0], *parts[1])),
        st.sampled_from(["map", "flat", "mean"]),
    )
    tokens = st.tuples(st.just("tokens"), chains("tokens", 2, least=1, most=4), st.integers(4, 8), st.booleans())
    return st.one_of(maps, maps, tokens)


def build(spec: Spec) -> tuple[nn.Module, Tensor, Built]:
    """The network of a spec, its example input, and what is known of it."""
    torch.manual_seed(0)
    kind, blocks, *settings = spec
    if kind == "maps":
        body = build_chain("maps", 3, blocks)
        inputs = torch.randn(2, 3, 4, 4, dtype=torch.float64)
        model: nn.Module = Images(body.module, body.channels, *settings)
    else:
        first, tied = settings
        body = build_chain("tokens", first, blocks)
        inputs = torch.randint(0, 11, (2, 6))
        model = Sequences(body.module, first, body.channels, tied)
    return randomise(model).double().eval(), inputs, body


def check(spec: Spec) -> Prepared:
    """Check invariants 1 to 5, and that what must be able to change can."""
    plain, inputs, known = build(spec)
    prepared = Prepared(plain, inputs, tuple((f"body.{name}", dim) for name, dim in known.reads))
    check_coverage(prepared, known)
    prepared.check_untouched()
    prepared.check_full_width()
    for widths in ("min", "last", "prefix", "indices"):
        prepared.check_narrow(widths)
    for prefix in (True, False):
        prepared.check_masked(prefix, must_change=False)
    return prepared


def check_coverage(prepared: Prepared, known: Built) -> None:
    """What is refused says why, and what nothing ties or pins isn't refused."""
    units = prepared.mutator.units
    reasons = "\n".join(f"{unit.name}: {unit.why_not() or 'mutable'}" for unit in units)
    assert all(unit.is_mutable or unit.why_not() for unit in units)
    free = {channel.name for unit in units if unit.is_mutable for channel in unit.output_related}
    wanted = [*known.inner, *(known.outer if known.ties < 2 and not known.pins else ())]
    missing = [name for name in wanted if f"body.{name}" not in free]
    assert not missing, f"{missing} should be able to change:\n{reasons}"
