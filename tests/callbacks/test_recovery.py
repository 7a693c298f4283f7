"""What happens to the pruned subnet after the pruning: a teacher, learning rates, other callbacks."""

import copy

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.nn import functional as F

from tests.callbacks.nets import Classifier, conv_net, loader
from tests.callbacks.pruned import LINEAR, fit, pruning, share

ONE_SHOT = {"type": "one_shot", "start_step": 2}


class Net(Classifier):
    """Without dropout, so that a step can be computed again."""

    def __init__(self):
        torch.manual_seed(3)
        super().__init__(conv_net(dropout=0.0))


def soft(student, teacher):
    p, q = teacher.softmax(1), student.softmax(1)
    return (p * (p.log() - q.log())).sum(1).mean()


class Losses(L.Callback):
    """What each step's loss should be, of the weights before it: own loss and distance from the teacher."""

    def __init__(self, teacher):
        self.teacher = teacher
        self.expected, self.found = [], []

    @torch.no_grad()
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        own = copy.deepcopy(module).net(batch[0])  # a copy, so that nothing is written into statistics
        loss = F.cross_entropy(own, batch[1])
        if trainer.global_step == 2:  # the moment of the pruning
            self.before = plain(module).eval()
        if trainer.global_step >= 2:
            teacher = self.before if self.teacher == "frozen" else plain(module).train()
            loss = loss + soft(own, teacher(batch[0]))
        self.expected.append(float(loss))

    def on_train_batch_end(self, trainer, module, outputs, *args):
        self.found.append(float(outputs["loss"].detach()))


def plain(module):
    """The whole net with the weights of now."""
    net = conv_net(dropout=0.0)
    net.load_state_dict({name.removeprefix("net."): value for name, value in module.state_dict().items()})
    return net


@pytest.mark.parametrize("teacher", ["frozen", "live"])
def test_the_loss_is_the_own_one_and_the_distance_from_the_teacher(tmp_path, teacher):
    losses = Losses(teacher)
    found = pruning(schedule=ONE_SHOT, distillation={}, recovery={"teacher": teacher})
    fit(tmp_path, module := Net(), loader(), found, losses)
    assert losses.found == pytest.approx(losses.expected, rel=1e-5)
    assert share(found) <= 0.5
    assert all(inner.training for inner in module.modules())
    assert "training_step" not in module.__dict__


@pytest.mark.parametrize("teacher", ["frozen", "live"])
def test_a_teacher_changes_nothing_but_the_loss(tmp_path, teacher):
    """With a distance that weighs nothing the run is the one without a teacher: statistics, random numbers, widths."""
    weights = []
    for arguments in ({}, {"distillation": lambda own, wanted: 0 * own.sum(), "recovery": {"teacher": teacher}}):
        module = Net()
        torch.manual_seed(1)
        fit(tmp_path, module, loader(), pruning(schedule=LINEAR, **arguments))
        weights.append(module.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_a_frozen_teacher_is_in_the_checkpoint_and_not_in_the_module(tmp_path):
    module, found = Net(), pruning(schedule=ONE_SHOT, distillation={})
    names = set(module.state_dict())
    begun = {}

    class Begun(L.Callback):
        def on_train_batch_end(self, trainer, module, *args):
            if trainer.global_step == 2:
                begun.update(copy.deepcopy(module.state_dict()))

    watch = fit(tmp_path, module, loader(), found, Begun())
    watch.trainer.save_checkpoint(path := tmp_path / "x.ckpt")
    assert set(module.state_dict()) == names
    saved = torch.load(path, weights_only=True)["callbacks"]["ChannelPruning"]["pruning"]["teacher"]
    assert all(torch.equal(saved[name], value) for name, value in begun.items())
    fit(tmp_path, Net(), loader(), again := pruning(schedule=ONE_SHOT, distillation={}), ckpt_path=path, max_epochs=4)
    assert all(torch.equal(value, saved[name]) for name, value in again._frozen.items())

    class Other(Net):
        def __init__(self):
            super().__init__()
            self.more = torch.nn.Linear(2, 2)

    other = pruning(schedule=ONE_SHOT, distillation={})
    with pytest.raises(MisconfigurationException, match=r"other tensors than the module: more\.bias, more\.weight"):
        fit(tmp_path, Other(), loader(), other, ckpt_path=_with_more(path, Other()), max_epochs=4)


def _with_more(path, module):
    """The checkpoint with all that another module loads, but for its teacher."""
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"] = {**module.state_dict(), **checkpoint["state_dict"]}
    checkpoint["optimizer_states"][0]["param_groups"][0]["params"] = list(range(len(list(module.parameters()))))
    torch.save(checkpoint, other := path.with_name("other.ckpt"))
    return other


@pytest.mark.parametrize("part", ["progress", "teacher", "pruner"])
def test_a_state_that_is_none_is_refused(tmp_path, part):
    watch = fit(tmp_path, Net(), loader(), pruning(), max_epochs=1)
    watch.trainer.save_checkpoint(path := tmp_path / "x.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"]["ChannelPruning"]["pruning"][part] = "nonsense"
    torch.save(checkpoint, path)
    with pytest.raises(MisconfigurationException, match="the checkpoint doesn't fit the model"):
        fit(tmp_path, Net(), loader(), pruning(), ckpt_path=path)


def test_only_one_teacher(tmp_path):
    class Two(Net):
        def __init__(self):
            super().__init__()
            self.other = conv_net(dropout=0.0)

    ours = [pruning(module=name, distillation={}) for name in ("net", "other")]
    with pytest.raises(MisconfigurationException, match="only one callback can run several passes"):
        fit(tmp_path, Two(), loader(), *ours)


# --- learning rates --------------------------------------------------------------------------------------------------


class Scheduled(Net):
    """A warm-up and a cosine, step by step."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.25, total_iters=2)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
        both = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [2])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": both, "interval": "step"}}


class OneCycle(Net):
    """Which cycles momentum as well, and ends with an error after its last step."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=12)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


class Plateau(Net):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1e9)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": plateau, "interval": "step", "monitor": "loss", "strict": False},
        }


