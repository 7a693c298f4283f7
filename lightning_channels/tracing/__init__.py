"""Model and example inputs → which channels depend on which."""

from lightning_channels.tracing.graph import ForwardTracer, ModuleGraph
from lightning_channels.tracing.grouping import Group, Run
from lightning_channels.tracing.labels import Pin
from lightning_channels.tracing.program import Op, Program, Ref
from lightning_channels.tracing.rules import register_rule

__all__ = ["ForwardTracer", "Group", "ModuleGraph", "Op", "Pin", "Program", "Ref", "Run", "register_rule"]
