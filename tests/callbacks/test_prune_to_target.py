"""One fit that prunes to a target and fine-tunes what is left."""

import copy
import warnings

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.nn import functional as F

from lightning_channels import ChannelPruning, export_subnet
from tests.callbacks.nets import UNITS, Classifier, Watch, conv_net, loader, trainer
from tests.callbacks.pruned import LINEAR, BySignedGradients, fit, kept, pruning, share


@pytest.mark.parametrize("schedule", ["one_shot", "linear", "cubic", "greedy", LINEAR, lambda progress: progress**2])
def test_it_ends_at_the_target(tmp_path, schedule):
    found = pruning(schedule=schedule)
    watch = fit(tmp_path, module := Classifier(), loader(), found)
    assert found.pruner.finished
    assert 0.3 < share(found) <= 0.5
    widths = [sum(map(len, step.values())) for step in watch.train]
    assert widths == sorted(widths, reverse=True)
    assert kept(found) == watch.train[-1]
    x = torch.randn(2, 3, 6, 6)
    module.eval()
    assert torch.allclose(export_subnet(module.net)(x), module(x), atol=1e-6)


def test_a_schedule_says_when(tmp_path):
    watch = fit(tmp_path, Classifier(), loader(), found := pruning(schedule=LINEAR))
    totals = [sum(map(len, step.values())) for step in watch.train]
    assert totals[:2] == [20, 20]
    assert totals[2] == 20  # the way begins there, and is none yet
    assert totals[3] < 20
    assert totals[7] > totals[8] == totals[-1]
    assert found.pruner.reached["flops"] <= found.pruner.reached["macs"] * 2


def test_one_shot_keeps_the_largest_weights(tmp_path):
    weights = [conv.weight.detach().abs().flatten(1).sum(1) for conv in (Classifier().net[0], Classifier().net[3])]
    found = pruning(schedule="one_shot", criterion={"type": "l1", "tensors": ["outputs"], "reduction": "sum"})
    watch = fit(tmp_path, Classifier(), loader(), found)
    for scores, channels in zip(weights, watch.train[0].values(), strict=True):
        assert sorted(scores.topk(len(channels)).indices.tolist()) == channels
    assert watch.train[0] == watch.train[-1]


@pytest.mark.parametrize("criterion", ["l1", "taylor", "fisher"])
def test_steps_are_those_of_an_optimizer(tmp_path, criterion):
    """With accumulation a subnet has all batches of a step."""
    found = pruning(criterion=criterion, schedule={"type": "linear", "end_step": 4})
    watch = fit(tmp_path, Classifier(), loader(), found, accumulate_grad_batches=2)
    assert share(found) <= 0.5
    assert all(a == b for a, b in zip(watch.train[::2], watch.train[1::2], strict=True))
    assert watch.train[7] != watch.train[8] == watch.train[-1]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(tmp_path, precision):
    fit(tmp_path, Classifier(), loader(), found := pruning(criterion=BySignedGradients()), precision=precision)
    assert share(found) <= 0.5


def test_it_logs_how_far_it_is(tmp_path):
    logged = []

    class Log(L.Callback):
        def on_train_batch_end(self, trainer, *args):
            metrics = trainer.callback_metrics
            logged.append([float(metrics[f"channels/{name}"]) for name in ("flops", "progress", "finished")])

    fit(tmp_path, Classifier(), loader(), found := pruning(schedule=LINEAR), Log())
    flops, progress, finished = zip(*logged, strict=True)
    assert flops[:3] == (1.0, 1.0, 1.0)
    assert flops[-1] == pytest.approx(share(found))
    assert progress[2] == 0
    assert progress[5] == pytest.approx(0.5)
    assert progress[-1] == 1
    assert finished == (0,) * 8 + (1,) * 10


def test_what_is_evaluated_and_left_is_the_pruned_subnet(tmp_path):
    module, found = Classifier(), pruning(validate=["max", 0.5])
    watch = fit(tmp_path, module, loader(), found, val_dataloaders=loader(False))
    run = watch.trainer
    assert {name for name in run.callback_metrics if name.startswith("val_loss")} == {
        "val_loss",
        "val_loss/max",
        "val_loss/0.5",
    }
    last = kept(found)
    watch.evaluated.clear()
    (tested,) = run.test(module, loader(False))
    run.predict(module, loader(False))
    assert all(now == last for _, now in watch.evaluated)
    assert kept(found) == last
    plain = export_subnet(module.net).eval()
    with torch.no_grad():
        losses = [F.cross_entropy(plain(x), y) for x, y in loader(False)]
    assert tested["val_loss"] == pytest.approx(float(torch.stack(losses).mean()))


