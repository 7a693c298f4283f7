"""A checkpoint into a fresh model: ``trainer.validate/test/predict(model, ckpt_path=…)``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lightning_channels import ChannelPruning
from lightning_channels.dynamic_ops import is_dynamic
from tests.callbacks.nets import UNITS, WIDTHS, Classifier, Watch, loader, trainer
from tests.trainer.twins import assert_same, assert_twins, run

FIXED = {UNITS[0]: 3, UNITS[1]: 5}
METHODS = ("validate", "test", "predict")


def evaluate(method: str, runner: L.Trainer, module: Any, path: Any = None) -> Any:
    quiet = {} if method == "predict" else {"verbose": False}
    return getattr(runner, method)(module, loader(shuffle=False), ckpt_path=path, **quiet)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run without the callback, which with it at full width is the same."""
    folder = tmp_path_factory.mktemp("plain")
    found = run(folder)
    found.trainer.save_checkpoint(folder / "plain.ckpt")
    return folder / "plain.ckpt"


class Other(Classifier):
    """Initialised with other weights."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", [{}, {"inference_mode": False}, {"limit_predict_batches": 2}])
def test_a_plain_checkpoint(tmp_path: Path, checkpoint: Path, method: str, options: dict[str, Any]) -> None:
    def act(runner: L.Trainer, module: Any) -> Any:
        return evaluate(method, runner, module, checkpoint)

    plain, _ = assert_twins(tmp_path, build=Other, act=act, **options)
    assert not torch.equal(plain.module.net[0].weight, Other().net[0].weight)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weights_only", [False, True], ids=["whole", "weights only"])
def test_a_checkpoint_of_a_subnet(tmp_path: Path, method: str, weights_only: bool) -> None:
    """The fresh model is evaluated at the checkpoint's choices where it is told to, else at the widest."""
    path = tmp_path / "subnet.ckpt"
    trained = run(tmp_path, "fixed", pruning={"choices": FIXED})
    trained.trainer.save_checkpoint(path, weights_only=weights_only)
    expected = evaluate(method, trained.trainer, trained.module)

    source = {"mutator": path} if weights_only else {}
    for choices, evaluated in (("current", FIXED), (None, WIDTHS)):
        pruning, fresh = ChannelPruning(eval_choices=choices, **source), Other()
        watch = Watch(pruning)
        found = evaluate(method, trainer(tmp_path, pruning, watch), fresh, path)
        assert is_dynamic(fresh.net[0])
        assert watch.evaluated == [(method, evaluated)] * 6
        assert pruning.mutator.current_choices == FIXED
        if choices == "current":
            assert_same(found, expected)
    assert_same(evaluate(method, trainer(tmp_path, ChannelPruning(choices=FIXED)), Other(), path), expected)


def test_the_module_that_was_trained_is_evaluated_by_another_trainer(tmp_path: Path) -> None:
    """With the callback, with another one, and without: the module is the same net."""
    trained = run(tmp_path, "random")
    results = [
        evaluate("test", trainer(tmp_path, *callbacks), trained.module)
        for callbacks in ([], [trained.pruning], [ChannelPruning()])
    ]
    assert results[0] == results[1] == results[2]
    plain = ChannelPruning.restore(trained.module)
    assert evaluate("test", trainer(tmp_path), plain) == results[0]


def test_load_from_checkpoint(tmp_path: Path) -> None:
    trained = run(tmp_path, "random")
    trained.trainer.save_checkpoint(tmp_path / "random.ckpt")
    module = Classifier.load_from_checkpoint(tmp_path / "random.ckpt")
    assert_same(dict(module.state_dict()), dict(trained.module.state_dict()))
    assert evaluate("test", trainer(tmp_path), module) == evaluate("test", trained.trainer, trained.module)
