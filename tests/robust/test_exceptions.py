"""A run that ends with an exception, wherever that is raised, leaves nothing of the callback's in the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from lightning_channels import ChannelPruning
from tests.callbacks.nets import trainer
from tests.robust.faults import HOOKS, Failing, Fault, Other, left_behind, namespaces

X = torch.zeros(2, 3, 6, 6)

SETTINGS: dict[str, dict[str, Any]] = {
    "random": {"sampler": "min", "update_inactive": False},
    "fast": {"sampler": "sandwich", "validate": ["min", 0.5], "recalibrate": 1},
    "lean": {"sampler": "sandwich", "memory": "lean", "validate": ["min"], "recalibrate": 1},
}

# (place, for the n-th time, setting); the narrow forward is reached in the proof, in passes, recalibration, validation
PLACES: list[tuple[str, int, str]] = [
    ("setup", 1, "random"),
    *(("forward", time, "random") for time in (1, 2, 5)),
    *(("narrow forward", time, "random") for time in (1, 4)),
    ("loader", 1, "random"),
    ("loader", 6, "random"),
    *(("training_step", 2, setting) for setting in SETTINGS),
    *(("optimizer.step", 1, setting) for setting in SETTINGS),
    *(("validation_step", time, "fast") for time in (1, 3, 5, 6)),
    ("validation_step", 1, "random"),
    *((f"before.{name}", 1, "fast") for name in HOOKS),
    *((f"after.{name}", 1, "lean") for name in HOOKS),
    ("after.on_validation_epoch_start", 2, "fast"),
    ("before.on_after_backward", 2, "lean"),
    ("before.on_before_optimizer_step", 1, "random"),
]


def fit(path: Path, module: Failing, *pruning: ChannelPruning) -> Any:
    fault = module.fault
    callbacks = [Other("before", fault), *pruning, Other("after", fault)]
    run = trainer(path, *callbacks, max_epochs=1, num_sanity_val_steps=0)
    run.fit(module, module.loader(), module.loader())
    return run


def failed(path: Path, module: Failing, pruning: ChannelPruning | None) -> Any:
    """A trainer whose run failed, and its module is as a plain run's then."""
    fault = module.fault
    callbacks = [Other("before", fault), *([] if pruning is None else [pruning]), Other("after", fault)]
    run = trainer(path, *callbacks)
    with pytest.raises((RuntimeError, SystemExit, KeyboardInterrupt)) as caught:
        run.fit(module, module.loader(), module.loader())
    assert fault.happened, caught.value
    return run


def calls(path: Path, setting: str, place: str) -> int:
    fault = Fault(place, 10**6)
    fit(path, Failing(fault), ChannelPruning(example_inputs=X, **SETTINGS[setting]))
    return 10**6 - fault.left


def check(path: Path, place: str, time: int, setting: str, error: type[BaseException]) -> None:
    before = namespaces()
    module = Failing(Fault(place, time, error))
    pruning = ChannelPruning(example_inputs=X, **SETTINGS[setting])
    run = failed(path, module, pruning)
    plain = Failing(Fault(place.replace("narrow ", ""), 1, error))
    expected = left_behind(failed(path, plain, None), plain, None)
    assert left_behind(run, module, pruning) <= expected
    assert namespaces() == before
    assert not _get_current_dispatch_mode_stack()
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    if pruning._mutator is not None and pruning._mutator._units is not None:
        mutator = pruning.mutator
        fixed = mutator.sample_choices("max")
        assert mutator.current_choices == fixed
    again = Fault()
    for holder in (module, module.net):
        holder.__dict__["fault"] = again
    module.train()  # Lightning leaves a module in eval mode when validation fails
    second = fit(path, module, pruning)
    assert second.state.finished
    assert not left_behind(second, module, pruning) - {row for row in expected if "hooks" in row}


@pytest.mark.parametrize(("place", "time", "setting"), PLACES)
def test_an_exception(tmp_path: Path, place: str, time: int, setting: str) -> None:
    # of a RuntimeError in a forward, preparing makes that a narrow network doesn't run
    interrupt = place.endswith("forward") or place.startswith("after")
    error = KeyboardInterrupt if interrupt or time % 2 == 0 else RuntimeError
    check(tmp_path, place, time, setting, error)


@pytest.mark.parametrize("setting", SETTINGS)
def test_narrow_forwards_of_every_kind(tmp_path: Path, setting: str) -> None:
    """The last ones: in passes of a step, in recalibration, in a narrow validation."""
    count = calls(tmp_path, setting, "narrow forward")
    last = 2 if setting == "random" else 6  # what came before was the proof
    for back in range(last):
        check(tmp_path, "narrow forward", count - back, setting, KeyboardInterrupt if back % 2 else RuntimeError)


def test_validation_by_itself_puts_the_choices_back(tmp_path: Path) -> None:
    class WithData(Failing):
        def train_dataloader(self) -> Any:  # recalibration takes its batches from there
            return self.loader()

    module = WithData(Fault())
    pruning = ChannelPruning(example_inputs=X, eval_choices="min", validate=[0.5], recalibrate=1)
    fit(tmp_path, module, pruning)
    pruning.mutator.set_choices(dict.fromkeys(pruning.mutator.current_choices, 5))
    before = pruning.mutator.current_choices
    for place, time in (
        ("validation_step", 1),
        ("validation_step", 3),
        ("forward", 1),
        ("before.on_validation_end", 1),
    ):
        fault = Fault(place, time, KeyboardInterrupt)
        for holder in (module, module.net):
            holder.__dict__["fault"] = fault
        run = trainer(tmp_path, Other("before", fault), pruning)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run.validate(module, module.loader())
        assert fault.happened
        assert pruning.mutator.current_choices == before
        assert not left_behind(run, module, pruning)
