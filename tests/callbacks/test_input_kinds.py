"""Modules of every kind of input, output, layout and precision, through a real ``Trainer.fit``."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_channels import ChannelPruning
from tests.callbacks.nets import UNITS, Classifier, conv_net, loader, trainer


@dataclasses.dataclass
class Output(OrderedDict):
    """Dict and dataclass in one, as Hugging Face's ModelOutput is."""

    loss: Tensor | None
    logits: Tensor

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)


class Encoder(nn.Module):
    """Token ids, a mask and labels in; a loss and logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(20, 8), nn.LayerNorm(8)
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 3)

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> Output:
        assert input_ids is not None
        assert not input_ids.is_floating_point()
        x = self.embed(input_ids)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        if attention_mask is not None:
            x = x * attention_mask[..., None]
        logits = self.head(x.mean(1))
        return Output(None if labels is None else F.cross_entropy(logits, labels), logits)


WORDS = ["model.embed_(0, 8)_8", "model.up_(0, 16)_16"]


class ByName(L.LightningModule):
    """The whole batch goes to ``forward`` by name."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Encoder()

    def forward(self, **batch: Any) -> Any:
        return self.model(**batch)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(**batch).loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class ByPosition(ByName):
    """``forward`` names what it takes, and takes one item less than the batch has."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        return self.model(input_ids, attention_mask, labels=labels)


class Whole(ByName):
    def forward(self, batch: Any) -> Any:
        return self.model(**batch)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch).loss


def words() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    items = [
        {
            "input_ids": torch.randint(20, (6,), generator=generator),
            "attention_mask": torch.ones(6, dtype=torch.long),
            "labels": torch.tensor(i % 3),
        }
        for i in range(8)
    ]
    return DataLoader(items, batch_size=4)


def fit(module: L.LightningModule, data: Any, path: Any, pruning: ChannelPruning | None = None, **kwargs: Any) -> Any:
    pruning = pruning or ChannelPruning()
    trainer(path, pruning, fast_dev_run=True, **kwargs).fit(module, data)
    return pruning.mutator


@pytest.mark.parametrize("module", [ByName, ByPosition, Whole])
def test_token_ids_mask_and_labels(tmp_path: Any, module: type[L.LightningModule]) -> None:
    assert list(fit(module(), words(), tmp_path).current_choices) == WORDS


def test_a_submodule_gets_what_forward_passes_by_name(tmp_path: Any) -> None:
    mutator = fit(ByPosition(), words(), tmp_path, ChannelPruning(module="model"))
    assert list(mutator.current_choices) == [name.removeprefix("model.") for name in WORDS]


def test_a_submodule_that_takes_anything_by_name(tmp_path: Any) -> None:
    class Open(Encoder):
        def forward(self, input_ids: Any = None, **rest: Any) -> Output:
            return super().forward(input_ids, **rest)

    class Module(ByPosition):
        def __init__(self) -> None:
            super().__init__()
            self.model = Open()

        def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
            return self.model(input_ids, attention_mask=attention_mask, labels=labels)

    assert fit(Module(), words(), tmp_path, ChannelPruning(module="model")).current_choices


@pytest.mark.parametrize("example", [True, False])
def test_example_inputs_by_name(tmp_path: Any, example: bool) -> None:
    module, ids = ByName(), {"input_ids": torch.zeros(1, 5, dtype=torch.long)}
    if example:
        module.example_input_array = ids
    pruning = ChannelPruning(example_inputs=None if example else ids)
    assert list(fit(module, words(), tmp_path, pruning).current_choices) == WORDS


@dataclasses.dataclass
class Sample:
    x: Tensor
    y: Tensor


class Two(L.LightningModule):
    """Two inputs of different widths that meet."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(5, 8), nn.Linear(8, 2)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, dict[str, list[Tensor]]]:
        hidden = torch.relu(self.a(left) + self.b(right))
        return self.c(hidden), {"extra": [self.c(hidden) * 2]}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(*batch[:2])[0].square().mean()

    configure_optimizers = ByName.configure_optimizers


def test_several_tensors(tmp_path: Any) -> None:
    items = [(torch.randn(3), torch.randn(5), torch.tensor(1)) for _ in range(4)]
    assert list(fit(Two(), DataLoader(items, batch_size=2), tmp_path).current_choices) == ["a_(0, 8)_8"]
    module = Two()
    module.example_input_array = (torch.randn(1, 3), torch.randn(1, 5))
    assert list(fit(module, DataLoader(items, batch_size=2), tmp_path).current_choices) == ["a_(0, 8)_8"]


def test_all_of_a_batch_by_position(tmp_path: Any) -> None:
    class Star(Two):
        def forward(self, *tensors: Tensor) -> Any:
            return super().forward(*tensors)

    items = [(torch.randn(3), torch.randn(5)) for _ in range(4)]
    assert list(fit(Star(), DataLoader(items, batch_size=2), tmp_path).current_choices) == ["a_(0, 8)_8"]


