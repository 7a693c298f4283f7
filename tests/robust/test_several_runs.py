"""One module in several runs, of the same and of other trainers and callbacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_channels import ChannelPruning
from tests.callbacks.nets import UNITS, Classifier, Watch, conv_net, loader, trainer
from tests.robust.faults import left_behind

Fit = Callable[[Classifier, int], None]


def weights(module: Classifier) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def by_one_trainer(path: Path, make: Callable[[], list[Any]]) -> Fit:
    run = trainer(path, *make())

    def fit(module: Classifier, number: int) -> None:
        run.fit_loop.max_epochs = number + 1
        run.fit(module, loader(shuffle=False), loader(shuffle=False))

    return fit


def by_new_trainers(path: Path, make: Callable[[], list[Any]]) -> Fit:
    callbacks = make()

    def fit(module: Classifier, number: int) -> None:
        trainer(path, *callbacks).fit(module, loader(shuffle=False), loader(shuffle=False))

    return fit


def by_new_callbacks(path: Path, make: Callable[[], list[Any]]) -> Fit:
    def fit(module: Classifier, number: int) -> None:
        trainer(path, *make()).fit(module, loader(shuffle=False), loader(shuffle=False))

    return fit


@pytest.mark.parametrize("ways", [by_one_trainer, by_new_trainers, by_new_callbacks])
@pytest.mark.parametrize("sampler", ["max", "sandwich"])
def test_three_runs(tmp_path: Path, ways: Any, sampler: str) -> None:
    """At the widest they are those of a module without the callback."""
    options = {"sampler": sampler, "validate": ["min"], "recalibrate": 1}
    module, plain = Classifier(conv_net(dropout=0.0)), Classifier(conv_net(dropout=0.0))
    plain.load_state_dict(module.state_dict())
    fit, expected = ways(tmp_path, lambda: [ChannelPruning(**options)]), ways(tmp_path, list)
    for number in range(3):
        for one, run in ((module, fit), (plain, expected)):
            torch.manual_seed(number)
            run(one, number)
        equal = [torch.equal(*pair) for pair in zip(weights(module).values(), weights(plain).values(), strict=True)]
        assert all(equal) == (sampler == "max")


def test_fit_validate_fit(tmp_path: Path) -> None:
    """A validation in between is nothing to the training, and stands at the widest."""
    results = []
    for between in (False, True):
        module, pruning = Classifier(conv_net(dropout=0.0)), ChannelPruning(seed=5)
        torch.manual_seed(1)
        module.net.load_state_dict(conv_net().state_dict())
        watch = Watch(pruning)
        for _ in range(2):
            run = trainer(tmp_path, pruning, watch)
            run.fit(module, loader(shuffle=False))
            if between:
                before = pruning.mutator.current_choices
                run.validate(module, loader(shuffle=False), verbose=False)
                run.test(module, loader(shuffle=False), verbose=False)
                run.predict(module, loader(shuffle=False))
                assert pruning.mutator.current_choices == before
                assert left_behind(run, module, pruning) == {"callback Watch: pruning is a ChannelPruning"}
        results.append((weights(module), watch.train))
        assert all(choices == pruning.mutator.sample_choices("max") for _, choices in watch.evaluated)
        assert len(watch.evaluated) == (0 if not between else 36)
    assert results[0][1] == results[1][1]
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=0)


def test_one_callback_on_two_modules_in_turn(tmp_path: Path) -> None:
    pruning, modules = ChannelPruning(), [Classifier(), Classifier()]
    mutators = []
    for number in (0, 1, 0, 1):
        trainer(tmp_path, pruning, max_steps=1).fit(modules[number], loader())
        mutators.append(pruning.mutator)
        assert pruning.mutator.model is modules[number]
        assert list(pruning.mutator.current_choices) == UNITS
    assert mutators[0] is mutators[2]
    assert mutators[1] is mutators[3]
    assert mutators[0] is not mutators[1]


def test_a_run_without_the_callback_in_between(tmp_path: Path) -> None:
    """The module stays prepared, at the widest, and a plain trainer trains it as if it weren't."""
    module, plain = Classifier(conv_net(dropout=0.0)), Classifier(conv_net(dropout=0.0))
    pruning = ChannelPruning(sampler="max")
    plain.load_state_dict(module.state_dict())
    for callbacks in ([pruning], [], [pruning]):
        for one in (module, plain):
            torch.manual_seed(2)
            run: Trainer = trainer(tmp_path, *(callbacks if one is module else []))
            run.fit(one, loader(shuffle=False))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, module.state_dict()[name]), name
