"""A subnet goes into two files and comes back as the original class, computing the same."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_channels import (
    ChannelMutator,
    ChannelPruning,
    SlimmableChannelMutator,
    export_subnet,
    export_weights,
    load_subnet,
    save_subnet,
    supernet_hash,
)
from lightning_channels._plain import read_file
from lightning_channels.dynamic_ops import is_dynamic
from lightning_channels.errors import ChoiceError, ConfigError, PrepareError
from tests.artifacts.nets import Small, images, prepared
from tests.files.nets import GROUPED, HEADS, STEM, Net, facts, inputs, net, structure
from tests.zoo import Tokens, randomise


def supernet() -> tuple[Net, ChannelMutator]:
    model = net().eval()
    mutator = ChannelMutator.from_structure(structure())
    mutator.prepare_from_supernet(model)
    return model, mutator


@pytest.mark.parametrize("choices", [None, {STEM: 2, HEADS: 1}, {STEM: [1, 3, 5, 7], GROUPED: [0, 2, 4, 6]}])
def test_it_comes_back_from_the_class(choices: Any, tmp_path: Path) -> None:
    model, mutator = supernet()
    before, state = mutator.structure(), facts(model)
    path = save_subnet(model, tmp_path / "best", choices, metrics={"val_acc": torch.tensor(0.25), "loss": 3})
    assert path == tmp_path / "best" / "subnet.yaml"
    assert sorted(os.listdir(path.parent)) == ["subnet.safetensors", "subnet.yaml"]
    assert (mutator.structure(), facts(model)) == (before, state)

    small = load_subnet(Net, path)
    assert type(small) is Net
    assert small.training  # as the class makes it
    assert not any(is_dynamic(module) for module in small.modules())
    mutator.set_choices(choices or {})
    twin = export_subnet(model)
    assert [(n, t.shape, t.dtype) for n, t in small.state_dict().items()] == [
        (n, t.shape, t.dtype) for n, t in twin.state_dict().items()
    ]
    assert torch.equal(small.eval()(inputs()), twin(inputs()))
    assert_close(small(inputs()), model(inputs()), rtol=1e-5, atol=1e-6)

    data = read_file(path)
    assert data["choices"] == mutator.current_choices
    assert data.get("kept", {}) == mutator.kept_channels()
    assert data["supernet"] == supernet_hash(mutator) == supernet_hash(supernet()[1])
    assert data["metrics"] == {"val_acc": 0.25, "loss": 3}
    assert data["resources"]["params"] == sum(p.numel() for p in small.parameters())


def test_hashes_tell_supernets_apart() -> None:
    _, mutator = supernet()
    mine = supernet_hash(mutator)
    mutator.set_choices(mutator.sample_choices("min"))
    mutator.name2unit[STEM].rank([0, 1, 2, 3, 4, 5, 6, 7])
    assert supernet_hash(mutator) == mine
    for change in ({"default_args": {"divisor": 2}}, {"type": "RankedMutableChannelUnit"}):
        other = ChannelMutator({"type": "SequentialMutableChannelUnit", **change})
        other.prepare_from_supernet(net(), inputs())
        assert supernet_hash(other) != mine
    traced_with_more = ChannelMutator("SequentialMutableChannelUnit")
    traced_with_more.prepare_from_supernet(net(), torch.cat([inputs(), inputs()]))
    assert traced_with_more.costs != mutator.costs
    assert supernet_hash(traced_with_more) == mine
    with pytest.raises(PrepareError, match="no model is prepared"):
        supernet_hash(ChannelMutator())


def test_the_models_own_weights_are_narrowed(tmp_path: Path) -> None:
    model, _ = supernet()
    path = save_subnet(model, tmp_path / "a.json", {STEM: [1, 2, 5, 6]}, weights=False)
    assert os.listdir(tmp_path) == ["a.json"]
    fresh = net().eval()
    before = facts(fresh)
    small = load_subnet(fresh, path)
    assert facts(fresh) == before
    assert torch.equal(small.stem.weight, fresh.stem.weight[[1, 2, 5, 6]])  # type: ignore[union-attr,arg-type]
    assert_close(small(inputs()), export_subnet(model, {STEM: [1, 2, 5, 6]})(inputs()))
    small.stem.weight.data.zero_()  # type: ignore[union-attr,operator]
    assert facts(fresh) == before

    save_subnet(model, path)  # now with weights, which are taken unless told otherwise
    torch.manual_seed(5)
    other = Net().eval()
    assert torch.equal(load_subnet(other, path).head.bias, model.head.bias)  # type: ignore[arg-type]
    assert torch.equal(load_subnet(other, path, weights=False).head.bias, other.head.bias)  # type: ignore[arg-type]


def test_weights_after_a_fine_tuning(tmp_path: Path) -> None:
    model, _ = supernet()
    path = save_subnet(model, tmp_path, weights=False)
    small = export_subnet(model).train()
    optimizer = torch.optim.SGD(small.parameters(), 0.1)
    small(inputs()).square().sum().backward()
    optimizer.step()
    small.eval()
    tuned = export_weights(small, tmp_path / "tuned.safetensors")
    assert torch.equal(load_subnet(Net, path, tuned).eval()(inputs()), small(inputs()))


# --- kinds of models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_other_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    model = Small()
    mutator = prepared(model, images(), "last")
    model.to(dtype).eval()
    small = load_subnet(Small, save_subnet(model, tmp_path)).eval()
    assert {t.dtype for t in small.state_dict().values()} == {dtype, torch.int64}
    assert torch.equal(small(images().to(dtype)), mutator.export()(images().to(dtype)))


def test_two_dtypes(tmp_path: Path) -> None:
    model = Small()
    prepared(model, images())
    model.head.double()
    small = load_subnet(Small, save_subnet(model, tmp_path))
    assert (small.stem.weight.dtype, small.head.weight.dtype) == (torch.float32, torch.float64)  # type: ignore[union-attr]
    assert torch.equal(small.head.weight, export_subnet(model).head.weight)  # type: ignore[arg-type,union-attr]


def test_channels_last(tmp_path: Path) -> None:
    model: Any = Small().eval().to(memory_format=torch.channels_last)
    mutator = prepared(model, images(), "last")
    path = save_subnet(model, tmp_path)
    plain: Any = load_subnet(Small, path).eval()
    last: Any = load_subnet(Small().to(memory_format=torch.channels_last), path).eval()
    for small, format_ in ((plain, torch.contiguous_format), (last, torch.channels_last)):
        assert small.stem.weight.is_contiguous(memory_format=format_)
        assert torch.equal(small.stem.weight, mutator.export().stem.weight)  # type: ignore[arg-type,union-attr]


def test_tied_weights_are_there_once_and_stay_tied(tmp_path: Path) -> None:
    model = Tokens().eval()
    ids = torch.arange(12).reshape(2, 6)
    mutator = prepared(model, ids, "last")
    path = save_subnet(model, tmp_path)
    assert "head.weight" not in load_file(path.with_suffix(".safetensors"))
    small: Any = load_subnet(Tokens, path).eval()
    assert small.head.weight is small.embed.weight
    assert torch.equal(small(ids)[0], mutator.export()(ids)[0])


class Untied(Tokens):
    def __init__(self) -> None:
        super().__init__()
        self.head.weight = nn.Parameter(self.head.weight.detach().clone())


def test_weights_of_a_tied_model_are_no_weights_of_an_untied_one(tmp_path: Path) -> None:
    model = Tokens()
    prepared(model, torch.arange(12).reshape(2, 6))
    path = save_subnet(model, tmp_path)
    with pytest.raises(ConfigError, match=r"embed|head"):
        load_subnet(Untied, path)


def test_switchable_norms(tmp_path: Path) -> None:
    mutator = SlimmableChannelMutator({"default_args": {"candidate_choices": [4, 8], "choice_mode": "number"}})
    model = Small()
    mutator.prepare_from_supernet(model, images())
    for number in range(2):  # each candidate gets statistics of its own
        mutator.set_subnet(number)
        model(images() * (number + 2))
    model.eval()
    for number in range(2):
        mutator.set_subnet(number)
        small: Any = load_subnet(Small, save_subnet(model, tmp_path)).eval()
        assert type(small.norm) is nn.BatchNorm2d
        assert torch.equal(small(images()), mutator.export()(images()))


class Lit(L.LightningModule):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 4, 1))
        self.table = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[1](self.net[0](x)) * self.table[:, None, None])


def test_a_lightning_module(tmp_path: Path) -> None:
    model = Lit(6).eval()
    mutator = prepared(model, images(), "last")
    small: Any = load_subnet(lambda: Lit(width=6), save_subnet(model, tmp_path)).eval()
    assert (type(small), small.table.shape) == (Lit, (3,))
    assert torch.equal(small(images()), mutator.export()(images()))


def test_code_with_sizes_in_it(tmp_path: Path) -> None:
    """A reshape by a number that the class keeps: it is cut with the channels."""

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(4, 12), nn.Linear(12, 2)
            self.heads, self.size = 3, 4

        def forward(self, x: Tensor) -> Tensor:
            parts = self.stem(x).view(len(x), self.heads, self.size)
            return self.head((parts * parts.softmax(2)).flatten(1))

    x = torch.randn(2, 4)
    model: Any = randomise(Split().eval())
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, x)
    mutator.set_choices(mutator.sample_choices("min"))
    small: Any = load_subnet(Split, save_subnet(model, tmp_path)).eval()
    assert small.heads * small.size == small.stem.out_features < 12
    assert_close(small(x), model(x))


class Versioned(nn.Linear):
    """Loads by the version in the state dict's metadata, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any) -> None:
        assert local_metadata["version"] == 2
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def test_a_model_that_asks_for_the_version_of_its_state_dict(tmp_path: Path) -> None:
    def make() -> nn.Sequential:
        return nn.Sequential(Versioned(4, 8), nn.ReLU(), nn.Linear(8, 2))

    model, x = make(), torch.randn(2, 4)
    mutator = prepared(model, x, "last")
    assert torch.equal(load_subnet(make, save_subnet(model, tmp_path))(x), mutator.export()(x))


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_failure_leaves_the_files_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, mutator = supernet()
    path = save_subnet(model, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def refuse(*_: Any) -> None:
        raise OSError("no space")

    monkeypatch.setattr("lightning_channels._files.os.replace", refuse)
    with pytest.raises(OSError, match="no space"):
        save_subnet(model, path, {STEM: 2})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert mutator.current_choices == structure()["choices"]


def test_weights_that_were_written_before_their_file_are_noticed(tmp_path: Path) -> None:
    """What a crash between the two files leaves."""
    model, _ = supernet()
    path = save_subnet(model, tmp_path)
    old = path.read_text()
    save_subnet(model, tmp_path, {STEM: [0, 3, 4, 7]})
    path.write_text(old)
    with pytest.raises(ConfigError, match="holds the weights of another subnet"):
        load_subnet(Net, path)


def test_what_is_refused(tmp_path: Path) -> None:
    model, _ = supernet()
    path = save_subnet(model, tmp_path / "good")
    for call, error, message in (
        (lambda: save_subnet(net(), tmp_path), PrepareError, "Net has no mutator"),
        (lambda: save_subnet(export_subnet(model), tmp_path), PrepareError, "written by export_weights"),
        (lambda: save_subnet(nn.Sequential(model), tmp_path), PrepareError, r"'0'; save that one"),
        (lambda: save_subnet(Net, tmp_path), ConfigError, "takes a prepared model, got type"),  # type: ignore[arg-type]
        (lambda: save_subnet(model, tmp_path / "a.pt"), ConfigError, "writes a folder with subnet.yaml, or a .yaml"),
        (lambda: save_subnet(model, path.with_suffix(".safetensors")), ConfigError, "writes a folder"),
        (lambda: save_subnet(model, tmp_path, {"stam": 2}), ChoiceError, "no mutable unit is named 'stam'"),
        (lambda: save_subnet(model, tmp_path, metrics={"a": float("nan")}), ConfigError, "must be finite numbers"),
        (lambda: save_subnet(model, tmp_path, metrics=[1]), ConfigError, "must be a dict"),  # type: ignore[arg-type]
        (lambda: load_subnet("Net", path), ConfigError, "takes a model, its class or a function"),  # type: ignore[arg-type]
        (lambda: load_subnet(lambda: 5, path), ConfigError, "must make an nn.Module, got a int"),  # type: ignore[arg-type,return-value]
        (lambda: load_subnet(model, path), PrepareError, "the model is prepared already"),
        (lambda: load_subnet(Net, tmp_path / "none.yaml"), ConfigError, "cannot read"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert os.listdir(tmp_path) == ["good"]
    path.with_suffix(".safetensors").unlink()
    with pytest.raises(ConfigError, match=r"names the weights subnet\.safetensors, which aren't beside it"):
        load_subnet(Net, path)
    save_subnet(model, path, weights=False)
    with pytest.raises(ConfigError, match="names no weights"):
        load_subnet(Net, path, weights=True)


def test_a_copy_of_a_prepared_model_is_saved_alike(tmp_path: Path) -> None:
    model, _ = supernet()
    first = save_subnet(model, tmp_path / "a").read_bytes()
    assert save_subnet(copy.deepcopy(model), tmp_path / "b").read_bytes() == first


@pytest.mark.parametrize("mode", ["number", "ratio"])
def test_its_choices_can_be_trained_with(mode: str, tmp_path: Path) -> None:
    """The file says which channels, whatever choices are in."""
    mutator = ChannelMutator({"type": "SequentialMutableChannelUnit", "default_args": {"choice_mode": mode}})
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    mutator.prepare_from_supernet(model, torch.randn(1, 4))
    (unit,) = mutator.mutable_units
    path = save_subnet(model, tmp_path, {unit.name: [1, 3, 4]})
    pruning = ChannelPruning(choices=path, eval_choices=str(path))
    drawn = pruning.sampler.choices(mutator, seed=0, epoch=0, batch_idx=0)
    assert drawn == pruning.eval_choices == {unit.name: [1, 3, 4]}
    mutator.set_choices(drawn)
    assert mutator.kept_channels() == {unit.name: [1, 3, 4]}
