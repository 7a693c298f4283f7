"""Where the tracer's input comes from."""

import random
from typing import Any, ClassVar

import lightning as L
import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from lightning_channels import ChannelPruning
from lightning_channels.callbacks import _example
from tests.callbacks.nets import UNITS, Classifier, images, loader, trainer


class Shapes(Classifier):
    """Writes down the shapes that reach forward before training begins."""

    shapes: ClassVar[list[Any]] = []  # the class's, because tracing gives an instance its own attributes back

    def __init__(self):
        super().__init__()
        self.shapes.clear()

    def forward(self, x):
        if not self.trainer.state.stage or not self.trainer.fit_loop._combined_loader:
            self.shapes.append(tuple(x.shape))
        return self.net(x)


def prepared_with(module, pruning=None, data=None, tmp_path=None, **kwargs):
    pruning = pruning or ChannelPruning()
    trainer(tmp_path, pruning, max_steps=1).fit(module, data, **kwargs)
    assert list(pruning.mutator.current_choices) == UNITS
    return module


def test_given_inputs_win(tmp_path):
    module = Shapes()
    module.example_input_array = torch.randn(1, 3, 9, 9)
    prepared_with(module, ChannelPruning(example_inputs=torch.randn(1, 3, 12, 12)), loader(), tmp_path)
    assert module.shapes[0][2:] == (12, 12)
    prepared_with(Shapes(), ChannelPruning(example_inputs=(torch.randn(1, 3, 12, 12),)), loader(), tmp_path)
    prepared_with(Shapes(), ChannelPruning(example_inputs={"x": torch.randn(1, 3, 12, 12)}), loader(), tmp_path)


def test_example_input_array_comes_before_the_loader(tmp_path):
    module = Shapes()
    module.example_input_array = torch.randn(1, 3, 9, 9)
    prepared_with(module, None, loader(), tmp_path)
    assert module.shapes[0][2:] == (9, 9)


class Keyed(Dataset):
    def __init__(self, key):
        self.key = key

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"label": index % 4, self.key: images()[index][0]}


class Any4(Shapes):
    def training_step(self, batch, batch_idx):
        if isinstance(batch, dict):
            key = next(key for key in batch if key != "label")
            return F.cross_entropy(self(batch[key]), batch["label"])
        x = batch if isinstance(batch, torch.Tensor) else batch[0]
        return self(x[0] if isinstance(x, (list, tuple)) else x).square().mean()


@pytest.mark.parametrize("key", ["pixel_values", "image", "x"])
def test_a_dict_batch(tmp_path, key):
    module = prepared_with(Any4(), None, DataLoader(Keyed(key), batch_size=4), tmp_path)
    assert module.shapes[0][1:] == (3, 6, 6)


def test_a_dict_batch_without_a_known_key_is_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match=r"a dict with label, picture.*pixel_values.*example_input"):
        trainer(tmp_path, ChannelPruning()).fit(Any4(), DataLoader(Keyed("picture"), batch_size=4))


def test_tensor_batches_and_several_loaders(tmp_path):
    tensors = [images()[i][0] for i in range(8)]
    prepared_with(Any4(), None, DataLoader(tensors, batch_size=4), tmp_path)
    prepared_with(Any4(), None, [loader(), loader()], tmp_path)


def test_a_batch_of_something_else_is_refused(tmp_path):
    class Words(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return "word"

    with pytest.raises(MisconfigurationException, match=r"holds a str.*example_inputs="):
        trainer(tmp_path, ChannelPruning()).fit(Classifier(), DataLoader(Words(), batch_size=2))


def test_an_iterable_dataset_is_refused_and_not_consumed(tmp_path):
    class Stream(IterableDataset):
        taken = 0

        def __iter__(self):
            for item in images():
                Stream.taken += 1
                yield item

    with pytest.raises(
        MisconfigurationException, match=r"Stream.*IterableDataset.*example_input_array.*example_inputs="
    ):
        trainer(tmp_path, ChannelPruning()).fit(Classifier(), DataLoader(Stream(), batch_size=4))
    assert Stream.taken == 0
    module = Classifier()
    module.example_input_array = torch.randn(1, 3, 6, 6)
    trainer(tmp_path, ChannelPruning(), limit_train_batches=2).fit(module, DataLoader(Stream(), batch_size=4))


def test_a_generator_is_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match="would consume it"):
        _example._peek(item for item in loader())


def test_an_empty_loader_is_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match="batch sampler is empty"):
        _example._peek(DataLoader([], batch_size=2, sampler=[]))


