"""What a subnet's validation logs, of modules that were prepared in every way."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn import functional as F
from torchmetrics import Accuracy

from lightning_channels import (
    ChannelMutator,
    ChannelPruning,
    ChoiceError,
    ConfigError,
    PrepareError,
    SubnetEvaluator,
    export_subnet,
    recalibrate_batch_norm,
)
from tests.callbacks.nets import Classifier, conv_net, images, loader, trainer

DATA = list(loader(shuffle=False))
SMALL = {"0_(0, 8)_8": 3, "3_(0, 12)_12": 5}
CPU = {"accelerator": "cpu"}


class Net(Classifier):
    """Logs in the step, with a torchmetrics object, and at the end of the epoch."""

    def __init__(self) -> None:
        super().__init__(conv_net(dropout=0.3))
        self.accuracy = Accuracy("multiclass", num_classes=4)
        self.seen = 0

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self.net(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]), batch_size=len(batch[1]), sync_dist=True)
        self.accuracy(logits, batch[1])
        self.log("val_acc", self.accuracy)
        if not isinstance(self.logger, CSVLogger):
            self.logger.experiment.add_image("input", batch[0])
        self.seen += len(batch[1])

    def on_validation_epoch_end(self) -> None:
        self.log("seen", float(self.seen))
        self.seen = 0


def prepared(module: L.LightningModule) -> ChannelMutator:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(module.net, torch.randn(2, 3, 6, 6))
    # statistics that aren't those of the beginning
    recalibrate_batch_norm(module.net, [x for x, _ in DATA])
    return mutator


@pytest.fixture
def net() -> tuple[Net, ChannelMutator]:
    module = Net()
    return module, prepared(module)


def measured(net: nn.Module, batches: int = 6) -> tuple[float, float]:
    """Mean loss and accuracy of a plain net."""
    net.eval()
    with torch.no_grad():
        logits = torch.cat([net(x) for x, _ in DATA[:batches]])
    labels = torch.cat([y for _, y in DATA[:batches]])
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()


class Own:
    """A loader that isn't torch's."""

    def __iter__(self) -> Any:
        return iter(DATA)


def test_a_loader_of_another_kind(net: Any) -> None:
    module, _ = net
    metrics = SubnetEvaluator(CPU, module, dataloaders=Own(), recalibrate=2, recalibrate_on=Own())(SMALL)
    shown = {"dataloaders": loader(shuffle=False), "recalibrate_on": loader(shuffle=False)}
    assert metrics == SubnetEvaluator(CPU, module, recalibrate=2, **shown)(SMALL)


@pytest.mark.parametrize("batches", [None, 2])
def test_metrics_are_those_of_the_exported_subnet(net: Any, batches: int | None) -> None:
    module, mutator = net
    evaluate = SubnetEvaluator(CPU, module, "val_acc", dataloaders=loader(shuffle=False), batches=batches)
    for choices in (SMALL, mutator.sample_choices("max"), SMALL):
        loss, accuracy = measured(export_subnet(module.net, choices), batches or 6)
        metrics = evaluate(choices)
        assert metrics == {
            "val_loss": pytest.approx(loss, rel=1e-5),
            "val_acc": pytest.approx(accuracy),
            "seen": 4.0 * (batches or 6),
        }
        assert all(type(value) is float for value in metrics.values())


@pytest.mark.parametrize("source", ["loader", "list", "datamodule", "module"])
def test_statistics_are_those_of_the_candidate(net: Any, source: str) -> None:
    module, _ = net
    before = {key: value.clone() for key, value in module.state_dict().items()}
    given: dict[str, Any] = {"dataloaders": loader(shuffle=False)}
    if source == "datamodule":
        given = {"datamodule": Data()}
    elif source == "module":
        module.train_dataloader = lambda: loader(shuffle=False)
    else:
        given["recalibrate_on"] = DATA if source == "list" else loader(shuffle=False)
    metrics = SubnetEvaluator(CPU, module, recalibrate=3, **given)(SMALL)
    small = export_subnet(module.net, SMALL)
    recalibrate_batch_norm(small, [x for x, _ in DATA[:3]])
    assert metrics["val_loss"] == pytest.approx(measured(small)[0], rel=1e-5)
    assert metrics["val_loss"] != pytest.approx(measured(export_subnet(module.net, SMALL))[0], rel=1e-4)
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), key


class Data(L.LightningDataModule):
    """Counts what it is asked for; the training data is there after ``setup("fit")`` alone."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def prepare_data(self) -> None:
        self.calls.append("prepare_data")

    def setup(self, stage: str) -> None:
        self.calls.append("setup " + stage)
        if stage == "fit":
            self.train = loader(shuffle=False)

    def train_dataloader(self) -> Any:
        self.calls.append("train_dataloader")
        return self.train

    def val_dataloader(self) -> Any:
        self.calls.append("val_dataloader")
        return loader(shuffle=False)

    def teardown(self, stage: str) -> None:
        self.calls.append("teardown " + stage)


