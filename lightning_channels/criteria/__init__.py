"""Criteria: how important each channel of a unit is."""

from lightning_channels.criteria.base import Criterion, CriterionFunction, scores_of
from lightning_channels.criteria.building import CriterionLike, build_criterion
from lightning_channels.criteria.combining import NORMALIZERS, REDUCTIONS, normalized
from lightning_channels.criteria.magnitude import L1Criterion, L2Criterion, LampCriterion
from lightning_channels.criteria.tensors import KINDS, GroupTensor, group_tensors

__all__ = [
    "KINDS",
    "NORMALIZERS",
    "REDUCTIONS",
    "Criterion",
    "CriterionFunction",
    "CriterionLike",
    "GroupTensor",
    "L1Criterion",
    "L2Criterion",
    "LampCriterion",
    "build_criterion",
    "group_tensors",
    "normalized",
    "scores_of",
]
