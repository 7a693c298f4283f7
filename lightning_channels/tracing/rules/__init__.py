"""Rules: what each operator does to the labels of its operands."""

from lightning_channels.tracing.rules import contraction, movement, norm, pointwise, reduction
from lightning_channels.tracing.rules.table import RULES, TAG_RULES, Rule, rule, tag_rule

__all__ = [
    "RULES",
    "TAG_RULES",
    "Rule",
    "contraction",
    "movement",
    "norm",
    "pointwise",
    "reduction",
    "rule",
    "tag_rule",
]
