"""Criteria: how important each channel of a unit is."""

from lightning_channels.criteria.base import Criterion, CriterionFunction, WeightCriterion, scores_of
from lightning_channels.criteria.building import CriterionLike, build_criterion
from lightning_channels.criteria.collecting import CollectingCriterion, sum_over_ranks
from lightning_channels.criteria.combining import NORMALIZERS, REDUCTIONS, normalized
from lightning_channels.criteria.fisher import FisherCriterion
from lightning_channels.criteria.geometry import FpgmCriterion, RandomCriterion
from lightning_channels.criteria.magnitude import L1Criterion, L2Criterion, LampCriterion
from lightning_channels.criteria.norm_scale import NormScaleCriterion
from lightning_channels.criteria.taylor import TaylorCriterion
from lightning_channels.criteria.tensors import KINDS, GroupTensor, group_tensors

__all__ = [
    "KINDS",
    "NORMALIZERS",
    "REDUCTIONS",
    "CollectingCriterion",
    "Criterion",
    "CriterionFunction",
    "CriterionLike",
    "FisherCriterion",
    "FpgmCriterion",
    "GroupTensor",
    "L1Criterion",
    "L2Criterion",
    "LampCriterion",
    "NormScaleCriterion",
    "RandomCriterion",
    "TaylorCriterion",
    "WeightCriterion",
    "build_criterion",
    "group_tensors",
    "normalized",
    "scores_of",
    "sum_over_ranks",
]