def test_looking_at_the_loader_leaves_all_generators_as_they_were():
    class Noisy(Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return torch.rand(3), random.random()

    generator = torch.Generator().manual_seed(5)
    noisy = DataLoader(Noisy(), batch_size=4, sampler=RandomSampler(range(8), generator=generator), generator=generator)
    state = generator.get_state()
    assert _example._peek(noisy)[0].shape == (2, 3)
    assert torch.equal(generator.get_state(), state)


def test_no_worker_process_is_started():
    def refuse(worker_id):
        raise AssertionError

    assert _example._peek(loader(num_workers=2, worker_init_fn=refuse))[0].shape[0] == 2


def test_a_loader_without_a_batch_size():
    batches = [images()[i : i + 3] for i in range(0, 6, 3)]
    assert _example._peek(DataLoader(batches, batch_size=None))[0].shape[0] == 3


def test_hooks_between_loader_and_step_are_applied(tmp_path):
    class Bytes(Any4):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch[0].float() / 255, batch[1]

    data = [(torch.randint(255, (3, 6, 6), dtype=torch.uint8), 1) for _ in range(8)]
    prepared_with(Bytes(), None, DataLoader(data, batch_size=4), tmp_path)


def test_the_loader_of_a_datamodule_or_of_the_module(tmp_path):
    class Data(LightningDataModule):
        def setup(self, stage):
            self.data = images()

        def train_dataloader(self):
            return DataLoader(self.data, batch_size=4)

    class Own(Classifier):
        def train_dataloader(self):
            return loader()

    prepared_with(Classifier(), None, None, tmp_path, datamodule=Data())
    prepared_with(Own(), None, None, tmp_path)


def test_the_loader_of_the_stage_that_runs(tmp_path):
    for method in ("test", "validate"):
        pruning = ChannelPruning()
        getattr(trainer(tmp_path, pruning), method)(Classifier(), loader(), verbose=False)
        assert list(pruning.mutator.current_choices) == UNITS
    pruning = ChannelPruning()
    trainer(tmp_path, pruning).predict(Classifier(), loader())
    assert list(pruning.mutator.current_choices) == UNITS


class Parts(Classifier):
    """``forward`` gives the part more than its picture."""

    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x, scale, *, shift):
            return self.b(torch.relu(self.a(x)) * scale) + shift

    def __init__(self):
        super().__init__(nn.Conv2d(3, 6, 3))
        self.part = self.Part()

    def forward(self, x):
        return self.part(self.net(x), 2.0, shift=1.0).mean((2, 3))


@pytest.mark.parametrize("own", [True, False])
def test_the_input_of_a_submodule_is_captured(tmp_path, own):
    module = Parts()
    if own:
        module.example_input_array = torch.randn(1, 3, 7, 7)
    pruning = ChannelPruning(module="part")
    trainer(tmp_path, pruning, max_steps=1).fit(module, loader())
    assert list(pruning.mutator.current_choices) == ["a_(0, 8)_8"]
    assert not module.part._forward_pre_hooks
    assert module.part.training


def test_a_submodule_that_forward_does_not_reach_is_refused(tmp_path):
    module = Parts()
    module.other = nn.Linear(3, 3)
    with pytest.raises(MisconfigurationException, match=r"forward\(\) doesn't call the submodule"):
        trainer(tmp_path, ChannelPruning(module="other")).fit(module, loader())


class OnlyStep(Classifier):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])


def without_forward():
    """A module that calls its net in ``training_step`` only, as many do."""

    class Bare(L.LightningModule):
        training_step = OnlyStep.training_step
        configure_optimizers = Classifier.configure_optimizers

        def __init__(self):
            super().__init__()
            self.net = Classifier().net

    return Bare()


def test_without_forward_the_submodule_gets_the_batch(tmp_path):
    pruning = ChannelPruning(module="net")
    trainer(tmp_path, pruning, max_steps=1).fit(without_forward(), loader())
    assert list(pruning.mutator.current_choices) == ["0_(0, 8)_8", "3_(0, 12)_12"]


def test_without_forward_the_module_itself_is_refused(tmp_path):
    with pytest.raises(
        MisconfigurationException, match=r"Bare has no forward\(\).*ChannelPruning\(module=…\), one of 'net'"
    ):
        trainer(tmp_path, ChannelPruning()).fit(without_forward(), loader())


def test_double_precision(tmp_path):
    pruning = ChannelPruning()
    module = Classifier()
    trainer(tmp_path, pruning, max_steps=1, precision="64-true").fit(module, loader())
    assert module.net[0].weight.dtype == torch.float64
    assert list(pruning.mutator.current_choices) == UNITS