def test_a_dataclass(tmp_path: Any) -> None:
    def collate(items: list[Any]) -> Sample:
        return Sample(torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items]))

    class Module(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch.x), batch.y)

    assert list(fit(Module(), loader(collate_fn=collate), tmp_path).current_choices) == UNITS


@pytest.mark.parametrize("unpacks", [True, False])
def test_a_parameter_called_batch_is_the_batch_or_its_images(tmp_path: Any, unpacks: bool) -> None:
    class Module(Classifier):
        def forward(self, batch: Any) -> Any:
            return self.net(batch[0]) if unpacks else self.net(batch)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self(batch if unpacks else batch[0]).square().mean()

        def on_fit_start(self) -> None:
            self.found = self.net[1].running_mean.clone()

    module = Module()
    assert list(fit(module, loader(), tmp_path).current_choices) == UNITS
    assert torch.equal(module.found, torch.zeros(8))  # trying out left no trace


def test_what_fits_nothing_is_refused(tmp_path: Any) -> None:
    class Module(Classifier):
        def forward(self, picture: Tensor, scale: Tensor) -> Tensor:
            return self.net(picture) * scale

    items = [{"pixels": torch.randn(3, 6, 6), "label": 1}] * 4
    with pytest.raises(MisconfigurationException, match=r"a dict with pixels, label.*names of forward.*example_input"):
        fit(Module(), DataLoader(items, batch_size=2), tmp_path)


@pytest.mark.parametrize("late", [False, True])
def test_channels_last(tmp_path: Any, late: bool) -> None:
    class Module(Classifier):
        def __init__(self) -> None:
            super().__init__(nn.Identity() if late else conv_net().to(memory_format=torch.channels_last))

        def configure_model(self) -> None:
            if late and isinstance(self.net, nn.Identity):
                self.net = conv_net().to(memory_format=torch.channels_last)

    module = Module()
    mutator = fit(module, loader(), tmp_path)
    assert list(mutator.current_choices) == UNITS
    assert module.net[0].weight.is_contiguous(memory_format=torch.channels_last)
    mutator.set_choices({UNITS[0]: 4, UNITS[1]: 6})
    small = mutator.export(module.net)
    x = torch.randn(2, 3, 6, 6).to(memory_format=torch.channels_last)
    assert small[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(small.eval()(x), module.net.eval()(x))


@pytest.mark.parametrize("late", [False, True], ids=["init", "configure_model"])
@pytest.mark.parametrize(("precision", "dtype"), [("bf16-true", torch.bfloat16), ("64-true", torch.float64)])
def test_precisions(tmp_path: Any, precision: Any, dtype: torch.dtype, late: bool) -> None:
    """The example follows the weights' dtype at the time of preparing; token ids stay integers."""

    class Mixed(Classifier):
        def __init__(self) -> None:
            super().__init__(nn.Identity() if late else conv_net(dropout=0.0))
            self.example_input_array = (torch.randn(1, 3, 6, 6), torch.zeros(1, dtype=torch.long))
            self.build() if not late else None

        def build(self) -> None:
            self.embed, self.mix = nn.Embedding(5, 6), nn.Linear(6, 4)

        def configure_model(self) -> None:
            if late and isinstance(self.net, nn.Identity):
                self.net = conv_net(dropout=0.0)
                self.build()

        def forward(self, x: Tensor, ids: Tensor) -> Tensor:
            assert ids.dtype == torch.long
            return self.net(x) + self.mix(self.embed(ids))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(*batch), batch[1])

    module = Mixed()
    mutator = fit(module, loader(), tmp_path, precision=precision)
    assert list(mutator.current_choices) == [*UNITS, "embed_(0, 6)_6"]
    assert module.net[0].weight.dtype == dtype


def test_a_model_on_the_meta_device_is_refused_once(tmp_path: Any) -> None:
    with torch.device("meta"):
        module = Classifier(conv_net())
    with pytest.raises(MisconfigurationException, match=r"'net.0.weight' is on the meta device.*Materialise"):
        fit(module, loader(), tmp_path)
    assert type(module.net[0]) is nn.Conv2d


def test_materialised_in_configure_model(tmp_path: Any) -> None:
    class Module(Classifier):
        def configure_model(self) -> None:
            if self.net[0].weight.is_meta:
                self.net.to_empty(device="cpu")
                for layer in self.net:
                    if hasattr(layer, "reset_parameters"):
                        layer.reset_parameters()

    with torch.device("meta"):
        module = Module(conv_net())
    assert list(fit(module, loader(), tmp_path).current_choices) == UNITS
