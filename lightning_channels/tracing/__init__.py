"""Model and example inputs → which channels depend on which."""

from lightning_channels.tracing.backward import BackwardTracer
from lightning_channels.tracing.graph import ForwardTracer, ModuleGraph, Tracer
from lightning_channels.tracing.grouping import Group, Run
from lightning_channels.tracing.labels import Pin
from lightning_channels.tracing.losses import ImageClassifierPseudoLoss, SumPseudoLoss
from lightning_channels.tracing.program import Op, Program, Ref
from lightning_channels.tracing.rules import register_rule

__all__ = [
    "BackwardTracer",
    "ForwardTracer",
    "Group",
    "ImageClassifierPseudoLoss",
    "ModuleGraph",
    "Op",
    "Pin",
    "Program",
    "Ref",
    "Run",
    "SumPseudoLoss",
    "Tracer",
    "register_rule",
]
