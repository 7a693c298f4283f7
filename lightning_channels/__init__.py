"""Channel pruning and slimmable networks as a Lightning callback.

Everything that a user needs is importable from here. Names are loaded when they are first asked for, so that importing
the package costs next to nothing, and neither Lightning nor Hydra is imported by those who use the core alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# module -> the names that it exports here
_MODULES = {
    "callbacks": ("ChannelPruning", "SubnetEvaluator", "newest_checkpoint"),
    "artifacts": ("export_onnx", "export_pt2", "export_weights", "load_subnet", "save_subnet"),
    "criteria": (
        "CollectingCriterion",
        "Criterion",
        "GroupTensor",
        "WeightCriterion",
        "build_criterion",
        "group_tensors",
        "normalized",
    ),
    "dynamic_ops": (
        "DynamicBatchNorm1d",
        "DynamicBatchNorm2d",
        "DynamicBatchNorm3d",
        "DynamicConv1d",
        "DynamicConv2d",
        "DynamicConv3d",
        "DynamicConvTranspose1d",
        "DynamicConvTranspose2d",
        "DynamicConvTranspose3d",
        "DynamicEmbedding",
        "DynamicGroupNorm",
        "DynamicLayerNorm",
        "DynamicLinear",
        "DynamicMixin",
        "DynamicPReLU",
        "DynamicSyncBatchNorm",
        "SwitchableBatchNorm1d",
        "SwitchableBatchNorm2d",
        "SwitchableBatchNorm3d",
        "SwitchableSyncBatchNorm",
        "dynamic_op",
        "make_dynamic",
    ),
    "distillation": ("Distillation",),
    "divisors": ("recommended_divisor", "resolve_divisor"),
    "errors": (
        "ChannelsError",
        "ChoiceError",
        "ConfigError",
        "ExportError",
        "LimitError",
        "PrepareError",
        "StructureError",
        "TraceError",
    ),
    "export": ("export_subnet",),
    "mutables": (
        "BaseMutableChannel",
        "DerivedMutableChannel",
        "MutableChannelContainer",
        "SequentialMutableChannel",
        "SimpleMutableChannel",
        "SlimmableMutableChannel",
        "SquentialMutableChannel",
    ),
    "mutators": (
        "ChannelMutator",
        "GroupFisherChannelMutator",
        "SlimmableChannelMutator",
        "find_mutator",
        "supernet_hash",
    ),
    "pruning": ("PruneEvent", "Pruner", "build_schedule", "parse_target"),
    "recalibration": ("recalibrate_batch_norm", "recalibrated"),
    "registry": (
        "CRITERIA",
        "LOSS_CALCULATORS",
        "MODELS",
        "MUTATORS",
        "SAMPLERS",
        "SCHEDULES",
        "SEARCHES",
        "TRACERS",
        "UNITS",
        "build",
    ),
    "reporting": ("render_report", "save_report"),
    "resources": (
        "LatencyModel",
        "ResourceCounter",
        "ResourceTable",
        "Resources",
        "ResourcesLeft",
        "count_resources",
        "resources_left",
    ),
    "search": (
        "Candidate",
        "EvolutionSearch",
        "GreedySearch",
        "OptunaSearch",
        "RandomSearch",
        "RankExecutor",
        "SearchAlgorithm",
        "SearchResult",
        "SearchSpace",
        "SearchTask",
        "SerialExecutor",
        "build_search",
        "search_subnets",
    ),
    "tracing": ("BackwardTracer", "ForwardTracer", "ImageClassifierPseudoLoss", "ModuleGraph", "SumPseudoLoss"),
    "units": (
        "Channel",
        "GroupFisherChannelUnit",
        "L1MutableChannelUnit",
        "MutableChannelUnit",
        "OneShotMutableChannelUnit",
        "RankedMutableChannelUnit",
        "SequentialMutableChannelUnit",
        "SlimmableChannelUnit",
    ),
    "_config": ("config_dir", "mutator_config"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:  # what type checkers and editors see
    from lightning_channels._config import config_dir, mutator_config
    from lightning_channels.artifacts import export_onnx, export_pt2, export_weights, load_subnet, save_subnet
    from lightning_channels.callbacks import ChannelPruning, SubnetEvaluator, newest_checkpoint
    from lightning_channels.criteria import (
        CollectingCriterion,
        Criterion,
        GroupTensor,
        WeightCriterion,
        build_criterion,
        group_tensors,
        normalized,
    )
    from lightning_channels.distillation import Distillation
    from lightning_channels.divisors import recommended_divisor, resolve_divisor
    from lightning_channels.dynamic_ops import (
        DynamicBatchNorm1d,
        DynamicBatchNorm2d,
        DynamicBatchNorm3d,
        DynamicConv1d,
        DynamicConv2d,
        DynamicConv3d,
        DynamicConvTranspose1d,
        DynamicConvTranspose2d,
        DynamicConvTranspose3d,
        DynamicEmbedding,
        DynamicGroupNorm,
        DynamicLayerNorm,
        DynamicLinear,
        DynamicMixin,
        DynamicPReLU,
        DynamicSyncBatchNorm,
        SwitchableBatchNorm1d,
        SwitchableBatchNorm2d,
        SwitchableBatchNorm3d,
        SwitchableSyncBatchNorm,
        dynamic_op,
        make_dynamic,
    )
    from lightning_channels.errors import (
        ChannelsError,
        ChoiceError,
        ConfigError,
        ExportError,
        LimitError,
        PrepareError,
        StructureError,
        TraceError,
    )
    from lightning_channels.export import export_subnet
    from lightning_channels.mutables import (
        BaseMutableChannel,
        DerivedMutableChannel,
        MutableChannelContainer,
        SequentialMutableChannel,
        SimpleMutableChannel,
        SlimmableMutableChannel,
        SquentialMutableChannel,
    )
    from lightning_channels.mutators import (
        ChannelMutator,
        GroupFisherChannelMutator,
        SlimmableChannelMutator,
        find_mutator,
        supernet_hash,
    )
    from lightning_channels.pruning import PruneEvent, Pruner, build_schedule, parse_target
    from lightning_channels.recalibration import recalibrate_batch_norm, recalibrated
    from lightning_channels.registry import (
        CRITERIA,
        LOSS_CALCULATORS,
        MODELS,
        MUTATORS,
        SAMPLERS,
        SCHEDULES,
        SEARCHES,
        TRACERS,
        UNITS,
        build,
    )
    from lightning_channels.reporting import render_report, save_report
    from lightning_channels.resources import (
        LatencyModel,
        ResourceCounter,
        Resources,
        ResourcesLeft,
        ResourceTable,
        count_resources,
        resources_left,
    )
    from lightning_channels.search import (
        Candidate,
        EvolutionSearch,
        GreedySearch,
        RandomSearch,
        SearchAlgorithm,
        SearchResult,
        SearchSpace,
        SearchTask,
        SerialExecutor,
        build_search,
        search_subnets,
    )
    from lightning_channels.tracing import (
        BackwardTracer,
        ForwardTracer,
        ImageClassifierPseudoLoss,
        ModuleGraph,
        SumPseudoLoss,
    )
    from lightning_channels.units import (
        Channel,
        GroupFisherChannelUnit,
        L1MutableChannelUnit,
        MutableChannelUnit,
        OneShotMutableChannelUnit,
        RankedMutableChannelUnit,
        SequentialMutableChannelUnit,
        SlimmableChannelUnit,
    )