def test_checkpoints_are_of_the_pruned_subnet(tmp_path):
    module, found = Classifier(), pruning()
    watch = fit(tmp_path, module, loader(), found)
    path = tmp_path / "x.ckpt"
    watch.trainer.save_checkpoint(path)
    (expected,) = watch.trainer.test(module, loader(False))

    again = Classifier()
    (tested,) = trainer(tmp_path, other := pruning()).test(again, loader(False), ckpt_path=path)
    assert tested == expected
    assert kept(other) == kept(found)

    beside = yaml.safe_load((tmp_path / "x.structure.yaml").read_text())
    assert set(beside) == {"version", "template", "choices", "fingerprint", "kept"}
    for source in (path, tmp_path / "x.structure.yaml"):
        rebuilt = ChannelPruning(mutator=source, choices={})
        trainer(tmp_path, rebuilt).validate(again := Classifier(), loader(False))
        assert kept(rebuilt) == kept(found)


def test_a_second_fit_goes_on_with_the_pruned_subnet(tmp_path):
    module, found = Classifier(), pruning()
    fit(tmp_path, module, loader(), found)
    pruned, weights = kept(found), copy.deepcopy(module.state_dict())
    watch = fit(tmp_path, module, loader(), found)
    assert all(step == pruned for step in watch.train)
    assert not torch.equal(module.net[0].weight, weights["net.0.weight"])
    other = Classifier()
    watch = fit(tmp_path, other, loader(), found)  # another module begins anew
    assert len(watch.train[0][UNITS[0]]) == 8
    assert share(found) <= 0.5


def test_an_interrupted_fit_is_taken_up_again(tmp_path):
    module, found = Classifier(), pruning(schedule=LINEAR)
    module.on_train_batch_end = lambda *args: setattr(module.trainer, "should_stop", module.trainer.global_step >= 5)
    with pytest.warns(UserWarning, match=r"ended at step 6, before the pruning did: flops .* target is flops 38\.9"):
        fit(tmp_path, module, loader(), found, min_steps=5)
    del module.on_train_batch_end
    assert not found.pruner.finished
    assert share(found) < 1
    width = share(found)
    fit(tmp_path, module, loader(), found)
    assert found.pruner.finished
    assert share(found) <= 0.5 < width


def test_a_greedy_pruning_that_is_too_slow(tmp_path):
    def wide_first(unit):
        """A channel of the wider unit saves less."""
        return torch.full((unit.num_channels,), 1 / unit.num_channels, dtype=torch.float64)

    def run(**schedule):
        schedule = {"type": "greedy", "per": None, **schedule}
        found = pruning(criterion=wide_first, target={"flops": 0.6}, schedule=schedule)
        fit(tmp_path, Classifier(), loader(), found, max_epochs=1)
        return found

    with pytest.raises(MisconfigurationException, match=r"can't reach the target of .* 6 steps: it drops channels 2"):
        run(interval=2)
    with pytest.warns(UserWarning, match=r"ended at step 6, before the pruning did: flops .* Train longer, d") as said:
        found = run()
    assert len([warning for warning in said if "before the pruning did" in str(warning.message)]) == 1
    assert not found.pruner.finished
    assert f"({share(found):.1%}), and the target is flops" in found.pruner.unfinished()
    found = run(end_step=5)
    assert found.pruner.finished
    assert found.pruner.unfinished() is None


@pytest.mark.parametrize(
    "schedule",
    [
        {"type": "linear", "start_step": 100, "end_step": 200},
        {"type": "cubic", "end_step": 200},
        {"type": "one_shot", "start_step": 50},
        {"type": "greedy", "interval": 10},
        "linear",
    ],
)
def test_a_fast_development_run_passes(tmp_path, schedule):
    found = pruning(schedule=schedule)
    trainer(tmp_path, found, fast_dev_run=2).fit(Classifier(), loader(), loader(False))
    assert found.pruner.finished == (schedule == "linear")
    with pytest.raises(MisconfigurationException, match="flops can't be reached"):
        trainer(tmp_path, pruning(schedule=schedule, target={"flops": 0.001}), fast_dev_run=2).fit(
            Classifier(), loader()
        )


def test_several_callbacks(tmp_path):
    module = Classifier(torch.nn.Sequential(conv_net(dropout=0.0)[:6], torch.nn.AdaptiveAvgPool2d(1), conv_net()[-3:]))
    module.net = torch.nn.ModuleDict({"one": conv_net(dropout=0.0), "two": conv_net(dropout=0.0)})
    module.forward = lambda x: module.net["one"](x) + module.net["two"](x)
    ours = [pruning(module=f"net.{name}", target={"flops": part}) for name, part in (("one", 0.5), ("two", 0.3))]
    watch = fit(tmp_path, module, loader(), *ours)
    assert share(ours[0]) <= 0.5
    assert share(ours[1]) <= 0.3
    assert watch.trainer.callback_metrics["channels/net.two/finished"] == 1


def test_averaged_weights(tmp_path):
    found = pruning()
    fit(tmp_path, module := Classifier(), loader(), found, EMAWeightAveraging(decay=0.5), val_dataloaders=loader(False))
    assert share(found) <= 0.5
    assert torch.isfinite(module(torch.randn(1, 3, 6, 6))).all()


def test_the_tuner_trains_what_is_there(tmp_path):
    class Tuned(Classifier):
        lr = 0.01

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    finder = LearningRateFinder(num_training_steps=3)
    fit(tmp_path, Tuned(), loader(), found := pruning(), finder, logger=False)
    assert share(found) <= 0.5


