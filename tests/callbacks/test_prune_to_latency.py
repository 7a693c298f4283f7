"""One fit that prunes to a number of milliseconds; the machine is a simulated one, on which these are known."""

import json
from functools import partial

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf

from lightning_channels import ChannelMutator, ChannelPruning, LatencyModel, Resources
from tests.callbacks.nets import Classifier, conv_net, loader, trainer
from tests.callbacks.noise import loader as noisy_loader
from tests.callbacks.noise import saving, train
from tests.callbacks.pruned import LINEAR, fit, kept, share
from tests.resources.machine import simulate

OPTIONS = {"shares": [0.5], "random_choices": 2}


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    return simulate(monkeypatch.setattr, overhead=1e-6)


def to_latency(target, latency=OPTIONS, **arguments):
    """As the one line that a user writes; the options only shorten the measuring."""
    return ChannelPruning(target={"latency_ms": target}, pruning={"latency": latency}, **arguments)


def milliseconds(net, batch=1):
    """What the net takes on the machine, measured as a whole."""
    return 1e3 * bench_time(net.eval(), torch.randn(batch, 3, 6, 6), torch.device("cpu"), 0.0)


def bench_time(*arguments):
    from lightning_channels.resources import bench

    return bench.time_model(*arguments)


@pytest.mark.parametrize("module", [None, "net"])
@pytest.mark.parametrize("batch", [1, 3])
def test_it_ends_at_the_target(tmp_path, caplog, module, batch):
    found = to_latency("50%", {**OPTIONS, "batch_size": batch}, module=module, schedule="linear")
    with caplog.at_level("INFO"):
        fit(tmp_path, net := Classifier(), loader(), found)
    full = milliseconds(conv_net(), batch)
    assert found.pruner.finished
    assert found.pruner.limits["latency_ms"] == pytest.approx(0.5 * full, rel=1e-6)
    assert 0.4 * full < found.pruner.reached["latency_ms"] <= 0.5 * full
    assert milliseconds(found.mutator.export().net if module is None else found.mutator.export(), batch) == (
        pytest.approx(found.pruner.reached["latency_ms"], rel=1e-6)
    )
    (line,) = [record.getMessage() for record in caplog.records if "at full width" in record.getMessage()]
    assert f"latency on cpu ({torch.get_num_threads()} thread" in line
    assert f", batch of {batch}: {full:.4g} ms at full width, target {0.5 * full:.4g} ms, reachable" in line
    assert f"reachable {found.pruner.least['latency_ms']:.4g} ms; estimates are off by 0.0% on average" in line
    assert net.training


@pytest.mark.parametrize("unit", ["ms", None])
def test_an_amount_and_another_resource(tmp_path, unit):
    amount = 0.6 * milliseconds(conv_net())
    found = ChannelPruning(
        target={"latency_ms": f"{amount}{unit}" if unit else f"{amount / milliseconds(conv_net()):.0%}", "params": 0.5},
        pruning={"latency": OPTIONS},
    )
    fit(tmp_path, Classifier(), loader(), found)
    assert found.pruner.reached["latency_ms"] <= amount * (1 + 1e-9)
    assert found.pruner.reached["params"] <= 0.5 * 1192
    assert set(found.pruner.limits) == {"latency_ms", "params"}


def test_it_trains_as_if_nothing_had_been_measured(tmp_path, machine):
    results = []
    for arguments in ({"target": {"params": 1.0}}, {"target": {"params": 1.0, "latency_ms": "100%"}}):
        module = Classifier()
        torch.manual_seed(4)
        found = ChannelPruning(**arguments)
        fit(tmp_path, module, loader(), found, max_epochs=1)
        results.append(module.state_dict())
    assert machine
    for name, tensor in results[0].items():
        assert torch.equal(tensor, results[1][name]), name


def test_it_is_measured_once(tmp_path, machine):
    module, found = Classifier(), to_latency("50%", schedule=LINEAR)
    module.on_train_batch_end = lambda *args: setattr(module.trainer, "should_stop", module.trainer.global_step >= 5)
    with pytest.warns(UserWarning, match="before the pruning did: latency_ms"):
        fit(tmp_path, module, loader(), found, min_steps=5)
    count = len(machine)
    assert count == 2 + 2 * 2
    del module.on_train_batch_end
    fit(tmp_path, module, loader(), found)
    assert found.pruner.finished
    assert len(machine) == count
    fit(tmp_path, Classifier(), loader(), found)  # another module has another latency
    assert len(machine) == 2 * count


