"""What NVIDIA ModelOpt makes of a model: its space with every width at half, compared with the zeroed original."""

from __future__ import annotations

import copy
import time
from typing import Any

import modelopt.torch.nas as mtn
import torch
from torch import nn

from benchmarks._check import TOLERANCE, agree, cast, flops, narrowed_share, outputs, sizes, train_outputs, zero_inputs
from benchmarks._check import doubled as twice
from benchmarks._memory import peak_of
from benchmarks._models import Example

__all__ = ["convert", "measure", "warm_up"]

_CONV = {"channels_ratio": (0.5, 1.0), "kernel_size": (), "channel_divisor": 1}
_FEATURES = {"features_ratio": (0.5, 1.0), "feature_divisor": 1}
_RULES = {
    **{f"nn.Conv{n}d": _CONV for n in (1, 2, 3)},
    **{f"nn.ConvTranspose{n}d": _CONV for n in (1, 2, 3)},
    **{f"nn.{kind}Norm{n}d": _FEATURES for kind in ("Batch", "Instance") for n in (1, 2, 3)},
    **dict.fromkeys(("nn.Linear", "nn.SyncBatchNorm", "nn.LayerNorm"), _FEATURES),
    "nn.GroupNorm": {"channels_ratio": (0.5, 1.0), "channel_divisor": 1},
}
"""Half or all of every width, where its default offers multiples of 32."""

_MIXING = (nn.LayerNorm, nn.GroupNorm)
_WIDTHS = ("in_channels", "in_features")


def warm_up() -> None:
    """Import what is imported late."""
    convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)))


def convert(model: nn.Module) -> nn.Module:
    """The model with its search space."""
    return mtn.convert(model, mode=[("fastnas", _RULES)])


def measure(example: Example, row: dict[str, Any]) -> None:
    """Convert, set every width to half, run, export and compare; see :func:`benchmarks._ours.measure`."""
    model, inputs = example.model, example.inputs
    plain = copy.deepcopy(model)

    def prepare() -> tuple[nn.Module, float]:
        begin = time.perf_counter()
        return convert(model), time.perf_counter() - begin

    (model, row["prepare_s"]), row["peak_bytes"] = peak_of(prepare)
    original = [out.shape for out in outputs(plain, inputs)]
    mtn.utils.sample(model, sample_func=min)
    narrow = outputs(model, inputs)
    if [out.shape for out in narrow] != original:
        raise RuntimeError("the narrowed model's outputs have another shape")
    row["exact"] = None
    mixes = any(
        isinstance(m, _MIXING) and m.weight.shape != plain.get_submodule(n).weight.shape
        for n, m in model.named_modules()
        if isinstance(m, _MIXING)
    )
    if not mixes:
        model.double()
        expected = outputs(_masked(plain, model), cast(inputs, torch.float64))
        found = outputs(model, cast(inputs, torch.float64))
        what = "narrowed and masked original"
        row["masked_error"] = agree(what, found, expected, TOLERANCE[torch.float64])
        row["exact"] = True
        model.float()
    exported = mtn.export(model)
    row["reached"], row["kept"] = narrowed_share(sizes(plain), sizes(exported))
    agree("narrowed and exported", outputs(exported, inputs), narrow, TOLERANCE[torch.float32])
    row["flops_half"] = flops(exported, inputs)
    try:
        train_outputs(exported, twice(inputs))
    except Exception as error:
        row["train"] = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"


def _masked(plain: nn.Module, model: nn.Module) -> nn.Module:
    """The original in double precision, with zeros where a layer reads channels that are not active."""
    reference = copy.deepcopy(plain).double()
    for name, module in model.named_modules():
        for width in _WIDTHS:
            if not hasattr(module, "get_hparam") or width not in dict(module.named_hparams()):
                continue
            hparam = module.get_hparam(width)
            kept = torch.zeros(hparam.original, dtype=torch.bool)
            kept[hparam.active_slice] = True
            zero_inputs(reference.get_submodule(name), (~kept).nonzero().flatten())
    return reference