def test_everything_is_set_up_once(net: Any) -> None:
    module, mutator = net
    data, calls = Data(), []
    module.setup = lambda stage: calls.append("setup " + stage)
    module.teardown = lambda stage: calls.append("teardown " + stage)
    with SubnetEvaluator(CPU, module, datamodule=data, recalibrate=1) as evaluate:
        assert data.calls == []
        assert evaluate(SMALL) == evaluate(SMALL)
        evaluate(mutator.sample_choices("min"))
        wanted = ["prepare_data", "setup validate", "val_dataloader", "setup fit", "train_dataloader"]
        assert data.calls == wanted
        assert calls == ["setup validate"]
    assert data.calls[len(wanted) :] == ["teardown validate"]
    assert calls == ["setup validate", "teardown validate"]
    evaluate(SMALL)  # and set up again where it is used again
    assert data.calls.count("setup validate") == 2


def test_all_is_as_before(net: Any, tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
    module, mutator = net
    monkeypatch.chdir(tmp_path)
    module.train()
    module.net[1].eval()
    grads = dict(module.named_parameters())
    grads["net.3.weight"].grad = torch.ones(12, 8, 3, 3)
    mutator.set_choices({"0_(0, 8)_8": [1, 2, 5]})
    owner = trainer(tmp_path)
    module.trainer = owner

    def state() -> Any:
        return (
            mutator.current_choices,
            mutator.kept_channels(),
            [part.training for part in module.modules()],
            {key: value.tolist() for key, value in module.state_dict().items()},
            grads["net.3.weight"].grad.tolist(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            random.getstate(),
            str(np.random.get_state()),  # noqa: NPY002
            torch.get_rng_state().tolist(),
            module.trainer is owner,
            [name for name in module.__dict__ if callable(getattr(type(module), name, None))],
        )

    before = state()
    evaluate = SubnetEvaluator(CPU, module, dataloaders=loader(), recalibrate=2, recalibrate_on=loader())
    evaluate(SMALL)
    evaluate({"3_(0, 12)_12": 4})
    assert state() == before
    module.net.forward = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        evaluate(SMALL)
    del module.net.forward
    assert state() == before
    assert evaluate(SMALL) == evaluate(SMALL)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_loader_that_shuffles_gives_all_candidates_the_same_batches(net: Any) -> None:
    module, mutator = net
    seen: list[Any] = []
    module.on_validation_batch_start = lambda batch, idx: seen.append(batch[1].tolist())
    own = loader(generator=torch.Generator().manual_seed(5))
    for data in (loader(), own):
        evaluate = SubnetEvaluator(CPU, module, dataloaders=data, batches=2)
        seen.clear()
        for choices in (SMALL, mutator.sample_choices("max"), SMALL):
            torch.randn(3)
            evaluate(choices)
        assert seen[:2] == seen[2:4] == seen[4:]
    other = SubnetEvaluator(CPU, module, dataloaders=loader(), batches=2, seed=1)
    other(SMALL)
    assert seen[-2:] != seen[:2]


def test_after_a_fit_with_the_callback(tmp_path: Path) -> None:
    module, pruning = Net(), ChannelPruning(module="net", save_structure=False)
    stop, keep = EarlyStopping("val_loss"), ModelCheckpoint(tmp_path)
    fitted = trainer(tmp_path, pruning, stop, keep, limit_val_batches=4, logger=CSVLogger(tmp_path))
    fitted.fit(module, loader(), loader(shuffle=False))
    written = sorted(tmp_path.rglob("*"))
    metrics = SubnetEvaluator(fitted, module, dataloaders=loader(shuffle=False))(SMALL)
    assert metrics["val_loss"] == pytest.approx(measured(export_subnet(module.net, SMALL), 4)[0], rel=1e-5)
    assert sorted(tmp_path.rglob("*")) == written
    # a training's arguments do as well
    arguments = {"devices": 2, "strategy": "ddp", "max_epochs": 9, "callbacks": [pruning, keep, TQDMProgressBar()]}
    again = SubnetEvaluator({**CPU, **arguments}, module, dataloaders=loader(shuffle=False), batches=4)
    assert again(SMALL) == metrics
    fitted.save_checkpoint(tmp_path / "last.ckpt")

    fresh, source = Net(), ChannelMutator.from_structure(yaml.safe_load(yaml.safe_dump(pruning.mutator.structure())))
    source.prepare_from_supernet(fresh.net)
    fresh.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])
    assert SubnetEvaluator(CPU, fresh, dataloaders=loader(shuffle=False), batches=4)(SMALL) == metrics