class Rates(L.Callback):
    def __init__(self):
        self.found = []

    def on_before_optimizer_step(self, trainer, *args):
        (group,) = trainer.optimizers[0].param_groups
        self.found.append((group["lr"], group["momentum"]))


@pytest.mark.parametrize("module", [Scheduled, OneCycle, Plateau])
def test_learning_rates_begin_anew_when_the_pruning_is_finished(tmp_path, module):
    rates = Rates()
    found = pruning(schedule=LINEAR, recovery={"lr_rewind": True})
    fit(tmp_path, module(), loader(), found, rates, max_steps=18, max_epochs=-1)
    end = LINEAR["end_step"]
    assert rates.found[end : 2 * end] == rates.found[:end]
    assert len(set(rates.found[:end])) > 2
    assert rates.found[end] != rates.found[end - 1]


def test_a_resumed_run_rewinds_as_the_other(tmp_path):
    straight, resumed = Rates(), Rates()
    recovery = {"lr_rewind": True}
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1, auto_insert_metric_name=False)
    fit(tmp_path, Scheduled(), loader(), pruning(schedule=LINEAR, recovery=recovery), straight, save)
    for done in (6, 9):
        resumed.found.clear()
        ours = pruning(schedule=LINEAR, recovery=recovery)
        fit(tmp_path, Scheduled(), loader(), ours, resumed, ckpt_path=tmp_path / f"{done}.ckpt")
        assert resumed.found == straight.found[done:]


def test_what_cannot_be_rewound(tmp_path):
    def ours():
        return pruning(recovery={"lr_rewind": True})

    with pytest.raises(MisconfigurationException, match="configure_optimizers returns none"):
        fit(tmp_path, Net(), loader(), ours())
    with pytest.raises(MisconfigurationException, match="doesn't go with StochasticWeightAveraging"):
        fit(tmp_path, Scheduled(), loader(), ours(), StochasticWeightAveraging(0.02))


# --- other callbacks -------------------------------------------------------------------------------------------------


class Worse(Net):
    """Whose metric gets worse with each validation of a narrower net, and then slowly better."""

    def validation_step(self, batch, batch_idx):
        step = self.trainer.global_step
        self.log("score", float(step) if step <= 8 else 100.0 - step)


@pytest.mark.filterwarnings("ignore:.*before the pruning did")  # where they don't wait
@pytest.mark.parametrize("hold_back", [True, False])
def test_callbacks_that_watch_a_metric_wait(tmp_path, hold_back):
    stop = EarlyStopping("score", patience=1, mode="min")
    best = ModelCheckpoint(
        tmp_path, "{step}", monitor="score", mode="min", save_last=True, auto_insert_metric_name=False
    )
    every = ModelCheckpoint(
        tmp_path, "every{step}", every_n_train_steps=2, save_top_k=-1, auto_insert_metric_name=False
    )
    found = pruning(schedule=LINEAR, recovery={"hold_back": hold_back})
    watch = fit(
        tmp_path,
        Worse(),
        loader(),
        found,
        stop,
        best,
        every,
        val_dataloaders=loader(False),
        val_check_interval=2,
        check_val_every_n_epoch=None,
        max_epochs=3,
    )
    steps = watch.trainer.global_step
    assert steps == (18 if hold_back else 4)
    assert best.best_model_path == str(tmp_path / ("18.ckpt" if hold_back else "2.ckpt"))
    assert (tmp_path / "last.ckpt").exists()
    assert (tmp_path / "every2.ckpt").exists()
    assert found.pruner.finished is hold_back
    for callback, name in ((stop, "_should_skip_check"), (best, "check_monitor_top_k")):
        assert name not in callback.__dict__


def test_everything_is_given_back_after_an_exception(tmp_path):
    class Failing(Scheduled):
        def training_step(self, batch, batch_idx):
            if self.trainer.global_step == 5:
                raise RuntimeError("on purpose")
            return super().training_step(batch, batch_idx)

    stop = EarlyStopping("loss")
    module = Failing()
    found = pruning(schedule=LINEAR, distillation={}, criterion="taylor", recovery={"lr_rewind": True})
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(tmp_path, module, loader(), found, stop)
    assert "training_step" not in module.__dict__
    assert "_should_skip_check" not in stop.__dict__
    assert not any(inner._forward_hooks or inner._forward_pre_hooks for inner in module.modules())
    assert 0.5 < share(found) < 1


def test_recalibration_is_of_the_pruned_subnet(tmp_path):
    class Statistics(L.Callback):
        def on_validation_batch_start(self, trainer, module, *args):
            self.mean = module.net[1].running_mean.clone()

    statistics = Statistics()
    found = pruning(schedule="one_shot", recalibrate=2)
    fit(tmp_path, module := Net(), loader(False), found, statistics, val_dataloaders=loader(False))
    batches = [batch for _, batch in zip(range(2), loader(False), strict=False)]
    with torch.no_grad():
        inputs = torch.cat([x for x, _ in batches])
        expected = module.net[0](inputs).mean((0, 2, 3))
    assert torch.allclose(statistics.mean, expected, atol=1e-6)
