"""The exported subnet is a plain model."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_channels.dynamic_ops import container_of, is_dynamic, make_dynamic
from lightning_channels.errors import ChoiceError, PrepareError
from lightning_channels.export import export_subnet
from lightning_channels.mutables import SquentialMutableChannel

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def register(module: nn.Module, is_output: bool, mutable: SquentialMutableChannel, ratio: int = 1) -> None:
    mutable = mutable if ratio == 1 else mutable.expand_mutable_channel(ratio)  # type: ignore[assignment]
    container_of(make_dynamic(module), is_output).register_mutable(mutable)


def supernet() -> nn.Sequential:
    """Two hidden widths, ``stem`` and ``body``; classes of torch alone, so that any process can load it."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.GroupNorm(8, 8),
        nn.Conv2d(8, 6, 1),
        nn.PReLU(6),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 5),
    )
    stem, body = SquentialMutableChannel(8, name="stem"), SquentialMutableChannel(6, name="body")
    for position, is_output in ((0, True), (1, True), (3, False), (3, True), (4, True), (5, False)):
        register(net[position], is_output, stem)
    for position, is_output in ((5, True), (6, True)):
        register(net[position], is_output, body)
    register(net[9], False, body, ratio=4)
    net(X)  # running statistics
    return net


def units(net: nn.Module) -> dict[str, SquentialMutableChannel]:
    found = {}
    for module in net.modules():
        if is_dynamic(module):
            for container in module.mutable_attrs.values():  # type: ignore[operator,union-attr]
                found |= {mutable.root.name: mutable.root for mutable in container.mutable_channels.values()}
    return found