def test_progress_is_told(tmp_path, capsys):
    told = []
    latency = {**OPTIONS, "progress": lambda done, of: told.append((done, of))}
    fit(tmp_path, Classifier(), loader(), to_latency("50%", latency), max_epochs=1)
    assert told == [(number, 9) for number in range(1, 10)]
    fit(tmp_path, Classifier(), loader(), to_latency("50%"), max_epochs=1)
    assert "measuring latency" not in capsys.readouterr().err
    fit(tmp_path, Classifier(), loader(), to_latency("50%"), max_epochs=1, enable_progress_bar=True)
    assert "measuring latency: 100%" in capsys.readouterr().err


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, monkeypatch):
    """Though the machine has become another."""
    run = partial(train, tmp_path / "diary", noisy_loader())
    ours = partial(to_latency, "50%", schedule={"type": "linear", "start_step": 1, "end_step": 11})
    straight = run(*saving(tmp_path, 5), seed=1, pruning=(first := ours()))
    state = torch.load(tmp_path / "5.ckpt", weights_only=True)["callbacks"]["ChannelPruning"]["pruning"]
    assert set(state) == {"pruner", "progress", "teacher", "latency"}
    assert json.loads(json.dumps(state["latency"])) == state["latency"]
    slower = simulate(monkeypatch.setattr, overhead=1.0)
    again = ours()
    resumed = train(tmp_path / "again", noisy_loader(), seed=2, checkpoint=tmp_path / "5.ckpt", pruning=again)
    assert resumed == straight[5:]
    assert kept(again) == kept(first)
    assert not slower


def test_a_latency_that_was_measured_before(tmp_path, machine):
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(module := Classifier(), torch.randn(1, 3, 6, 6))
    known = LatencyModel(mutator, torch.randn(2, 3, 6, 6), shares=(0.5,), random_choices=2)
    path, count = known.save(tmp_path / "latency.json"), len(machine)
    results = []
    for latency in (known, path, str(path)):
        found = to_latency("50%", latency)
        fit(tmp_path, module, loader(), found, max_epochs=1)
        results.append(found.pruner.reached)
        mutator.set_choices(mutator.sample_choices("max"))
    assert len(machine) == count
    resources = Resources(mutator)
    resources.add_latency(known)
    assert results == [results[0]] * 3
    assert results[0]["latency_ms"] <= 0.5 * resources.totals["latency_ms"]


def test_options_come_from_a_config(tmp_path):
    pruning = OmegaConf.create({"latency": {**OPTIONS, "batch_size": 2}})
    plain = OmegaConf.to_container(pruning)
    found = ChannelPruning(target={"latency_ms": "50%"}, pruning=plain)
    fit(tmp_path, Classifier(), loader(), found, max_epochs=1)
    assert share(found) < 0.6


@pytest.mark.parametrize(
    ("latency", "message"),
    [
        ({"bach_size": 4}, "pruning: latency takes no key 'bach_size'; did you mean 'batch_size'"),
        ({"batch_size": 0}, "batch_size must be a number of examples, got 0"),
        ({"progress": 3}, "progress must be true for a bar"),
        (3.0, r"latency must be a dict of options \(device, batch_size, .* or the path of one that was saved, got 3.0"),
        ("nowhere.json", "cannot read nowhere.json"),
    ],
)
def test_arguments(latency, message):
    with pytest.raises(MisconfigurationException, match=message):
        to_latency("50%", latency)


def test_options_without_such_a_target():
    with pytest.raises(MisconfigurationException, match=r"latency is for a target of latency_ms, such as target="):
        ChannelPruning(target={"flops": 0.5}, pruning={"latency": {}})


@pytest.mark.parametrize(
    ("target", "latency", "message"),
    [
        ("0.0000001ms", OPTIONS, r"latency_ms can't be reached: with every unit at its narrowest, .* are left"),
        ("50%", {"device": "cuda:7"}, "device must be one that latency can be measured on here"),
        ("50%", {"shares": ["half"]}, "shares must lie between 0 and 1"),
        ("3s", OPTIONS, "latency_ms is '3s'; allowed are"),
        ("90ms", OPTIONS, "the target's latency_ms of 90 are more than the whole model has"),
    ],
)
def test_what_is_refused_before_the_first_step(tmp_path, target, latency, message):
    module = Classifier()
    before = module.net[0].weight.detach().clone()
    with pytest.raises(MisconfigurationException, match=message):
        trainer(tmp_path, to_latency(target, latency)).fit(module, loader())
    assert torch.equal(module.net[0].weight, before)


def test_the_latency_of_a_checkpoint_is_checked(tmp_path):
    module, found = Classifier(), to_latency("50%", schedule=LINEAR)
    watch = fit(tmp_path, module, loader(), found)
    watch.trainer.save_checkpoint(tmp_path / "x.ckpt")
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    checkpoint["callbacks"]["ChannelPruning"]["pruning"]["latency"]["scale"] = -1.0
    torch.save(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises(MisconfigurationException, match="must have a number above 0 as 'scale'"):
        trainer(tmp_path, to_latency("50%", schedule=LINEAR)).fit(Classifier(), loader(), ckpt_path=tmp_path / "x.ckpt")
