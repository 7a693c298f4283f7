"""What a proof leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ProofRecord"]


@dataclass(frozen=True, slots=True)
class ProofRecord:
    """How the mutable units were verified.

    Attributes:
        mode: ``"default"`` (all units together), ``"full"`` (each alone as well) or ``"off"``.
        eval: Whether the model was run narrow in eval mode.
        train: Whether it was in train mode.
        train_error: Why it wasn't, where the model fails on its example in train mode.
        exact_compared: Whether exact units were compared with the full model whose consumers of them were zeroed.
        runs: How many forward passes the proof took, almost all of them at small widths.
        seconds: How long it took.
    """

    mode: Literal["default", "full", "off"] = "off"
    eval: bool = False
    train: bool = False
    train_error: str = ""
    exact_compared: bool = False
    runs: int = 0
    seconds: float = 0.0
