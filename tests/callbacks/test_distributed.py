"""Two processes on gloo: one run of a script, looked at from several sides."""

import pytest
import torch
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn import functional as F

from lightning_channels import ChannelPruning
from lightning_channels.callbacks._sync_norm import KeepDynamic
from lightning_channels.dynamic_ops import is_dynamic
from lightning_channels.mutators import ChannelMutator
from lightning_channels.samplers import generator_for
from tests.callbacks import ddp
from tests.callbacks.nets import Classifier, conv_net, loader, trainer
from tests.callbacks.ranks import found_by_ranks, run_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    run_ranks("tests.callbacks.ddp", folder)
    return folder


def ranks(folder):
    return found_by_ranks(folder)


def test_both_ranks_train_the_same_choices(folder):
    first, second = ranks(folder)
    assert len(first["choices"]) == ddp.STEPS
    assert first["choices"] == second["choices"]
    assert len({tuple(choices.values()) for choices in first["choices"]}) > 10
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(ddp.Module(), torch.randn(1, 6))
    expected = [mutator.sample_choices("random", rng=generator_for(3, 0, step)) for step in range(ddp.STEPS)]
    assert first["choices"] == expected


def test_weights_equal_a_hand_written_loop_on_the_union_of_the_batches(folder):
    first, second = ranks(folder)
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    net = ddp.mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    x, y = ddp.data()
    size = ddp.BATCH * ddp.RANKS
    for step, choices in enumerate(first["choices"]):
        a, b = choices.values()
        union = slice(step * size, (step + 1) * size)
        hidden = F.relu(F.linear(x[union], net[0].weight[:a], net[0].bias[:a]))
        hidden = F.relu(F.linear(hidden, net[2].weight[:b, :a], net[2].bias[:b]))
        optimizer.zero_grad()
        F.cross_entropy(F.linear(hidden, net[4].weight[:, :b], net[4].bias), y[union]).backward()
        optimizer.step()
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(first["weights"][f"net.{name}"], tensor, rtol=0, atol=1e-6)


def test_rank_zero_alone_writes_the_files(folder):
    assert (folder / "ddp.structure.yaml").exists()
    assert not list(folder.glob("*.tmp"))


def test_ranks_that_disagree_are_refused_on_both(folder):
    for rank in range(2):
        refusals = (folder / f"refused{rank}.txt").read_text().splitlines()
        assert len(refusals) == 4
        assert all("the ranks don't agree" in line for line in refusals)


def test_ranks_keep_the_same_strongest_channels(folder):
    first, second = (torch.load(folder / f"kept{rank}.pt", weights_only=True) for rank in range(2))
    assert first == second
    assert [len(channels) for channels in first.values()] == [1, 1]


class Synchronised(Classifier):
    """As under ``Trainer(sync_batchnorm=True)`` in several processes."""

    def __init__(self, net=None):
        super().__init__(net)
        self.other = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))

    def setup(self, stage):
        self.seen = []


def synchronising(tmp_path, *callbacks):
    """A trainer of one process whose strategy converts norms as DDP's does."""
    run = trainer(tmp_path, *callbacks, max_steps=2)
    run.strategy._layer_sync = TorchSyncBatchNorm()
    setup, teardown = run.strategy.setup, run.strategy.teardown

    def converting_setup(trainer):
        run.strategy.model = run.strategy._layer_sync.apply(run.strategy.model)
        setup(trainer)

    def reverting_teardown():
        run.strategy.model = run.strategy._layer_sync.revert(run.strategy.model)
        teardown()

    run.strategy.setup, run.strategy.teardown = converting_setup, reverting_teardown
    return run


def test_synchronised_batch_norm_stays_dynamic(tmp_path):
    module, pruning = Synchronised(), ChannelPruning(module="net", choices={"0_(0, 8)_8": 3})
    parameters = dict(module.named_parameters())
    run = synchronising(tmp_path, pruning)
    run.fit(module, loader())
    norms = [module.net[1], module.net[4]]
    assert all(isinstance(norm, nn.SyncBatchNorm) and is_dynamic(norm) for norm in norms)
    assert not isinstance(module.other[1], nn.SyncBatchNorm)
    assert not is_dynamic(module.other[1])
    assert all(parameters[name] is parameter for name, parameter in module.named_parameters())
    assert norms[0].running_mean.shape == (3,)
    assert norms[0]._buffers["running_mean"][:3].any()
    assert not norms[0]._buffers["running_mean"][3:].any()
    synchronising(tmp_path, pruning).fit(module, loader())
    assert module.net[1] is norms[0]


def test_a_checkpoint_with_synchronised_norms_fits_a_model_without(tmp_path):
    run = synchronising(tmp_path, ChannelPruning())
    run.fit(Classifier(), loader())
    run.save_checkpoint(tmp_path / "sync.ckpt")
    again = ChannelPruning(mutator=tmp_path / "sync.ckpt")
    trainer(tmp_path, again, max_epochs=2).fit(Classifier(), loader(), ckpt_path=tmp_path / "sync.ckpt")
    assert len(again.mutator.mutable_units) == 2


def test_a_model_that_was_prepared_before_is_not_silently_left_unsynchronised(tmp_path):
    module = Classifier()
    trainer(tmp_path, ChannelPruning(), max_steps=1).fit(module, loader())
    with pytest.raises(MisconfigurationException, match=r"'net\.1' isn't a SyncBatchNorm.*restore\(model\) first"):
        synchronising(tmp_path, ChannelPruning()).fit(module, loader())
    ChannelPruning.restore(module)
    synchronising(tmp_path, ChannelPruning()).fit(module, loader())
    assert isinstance(module.net[1], nn.SyncBatchNorm)


def test_the_decorated_conversion_does_what_lightning_does_to_plain_norms():
    plain, ours = conv_net(), conv_net()
    TorchSyncBatchNorm().apply(plain)
    KeepDynamic(TorchSyncBatchNorm()).apply(ours)
    assert [type(layer) for layer in ours] == [type(layer) for layer in plain]
    KeepDynamic(TorchSyncBatchNorm()).revert(ours)
    assert not any(isinstance(layer, nn.SyncBatchNorm) for layer in ours)