@pytest.mark.parametrize("keep", [(3, 2), ([0, 4, 7], [1, 5]), (8, 6)], ids=["prefix", "index", "full"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_it_computes_what_the_dynamic_model_computes(keep: tuple, training: bool, dtype: torch.dtype) -> None:
    net = supernet().to(dtype).train(training)
    for mutable, channels in zip(units(net).values(), keep, strict=True):
        mutable.keep(channels)
    static = export_subnet(net)
    assert not any(is_dynamic(module) for module in static.modules())
    assert all(module.training is training for module in static.modules())
    assert {tensor.dtype for tensor in static.state_dict().values()} == {dtype, torch.int64}
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    for _ in range(2):
        assert_close(static(X.to(dtype)), net(X.to(dtype)), **tolerance)


def test_choices_are_set_in_the_copy_alone() -> None:
    net = supernet()
    units(net)["body"].current_choice = 4
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    static = export_subnet(net, {"stem": 3})
    assert static[0].weight.shape == (3, 3, 3, 3)
    assert static[3].weight.shape == (3, 1, 3, 3)
    assert (static[3].groups, static[4].num_groups, static[4].num_channels) == (3, 3, 3)
    assert static[5].weight.shape == (4, 3, 1, 1)
    assert static[9].weight.shape == (5, 16)
    assert repr(static[9]) == "Linear(in_features=16, out_features=5, bias=True)"
    assert {name: mutable.current_choice for name, mutable in units(net).items()} == {"stem": 8, "body": 4}
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    with torch.no_grad():
        for parameter in static.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_wrong_choices() -> None:
    net = supernet()
    with pytest.raises(
        ChoiceError, match=r"no mutable unit is named 'stam'; did you mean 'stem'\? The model has: stem, body"
    ):
        export_subnet(net, {"stam": 3})
    with pytest.raises(ChoiceError, match="stem cannot keep 9 channels; allowed are 1 to 8"):
        export_subnet(net, {"stem": 9})
    assert all(mutable.selection is None for mutable in units(net).values())


def test_a_plain_model_must_be_prepared_first() -> None:
    with pytest.raises(PrepareError, match="Sequential is not prepared; prepare it first"):
        export_subnet(nn.Sequential(nn.Linear(2, 2)))


def test_it_loads_where_this_package_is_not_installed(tmp_path: Path) -> None:
    net = supernet().eval()
    static = export_subnet(net, {"stem": 3, "body": 2})
    assert b"lightning_channels" not in pickle.dumps(static)
    assert b"lightning_channels" in pickle.dumps(net)  # the scan can see it
    torch.save(static, tmp_path / "static.pt")
    torch.save((X, static(X)), tmp_path / "data.pt")
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'lightning_channels':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "try:\n"
        "    import lightning_channels\n"
        "except ModuleNotFoundError:\n"
        "    pass\n"
        "else:\n"
        "    raise SystemExit('not blocked')\n"
        "import torch\n"
        "torch.set_num_threads(int(sys.argv[1]))\n"  # another number adds up in another order
        "net = torch.load('static.pt', weights_only=False)\n"
        "x, y = torch.load('data.pt')\n"
        "assert torch.equal(net(x), y)\n"
        "assert not net.training\n"
        "print(type(net[0]).__module__, type(net[0]).__name__, net[0].out_channels)\n"
    )
    command = [sys.executable, "-c", code, str(torch.get_num_threads())]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "torch.nn.modules.conv Conv2d 3\n"


def test_memory_format_hooks_and_frozen_parameters_are_kept() -> None:
    net = supernet().to(memory_format=torch.channels_last)
    net[0].weight.requires_grad_(False)
    calls: list[str] = []
    net[1].register_forward_hook(lambda *_: calls.append("norm"))
    units(net)["stem"].keep([1, 2, 6])
    static = export_subnet(net, {"body": 3})
    for position in (0, 3, 5):
        assert static[position].weight.is_contiguous(memory_format=torch.channels_last)
    assert [n for n, p in static.named_parameters() if not p.requires_grad] == ["0.weight"]
    static(X)
    assert calls == ["norm"]


class Shared(nn.Module):
    """One module under two names, and one parameter in two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.first = nn.Linear(8, 8)
        self.again = self.first
        self.decoder = nn.Linear(8, 10)
        self.decoder.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.again(self.first(self.embedding(x))))


def test_shared_modules_and_tied_parameters_stay_so() -> None:
    net = Shared().double()
    width = SquentialMutableChannel(8, name="width")
    for module, is_output in (
        (net.embedding, True),
        (net.first, False),
        (net.first, True),
        (net.decoder, False),
    ):
        register(module, is_output, width)
    words = torch.arange(10)
    for keep in (3, [0, 5, 7]):
        width.keep(keep)
        static = export_subnet(net)
        assert isinstance(static, Shared)
        assert static.first is static.again
        assert static.decoder.weight is static.embedding.weight
        assert static.decoder.weight.shape == (10, 3)
        assert len(list(static.parameters())) == len(list(net.parameters()))
        assert_close(static(words), net(words), rtol=1e-10, atol=1e-12)


class Holder(nn.Module):
    """What a LightningModule holds, without Lightning."""

    def __init__(self, net: nn.Module, trainer: object) -> None:
        super().__init__()
        self.net = net
        self._trainer = trainer
        self._fabric = None


class Trainer:
    def __deepcopy__(self, memo: dict) -> Trainer:
        raise AssertionError("the trainer was copied")


def test_the_trainer_is_left_out_and_stays_where_it_is() -> None:
    trainer = Trainer()
    model = Holder(supernet(), trainer)
    static = export_subnet(model, {"stem": 2})
    assert static._trainer is None
    assert static.net[0].out_channels == 2
    assert model._trainer is trainer
    model.net[0].trap = Trainer()  # the copy fails, and the trainer is put back all the same
    with pytest.raises(AssertionError, match="was copied"):
        export_subnet(model)
    assert model._trainer is trainer


def test_the_mutator_that_a_prepared_root_keeps_is_left_out() -> None:
    net = supernet()
    net.__dict__["_channel_mutator"] = object()
    assert "_channel_mutator" not in export_subnet(net).__dict__
    assert "_channel_mutator" in net.__dict__


def test_units_are_found_through_their_mutables() -> None:
    class Unit:
        def __init__(self, name: str, mutable: SquentialMutableChannel, is_mutable: bool) -> None:
            self.name, self.mutable, self.is_mutable = name, mutable, is_mutable
            mutable.owner = self

        @property
        def current_choice(self) -> float:
            return self.mutable.activated_channels / self.mutable.num_channels

        @current_choice.setter
        def current_choice(self, ratio: float) -> None:
            self.mutable.current_choice = round(ratio * self.mutable.num_channels)

    net = supernet()
    stem = Unit("0_(0, 8)_8", units(net)["stem"], True)
    Unit("5_(0, 6)_6", units(net)["body"], False)
    static = export_subnet(net, {"0_(0, 8)_8": 0.25})
    assert static[0].out_channels == 2
    assert stem.current_choice == 1.0
    with pytest.raises(ChoiceError, match="no mutable unit is named"):
        export_subnet(net, {"5_(0, 6)_6": 0.5})
    assert copy.deepcopy(net)[0].mutable_attrs["out_channels"].activated_channels == 8
