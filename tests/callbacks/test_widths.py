"""Validation at several widths: the user's own metrics under a name for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_channels import ChannelPruning, export_subnet, recalibrate_batch_norm
from tests.callbacks.nets import Classifier, conv_net, loader, trainer

DATA = list(loader(shuffle=False))
SMALL = {"0_(0, 8)_8": 3, "3_(0, 12)_12": 5}


class Net(Classifier):
    """Logs as people do: in the step, from a running count, and at the end of the epoch."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        super().__init__(conv_net(dropout=0.0))
        self.right, self.seen = 0, 0
        self.learning_rate = 0.05

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self.net(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]), batch_size=len(batch[1]))
        self.right += int((logits.argmax(1) == batch[1]).sum())
        self.seen += len(batch[1])

    def on_validation_epoch_end(self) -> None:
        self.log_dict({"val_acc": self.right / self.seen})
        self.right = self.seen = 0


class Ends(L.Callback):
    """What is to be seen at the end of each validation, and what callbacks log themselves."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []
        self.starts = 0

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        self.starts += 1

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        self.log("share", torch.tensor(float(module.net[0].out_channels)))

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def measured(net: nn.Module) -> tuple[float, float]:
    """Mean loss and accuracy of a plain net."""
    net.eval()
    with torch.no_grad():
        logits = torch.cat([net(x) for x, _ in DATA])
    labels = torch.cat([y for _, y in DATA])
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()


def run(path: Path, validate: Any, *callbacks: L.Callback, module: Any = None, **options: Any) -> tuple[Any, Any, Any]:
    own = {name: options.pop(name) for name in ("eval_choices", "recalibrate", "sampler") if name in options}
    pruning, module = ChannelPruning(module="net", validate=validate, **own), module or Net()
    runner = trainer(path, pruning, *callbacks, **options)
    runner.fit(module, loader(shuffle=False), loader(shuffle=False))
    return module, pruning, runner


@pytest.mark.parametrize("sanity", [0, 2])
def test_each_width_has_metrics_of_its_own(tmp_path: Path, sanity: int) -> None:
    ends = Ends()
    module, pruning, _ = run(
        tmp_path, ["max", "min", 0.5], ends, max_epochs=2, num_sanity_val_steps=sanity, check_val_every_n_epoch=1
    )
    metrics = ends.metrics[-1]
    names = {f"{name}{width}" for name in ("val_loss", "val_acc", "share") for width in ("", "/max", "/min", "/0.5")}
    assert names <= set(metrics)
    half = {name: n // 2 for name, n in (("0_(0, 8)_8", 8), ("3_(0, 12)_12", 12))}
    for width, choices in (
        ("max", pruning.mutator.sample_choices("max")),
        ("min", pruning.mutator.sample_choices("min")),
        ("0.5", half),
    ):
        loss, accuracy = measured(export_subnet(module.net, choices))
        assert metrics[f"val_loss/{width}"] == pytest.approx(loss, rel=1e-5)
        assert metrics[f"val_acc/{width}"] == pytest.approx(accuracy)
        assert metrics[f"share/{width}"] == choices["0_(0, 8)_8"]
    assert metrics["val_loss"] == metrics["val_loss/max"]
    assert len(ends.metrics) == 2 + bool(sanity)
    assert ends.starts == 2 * 3 + bool(sanity)


def test_names_paths_and_choices(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("\n".join(f'"{name}": {width}' for name, width in SMALL.items()))
    ends = Ends()
    module, *_ = run(tmp_path, {"tiny": SMALL, "narrow": "min", "file": str(tmp_path / "small.yaml")}, ends)
    metrics, (loss, _) = ends.metrics[-1], measured(export_subnet(module.net, SMALL))
    assert metrics["val_loss/tiny"] == metrics["val_loss/file"] == pytest.approx(loss, rel=1e-5)
    assert "val_loss/narrow" in metrics
    ends = Ends()
    run(tmp_path, [tmp_path / "small.yaml"], ends)
    assert "val_loss/small" in ends.metrics[-1]


def test_the_ordinary_validation_is_what_it_would_be_without(tmp_path: Path) -> None:
    with_widths, without = Ends(), Ends()
    first, *_ = run(tmp_path, ["min", 0.5], with_widths, max_epochs=2, eval_choices=SMALL)
    second, *_ = run(tmp_path, None, without, max_epochs=2, eval_choices=SMALL)
    for name, value in without.metrics[-1].items():
        assert with_widths.metrics[-1][name] == value
    for own, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(own, other)


def test_checkpoints_and_early_stopping_may_watch_any_width(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "best", monitor="val_loss/min", filename="{epoch}", save_top_k=1)
    stopping = EarlyStopping("val_acc/0.5", patience=1, mode="max", min_delta=1.0)
    ends = Ends()
    *_, runner = run(tmp_path, ["min", 0.5], checkpoint, stopping, ends, max_epochs=6)
    assert runner.current_epoch < 6
    best = min(range(len(ends.metrics)), key=lambda epoch: ends.metrics[epoch]["val_loss/min"])
    assert Path(checkpoint.best_model_path).name == f"epoch={best}.ckpt"


def test_validate_returns_all_metrics(tmp_path: Path) -> None:
    pruning, module = ChannelPruning(module="net", validate=["max", "min"]), Net()
    (metrics,) = trainer(tmp_path, pruning).validate(module, loader(shuffle=False), verbose=False)
    for width in ("max", "min"):
        loss, _ = measured(export_subnet(module.net, pruning.mutator.sample_choices(width)))
        assert metrics[f"val_loss/{width}"] == pytest.approx(loss, rel=1e-5)
    assert metrics["val_loss"] == metrics["val_loss/max"]


def test_several_loaders(tmp_path: Path) -> None:
    class Two(Net):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx)

        def on_validation_epoch_end(self) -> None:
            pass

    pruning, module = ChannelPruning(module="net", validate=["min"]), Two()
    loaders = [loader(shuffle=False), loader(shuffle=False)]
    found = trainer(tmp_path, pruning).validate(module, loaders, verbose=False)
    assert [set(metrics) for metrics in found] == [
        {f"val_loss/dataloader_idx_{i}", f"val_loss/min/dataloader_idx_{i}"} for i in (0, 1)
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(tmp_path: Path, fails: bool) -> None:
    class Failing(Net):
        def on_validation_epoch_end(self) -> None:
            if fails and self.net[0].out_channels == 4:
                raise RuntimeError("as planned")

    module, pruning = Failing(), ChannelPruning(module="net", validate=["min", 0.5], recalibrate=2)
    runner = trainer(tmp_path, pruning)
    loops = (runner.fit_loop.epoch_loop.val_loop, runner.validate_loop, runner.test_loop)
    before = [set(loop.__dict__) for loop in loops]
    data = loader(shuffle=False), loader(shuffle=False)
    if fails:
        with pytest.raises(RuntimeError, match="as planned"):
            runner.fit(module, *data)
    else:
        runner.fit(module, *data)
    for loop, names in zip(loops, before, strict=True):
        assert {"run", "_on_evaluation_epoch_start", "_on_evaluation_end"}.isdisjoint(set(loop.__dict__) - names)
    assert "log" not in module.__dict__
    assert set(pruning.mutator.current_choices.values()) == {8, 12}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("max", "validate must be a list of widths"),
        (["maximum"], "a width is 'max', 'min', a number in"),
        ([0.0], "a width is 'max', 'min', a number in"),
        ([1.5], "a width is 'max', 'min', a number in"),
        ([True], "a width is 'max', 'min', a number in"),
        (["max", "max"], "two widths are named 'max'"),
        ([SMALL], "choices need a name"),
        ({"": "max"}, "a string that is not empty"),
    ],
)
def test_bad_widths(given: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        ChannelPruning(validate=given)


def test_widths_that_the_units_do_not_have_are_found_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="no_such_unit"):
        run(tmp_path, {"x": {"no_such_unit": 3}})


# --- recalibration


def statistics(net: nn.Module) -> list[Tensor]:
    return [buffer.clone() for buffer in net.buffers()]


class Statistics(L.Callback):
    """Those of the prepared net before and after validation, and what it computes in between."""

    def __init__(self) -> None:
        self.before: list[Tensor] = []
        self.after: list[Tensor] = []
        self.active: dict[int, list[Tensor]] = {}

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        self.before = statistics(module.net)

    def on_validation_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int, *args: Any) -> None:
        self.active[module.net[0].out_channels] = [m.running_mean.clone() for m in (module.net[1], module.net[4])]

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self.after = statistics(module.net)


def test_each_width_is_validated_with_its_own_statistics(tmp_path: Path) -> None:
    watch, ends = Statistics(), Ends()
    module, *_ = run(tmp_path, ["max", "min", 0.5], watch, ends, recalibrate=3)
    assert all(map(torch.equal, watch.before, watch.after))
    for width, name in ((8, "max"), (1, "min"), (4, "0.5")):
        choices = {"0_(0, 8)_8": width, "3_(0, 12)_12": {8: 12, 1: 1, 4: 6}[width]}
        small: Any = export_subnet(module.net, choices)
        recalibrate_batch_norm(small, DATA[:3])
        assert all(map(torch.allclose, watch.active[width], [small[1].running_mean, small[4].running_mean]))
        assert ends.metrics[-1][f"val_loss/{name}"] == pytest.approx(measured(small)[0], rel=1e-4)


@pytest.mark.parametrize("own", [True, False], ids=["own generator", "global generator"])
def test_training_goes_on_as_if_nothing_else_had_been_validated(tmp_path: Path, own: bool) -> None:
    """With a shuffling loader, whose generator must not notice."""

    def weights(recalibrate: int) -> list[Tensor]:
        module = Net()
        data = loader(shuffle=True, generator=torch.Generator().manual_seed(0) if own else None)
        pruning = ChannelPruning(module="net", validate=["min"] if recalibrate else None, recalibrate=recalibrate)
        run = trainer(tmp_path, pruning, max_epochs=2, val_check_interval=2)
        torch.manual_seed(5)
        run.fit(module, data, loader(shuffle=False))
        return [*module.state_dict().values()]

    assert all(map(torch.equal, weights(0), weights(3)))


def test_averaged_weights_have_their_own_statistics(tmp_path: Path) -> None:
    """What is validated is the average, recalibrated; and neither it nor the module keeps these statistics."""
    kept: dict[str, Any] = {}

    class Looking(L.Callback):
        def on_validation_batch_start(self, trainer: Any, module: Any, *args: Any) -> None:
            kept["net"] = export_subnet(module.net)

    averaging = WeightAveraging(avg_fn=lambda own, new, count: own + (new - own) / (count + 1))
    module, _, _ = run(tmp_path, None, averaging, Looking(), recalibrate=4)
    net = kept["net"]
    means = [net[1].running_mean.clone(), net[4].running_mean.clone()]
    recalibrate_batch_norm(net, DATA[:4])
    assert all(map(torch.allclose, means, [net[1].running_mean, net[4].running_mean]))
    assert not torch.allclose(module.net[1]._buffers["running_mean"], means[0])


def test_recalibration_needs_batches_that_can_be_taken_again(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(loader(shuffle=False).dataset)

    pruning = ChannelPruning(module="net", recalibrate=2, example_inputs=torch.randn(2, 3, 6, 6))
    streamed = torch.utils.data.DataLoader(Stream(), batch_size=4)
    with pytest.raises(MisconfigurationException, match="a DataLoader that makes batches of a map-style data set"):
        trainer(tmp_path, pruning).fit(Net(), streamed, loader(shuffle=False))


@pytest.mark.parametrize("value", [-1, 1.5, True, "many"])
def test_bad_numbers_of_batches(value: Any) -> None:
    with pytest.raises(MisconfigurationException, match="recalibrate must be"):
        ChannelPruning(recalibrate=value)
