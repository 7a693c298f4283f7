"""What Torch-Pruning makes of a model: every layer but the last pruned to half, compared with the zeroed original."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from benchmarks._check import (
    TOLERANCE,
    WrongResultError,
    agree,
    cast,
    flops,
    narrowed_share,
    outputs,
    sizes,
    train_outputs,
    zero_inputs,
)
from benchmarks._check import doubled as twice
from benchmarks._memory import peak_of
from benchmarks._models import Example

__all__ = ["make_pruner", "measure", "options", "warm_up"]

_MIXING = (nn.LayerNorm, nn.GroupNorm, nn.MultiheadAttention)
"""Where channels that are left see those that are gone: there is no masked original to compare with."""


def warm_up() -> None:
    """Import what is imported late."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    make_pruner(model, torch.randn(1, 3, 8, 8), {})


def options(model: nn.Module, inputs: Any) -> dict[str, Any]:
    """What its documentation asks the user to say: which layers give the output, and which have how many heads."""
    classes = {out.shape[1] for out in outputs(model, inputs) if out.dim() > 1}
    last = [m for m in model.modules() if getattr(m, "out_features", getattr(m, "out_channels", None)) in classes]
    heads: dict[nn.Module, int] = {}
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            heads[module] = module.num_heads
        elif isinstance(getattr(module, "qkv", None), nn.Linear) and isinstance(module.num_heads, int):
            heads[module.qkv] = module.num_heads
    return {"ignored_layers": last, "num_heads": heads}


def make_pruner(model: nn.Module, inputs: Any, given: dict[str, Any]) -> Any:
    """Its graph and a pruner to half the width."""
    importance = tp.importance.MagnitudeImportance(p=2)
    return tp.pruner.BasePruner(model, inputs, importance=importance, pruning_ratio=0.5, **given)


def measure(example: Example, row: dict[str, Any]) -> None:
    """Prune, run and compare; see :func:`benchmarks._ours.measure`."""
    model, inputs = example.model, example.inputs
    plain, given = copy.deepcopy(model), options(model, inputs)

    def prepare() -> tuple[Any, float]:
        begin = time.perf_counter()
        return make_pruner(model, inputs, given), time.perf_counter() - begin

    (pruner, row["prepare_s"]), row["peak_bytes"] = peak_of(prepare)
    original = [out.shape for out in outputs(plain, inputs)]
    _prune(pruner, model, plain, only_exact=False)
    row["reached"], row["kept"] = narrowed_share(sizes(plain), sizes(model))
    if [out.shape for out in outputs(model, inputs)] != original:
        raise RuntimeError("the pruned model's outputs have another shape")
    row["flops_half"] = flops(model, inputs)
    try:
        train_outputs(model, twice(inputs))
    except Exception as error:
        row["train"] = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    _compare(plain, cast(inputs, torch.float64), row)


def _compare(plain: nn.Module, inputs: Any, row: dict[str, Any]) -> None:
    """A second time, in double precision, with the groups alone that can be compared."""
    reference = plain.double()
    model = copy.deepcopy(reference)
    pruner = make_pruner(model, inputs, options(model, inputs))
    zeroed = _prune(pruner, model, reference, only_exact=True)
    row["exact"] = None
    if zeroed:
        what = "pruned and masked original"
        row["masked_error"] = agree(what, outputs(model, inputs), outputs(reference, inputs), TOLERANCE[torch.float64])
        row["exact"] = True


def _prune(pruner: Any, model: nn.Module, reference: nn.Module, only_exact: bool) -> int:
    """Prune group by group, and zero in the reference what reads the channels of groups that can be compared.

    Returns:
        The number of these groups.

    Raises:
        WrongResultError: If a norm's parameters aren't the original's at the channels that are left.
    """
    names = {module: name for name, module in model.named_modules()}
    twins = dict(reference.named_modules())
    left: dict[tuple[str, bool], Tensor] = {}
    zeroed = 0
    for group in pruner.step(interactive=True):
        exact = not _mixes(group)
        if only_exact and not exact:
            continue
        zeroed += exact
        for dep, gone in group:
            module = dep.target.module
            name = names.get(module)
            if name is None:  # an operator
                continue
            reads = pruner.DG.is_in_channel_pruning_fn(dep.handler)
            count = (
                dep.handler.__self__.get_in_channels(module) if reads else dep.handler.__self__.get_out_channels(module)
            )
            if count is None:
                continue
            own = left.setdefault((name, reads), torch.arange(count))
            positions = own[torch.tensor(sorted(set(gone)))]
            left[name, reads] = own[~torch.isin(own, positions)]
            if only_exact and reads:
                zero_inputs(twins[name], positions)
        group.prune()
    for module in model.modules():  # as its example for timm does
        if isinstance(getattr(module, "qkv", None), nn.Linear) and module.qkv in pruner.num_heads:
            module.num_heads = pruner.num_heads[module.qkv]
            module.head_dim = module.qkv.out_features // (3 * module.num_heads)
    _check_norms(model, twins, left)
    return zeroed


def _mixes(group: Any) -> bool:
    """Whether its channels are normalised over, or may be heads of an attention."""
    modules = [dep.target.module for dep, _ in group]
    shuffled = any(type(module).__name__ in ("_ReshapeOp", "_UnbindOp", "_SplitOp") for module in modules)
    return any(isinstance(module, _MIXING) for module in modules) or (shuffled and isinstance(modules[0], nn.Linear))


def _check_norms(model: nn.Module, twins: dict[str, nn.Module], left: dict[tuple[str, bool], Tensor]) -> None:
    for name, module in model.named_modules():
        keeps = [kept for (owner, _), kept in left.items() if owner == name]
        if isinstance(module, nn.LayerNorm) and keeps and module.weight is not None:
            kept = min(keeps, key=len)
            if not torch.equal(module.weight, twins[name].weight[kept]):
                raise WrongResultError(f"the parameters of {name} are not those of the channels that are left")
