"""Samplers: which choices the next step trains with."""

from lightning_channels.samplers.building import SamplerLike, build_sampler
from lightning_channels.samplers.protocol import Choices, Sampler, generator_for, passes_of
from lightning_channels.samplers.ratios import choices_at
from lightning_channels.samplers.sandwich import SandwichSampler
from lightning_channels.samplers.single import (
    CycleSampler,
    FixedSampler,
    MaxSampler,
    MinSampler,
    RandomSampler,
    read_choices,
)

__all__ = [
    "Choices",
    "CycleSampler",
    "FixedSampler",
    "MaxSampler",
    "MinSampler",
    "RandomSampler",
    "Sampler",
    "SamplerLike",
    "SandwichSampler",
    "build_sampler",
    "choices_at",
    "generator_for",
    "passes_of",
    "read_choices",
]