def test_the_whole_module_is_prepared_and_brings_its_own_callback() -> None:
    class Own(Net):
        def configure_callbacks(self) -> Any:
            return [ChannelPruning(eval_choices="max"), EarlyStopping("val_loss")]

        def val_dataloader(self) -> Any:
            return [loader(shuffle=False), loader(shuffle=False)]

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx)

    module, mutator = Own(), ChannelMutator()
    mutator.prepare_from_supernet(module, torch.randn(2, 3, 6, 6))
    small = {f"net.{name}": width for name, width in SMALL.items()}
    metrics = SubnetEvaluator(CPU, module)(small)
    assert set(metrics) == {"seen", *(f"{name}/dataloader_idx_{i}" for name in ("val_loss", "val_acc") for i in (0, 1))}
    loss, _ = measured(export_subnet(module, small).net)
    assert metrics["val_loss/dataloader_idx_1"] == pytest.approx(loss, rel=1e-5)


def test_the_trainers_precision_counts(net: Any) -> None:
    module, _ = net
    kinds: list[torch.dtype] = []
    module.net[9].register_forward_hook(lambda *args: kinds.append(args[-1].dtype))
    evaluate = SubnetEvaluator({**CPU, "precision": "bf16-mixed"}, module, dataloaders=loader(), recalibrate=1,
                               recalibrate_on=loader(), batches=1)  # fmt: skip
    evaluate(SMALL)
    assert kinds[-2:] == [torch.bfloat16] * 2


def test_a_net_that_setup_builds_anew_is_refused() -> None:
    class Forgets(Net):
        def setup(self, stage: str) -> None:
            self.net = conv_net()

    module = Forgets()
    prepared(module)
    with pytest.raises(PrepareError, match="Forgets's setup or configure_model built the net anew"):
        SubnetEvaluator(CPU, module, dataloaders=loader())(SMALL)


def test_two_prepared_submodules() -> None:
    module = Net()
    module.other = conv_net()
    for name in ("net", "other"):
        ChannelMutator().prepare_from_supernet(module.get_submodule(name), torch.randn(2, 3, 6, 6))
    with pytest.raises(ConfigError, match=r"several submodules are prepared \(net, other\)"):
        SubnetEvaluator(CPU, module)
    with pytest.raises(ConfigError, match="'ohter' isn't prepared; did you mean 'other'"):
        SubnetEvaluator(CPU, module, submodule="ohter")
    assert SubnetEvaluator(CPU, module, submodule="other").mutator.model is module.other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": 0}, "batches must be a number of batches, at least 1, got 0"),
        ({"batches": 0.5}, "batches must be a number of batches, at least 1, got 0.5"),
        ({"recalibrate": -1}, "recalibrate must be a number of batches, at least 0, got -1"),
        ({"seed": "x"}, "seed must be an integer"),
        ({"recalibrate_on": DATA}, "recalibrate_on was given without recalibrate"),
        ({"recalibrate": 1, "recalibrate_on": iter(DATA)}, "the first candidate would use up"),
        ({"datamodule": Data(), "dataloaders": DATA}, "leave out one"),
        ({"trainer": {"precison": 16}}, "trainer takes no argument 'precison'; did you mean 'precision'"),
        ({"trainer": "gpu"}, "trainer must be a Trainer, a dict with the arguments of one, or None, got 'gpu'"),
        ({"module": conv_net()}, "module must be a LightningModule .*, got a Sequential"),
    ],
)
def test_wrong_arguments(net: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SubnetEvaluator(**{"trainer": CPU, "module": net[0], **arguments})


def test_wrong_calls(net: Any) -> None:
    module, mutator = net
    with pytest.raises(PrepareError, match="nothing in Net is prepared"):
        SubnetEvaluator(CPU, Net())
    evaluate = SubnetEvaluator(CPU, module, "val_accuracy", dataloaders=loader())
    with pytest.raises(ConfigError, match=r"no metric 'val_accuracy'; did you mean 'val_acc'\? Logged: val_loss, "):
        evaluate(SMALL)
    with pytest.raises(ChoiceError, match="unknown unit 'x'"):
        evaluate({"x": 1})
    assert mutator.current_choices == mutator.sample_choices("max")
    module.validation_step = lambda batch, batch_idx: None
    module.on_validation_epoch_end = lambda: None
    with pytest.raises(ConfigError, match="Net's validation logs nothing"):
        SubnetEvaluator(CPU, module, dataloaders=loader())(SMALL)


def test_a_loader_without_an_index_is_read_from_its_beginning(net: Any) -> None:
    class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            return iter(images())

    module, _ = net
    stream = torch.utils.data.DataLoader(Stream(), batch_size=4)
    metrics = [
        SubnetEvaluator(CPU, module, dataloaders=loader(shuffle=False), recalibrate=2, recalibrate_on=data)(SMALL)
        for data in (stream, loader(shuffle=False))
    ]
    assert metrics[0] == metrics[1]