def test_manual_optimization(tmp_path):
    class Manual(Classifier):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
            optimizer.step()

    with pytest.raises(MisconfigurationException, match="needs an end_step"):
        fit(tmp_path, Manual(), loader(), pruning())
    fit(tmp_path, Manual(), loader(), found := pruning(criterion=BySignedGradients(), schedule=LINEAR))
    assert share(found) <= 0.5
    with pytest.raises(MisconfigurationException, match=r"teacher.*needs automatic optimization"):
        fit(tmp_path, Manual(), loader(), pruning(schedule=LINEAR, recovery={"teacher": "live"}))


def test_inactive_channels_may_be_left_as_they_are(tmp_path):
    module, found = Classifier(), pruning(schedule="one_shot", update_inactive=False)
    before = module.net[3].weight.detach().clone()  # of all channels: nothing is pruned yet
    fit(tmp_path, module, loader(), found)
    first, second = kept(found).values()
    dropped = [channel for channel in range(12) if channel not in second]
    after = module.state_dict()["net.3.weight"]
    assert torch.equal(after[dropped], before[dropped])
    assert not torch.equal(after[second][:, first], before[second][:, first])


def test_best_checkpoints_hold_the_state(tmp_path):
    best = ModelCheckpoint(tmp_path, monitor="val_loss", save_last=True)
    fit(tmp_path, Classifier(), loader(), found := pruning(), best, val_dataloaders=loader(False))
    state = torch.load(best.best_model_path, weights_only=True)["callbacks"]["ChannelPruning"]
    assert state["pruning"]["pruner"]["progress"]["finished"]
    assert state["kept"] == found.mutator.kept_channels()


def test_nothing_is_warned(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="(lightning|torch).*")
        warnings.filterwarnings("ignore", message=".*(val_dataloader|litlogger|LeafSpec).*")
        fit(tmp_path, Classifier(), loader(), pruning(distillation={}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "random"}, r"a sampler and a pruning were both given.*Leave out one"),
        ({"choices": {"a": 1}}, r"choices and a pruning were both given"),
        ({"target": {"flops": 0}}, r"flops"),
        ({"criterion": "l3"}, r"unknown criterion 'l3'; did you mean 'l"),
        ({"schedule": "lineal"}, r"unknown schedule 'lineal'; did you mean 'linear'"),
        ({"target": None}, r"a target is needed"),
        ({"pruning": {"scop": "unit"}}, r"pruning takes no key 'scop'; did you mean 'scope'"),
        ({"recovery": {"teachr": "live"}}, r"recovery takes no key 'teachr'; did you mean 'teacher'"),
        ({"recovery": {"teacher": "frosen"}}, r"teacher must be 'frozen', 'live' or None.*did you mean 'frozen'"),
        ({"recovery": {"teacher": None}, "distillation": {}}, r"distillation was given and teacher=None"),
        ({"recovery": {"lr_rewind": 1}}, r"lr_rewind must be true or false"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(MisconfigurationException, match=message):
        pruning(**arguments)


def test_recovery_without_a_pruning():
    with pytest.raises(MisconfigurationException, match="recovery is of a pruning; give a target"):
        ChannelPruning(recovery={"lr_rewind": True})
    with pytest.raises(MisconfigurationException, match="prunes to no target"):
        _ = ChannelPruning().pruner


def test_a_target_that_cannot_be_reached(tmp_path):
    steps = []
    module = Classifier()
    module.on_train_batch_start = lambda *args: steps.append(1)
    watch = Watch(found := pruning(target={"flops": 0.001}))
    with pytest.raises(MisconfigurationException, match="flops"):
        trainer(tmp_path, found, watch).fit(module, loader())
    assert not steps
    assert found.mutator.current_choices == found.mutator.sample_choices("max")


def test_a_divisor_left_to_the_machine_is_told_and_kept(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    saved = ModelCheckpoint(tmp_path, "x{step}", every_n_train_steps=4, save_top_k=-1)
    arguments = {"target": {"flops": 0.9}, "pruning": {"divisor": "auto", "scope": {"net.0*": 0.5}}, "schedule": LINEAR}
    found = pruning(**arguments)
    with caplog.at_level("INFO"):
        trainer(tmp_path, found, saved, max_epochs=2).fit(Classifier(conv_net(width=16)), loader())
    assert "layers are pruned to multiples of 8 (divisor='auto')" in caplog.text
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    path = str(tmp_path / "xstep=4.ckpt")
    assert torch.load(path, weights_only=True)["callbacks"][found.state_key]["pruning"]["pruner"]["divisor"] == 8
    again = pruning(**arguments)
    assert again.pruner.divisor == 16
    trainer(tmp_path, again, max_epochs=2).fit(Classifier(conv_net(width=16)), loader(), ckpt_path=path)
    assert again.pruner.divisor == 8
    assert again.pruner.finished
    assert [len(channels) for channels in kept(again).values()] == [8, 12]
