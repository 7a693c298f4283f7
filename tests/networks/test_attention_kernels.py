"""Whichever kernel computes attention, the same units are found, and narrow it is what the exported network gives."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import invariants
import pytest
import torch
from networks import heads, map_attention, torch_attention, transformers, windows
from networks.case import tokens
from networks.checks import TOLERANCE, narrow
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from zoo import randomise

from lightning_channels import ChannelMutator, export_subnet

# --- scaled dot products ---------------------------------------------------------------------------------------------

KERNELS = [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]
SCALED = [
    transformers.AttentionByAttributes,
    transformers.GroupedQueryAttention,  # causal
    heads.GroupedNatively,
    torch_attention.MultiheadBothMasks,
    torch_attention.MultiheadCausal,
    torch_attention.MultiheadCrossing,
    torch_attention.MultiheadWithoutWeights,
    heads.NormedQueries,
    heads.RotaryHalves,
]


def prepared(plain: nn.Module, inputs: Any) -> tuple[nn.Module, ChannelMutator]:
    model, mutator = copy.deepcopy(plain), ChannelMutator()
    mutator.prepare_from_supernet(model, inputs)
    return model, mutator


def units(mutator: ChannelMutator) -> dict[str, tuple[int, bool]]:
    return {unit.name: (unit.num_channels, unit.exact) for unit in mutator.mutable_units}


def random_network(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return randomise(build()).double().eval()


@pytest.mark.parametrize("build", SCALED, ids=lambda build: build.__name__)
def test_every_kernel_of_the_processor(build: Callable[[], nn.Module]) -> None:
    """Prepared under one kernel, or with the free choice, and run under each."""
    plain, inputs = random_network(build), tokens()
    expected, mutator = prepared(plain, inputs)
    assert len(mutator.mutable_units) > 0
    narrow(mutator.mutable_units, seed=3, prefix=False)
    choices = {unit.name: unit.mutable_channel.kept.tolist() for unit in mutator.mutable_units}
    with torch.no_grad():
        outputs = invariants.run(expected, inputs)
    for kernel in KERNELS:
        with sdpa_kernel(kernel):
            model, own = prepared(plain, inputs)
            assert units(own) == units(mutator), kernel
            for unit in own.mutable_units:
                unit.keep(choices[unit.name])
            exported = invariants.check_exported(model, inputs, TOLERANCE)
        for net in (model, expected, exported):
            with sdpa_kernel(kernel), torch.no_grad():
                for one, other in zip(invariants.run(net, inputs), outputs, strict=True):
                    assert invariants.relative(one, other) <= TOLERANCE


def test_gradients_under_every_kernel() -> None:
    plain, inputs = random_network(transformers.AttentionByAttributes), tokens()
    model, mutator = prepared(plain, inputs)
    narrow(mutator.mutable_units, seed=3, prefix=True)
    exported = export_subnet(model)
    expected = invariants.gradients(exported, inputs)
    for kernel in KERNELS:
        with sdpa_kernel(kernel):
            invariants.check_gradients(model, exported, inputs, TOLERANCE)
            for name, grad in invariants.gradients(exported, inputs).items():
                assert grad is not None
                torch.testing.assert_close(grad, expected[name], rtol=1e-8, atol=1e-10)


# --- the fast path of torch's own layers -----------------------------------------------------------------------------


class Encoded(nn.Module):
    """Tokens of 5 channels through an encoder of 24 in 4 heads."""

    def __init__(self, nested: bool = True, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(24, 4, 12, batch_first=True, **options)
        self.embed, self.head = nn.Linear(5, 24), nn.Linear(24, 3)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)

    def forward(self, x: Tensor, **masks: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x), **masks))


PADDING = torch.arange(7).expand(2, 7) >= torch.tensor([[7], [4]])
CAUSAL = torch.ones(7, 7, dtype=torch.bool).triu(1)
ENCODED: dict[str, tuple[Callable[[], nn.Module], dict[str, Tensor]]] = {
    "norm last": (lambda: Encoded(nested=False), {}),
    "norm first": (lambda: Encoded(nested=False, norm_first=True), {}),
    "gelu": (lambda: Encoded(nested=False, activation="gelu"), {}),
    "mask": (lambda: Encoded(nested=False), {"mask": CAUSAL}),
    "padding": (lambda: Encoded(nested=False), {"src_key_padding_mask": PADDING}),
    "nested": (Encoded, {"src_key_padding_mask": PADDING}),
}


@contextmanager
def fast_path(enabled: bool) -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the fused operators that were called since."""
    called: list[str] = []

    def count(name: str, func: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            called.append(name)
            return func(*args)

        return counted

    for name in ("_transformer_encoder_layer_fwd", "_native_multi_head_attention"):
        monkeypatch.setattr(torch, name, count(name, getattr(torch, name)))
    return called


def keep_some_heads(mutator: ChannelMutator, seed: int, prefix: bool) -> None:
    """Half of each unit; the fast path wants an even number of heads."""
    rng = random.Random(seed)
    for unit in mutator.mutable_units:
        count = unit.num_channels // 2
        unit.keep(range(count) if prefix else sorted(rng.sample(range(unit.num_channels), count)))


@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode], ids=["no grad", "inference"])
@pytest.mark.parametrize("network", ENCODED)
def test_the_fast_path_of_an_encoder(network: str, grad: Callable[[], Any], fused: list[str]) -> None:
    """It reads ``linear1.weight`` and the like directly, and must find the narrow ones."""
    build, masks = ENCODED[network]
    plain, inputs = random_network(build), {"x": tokens(), **masks}
    # in the fast path alone, padded places of nested tensors come out as zeros
    used = ~PADDING if network == "nested" else torch.ones_like(PADDING)
    found = []
    for enabled in (True, False):
        with fast_path(enabled):
            model, mutator = prepared(plain, inputs)
        found.append(units(mutator))
    assert found[0] == found[1] == {
        "embed_(0, 24)_4": (4, False),
        "encoder.layers.0.linear1_(0, 12)_12": (12, True),
        "encoder.layers.1.linear1_(0, 12)_12": (12, True),
    }  # fmt: skip
    for prefix in (True, False):
        keep_some_heads(mutator, seed=1, prefix=prefix)
        exported = export_subnet(model)
        assert exported.encoder.layers[0].self_attn.num_heads == 2
        assert exported.encoder.layers[1].linear1.weight.shape == (6, 12)
        slow = invariants.run(exported.requires_grad_(True), inputs)[0].detach()  # with gradients there is no fast path
        fused.clear()
        with grad():
            results = {(net, on): _run(net, inputs, on) for net in (model, exported) for on in (True, False)}
        assert fused == ["_transformer_encoder_layer_fwd"] * 4  # two layers of two networks, once each
        for (net, on), result in results.items():
            assert invariants.relative(result[used], slow[used]) <= TOLERANCE, (type(net), on)
        assert invariants.relative(results[model, True], results[exported, True]) <= TOLERANCE


def _run(net: nn.Module, inputs: Any, enabled: bool) -> Tensor:
    with fast_path(enabled):
        return invariants.run(net, inputs)[0]


@pytest.mark.parametrize("weights", [True, False])
def test_the_fast_path_of_attention(weights: bool, fused: list[str]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(5, 24), nn.Linear(24, 3)
            self.attn = nn.MultiheadAttention(24, 4, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            x = self.embed(x)
            x, scores = self.attn(x, x, x, need_weights=weights)
            return (self.head(x), scores) if weights else self.head(x)

    plain, inputs = random_network(Net), tokens()
    model, mutator = prepared(plain, inputs)
    assert units(mutator) == {"embed_(0, 24)_4": (4, not weights), "attn.out_proj_(0, 24)_24": (24, True)}
    keep_some_heads(mutator, seed=1, prefix=False)
    fused.clear()
    exported = export_subnet(model)
    with torch.inference_mode():
        results = [invariants.run(net, inputs) for net in (model, exported)]
    assert fused == ["_native_multi_head_attention"] * 2
    with fast_path(False), torch.no_grad():
        results += [invariants.run(net, inputs) for net in (model, exported)]
    assert len(fused) == 2
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            assert invariants.relative(one, other) <= TOLERANCE


# --- without the package ---------------------------------------------------------------------------------------------

CODE = """
import sys
sys.modules["lightning_channels"] = None  # any import of it fails
import torch
torch.set_num_threads(1)
for path in sys.argv[1:]:
    net, inputs = torch.load(path, weights_only=False)
    with torch.no_grad():
        torch.save(net(*inputs), path + ".out")
assert not any(name.startswith("lightning_channels.") for name in sys.modules)
"""


def encoder(**options: Any) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, nn.LayerNorm(8), enable_nested_tensor=False)


SEQUENCES = (tokens(),)
STREAMS = (torch.randn(2, 7, 8, dtype=torch.float64), torch.randn(2, 4, 8, dtype=torch.float64))
STORED: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "TransformerEncoder": (lambda: nn.Sequential(nn.Linear(5, 8), encoder(), nn.Linear(8, 3)), SEQUENCES),
    "TransformerEncoder norm first": (
        lambda: nn.Sequential(nn.Linear(5, 8), encoder(norm_first=True, activation="gelu"), nn.Linear(8, 3)),
        SEQUENCES,
    ),
    "TransformerDecoder": (
        lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 12, batch_first=True), 2),
        STREAMS,
    ),
    "Transformer": (lambda: nn.Transformer(8, 2, 1, 1, 12, batch_first=True), STREAMS[::-1]),
    "Conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(7, 6, 3, padding=1), nn.Linear(5, 8), encoder(), nn.Flatten(), nn.Linear(48, 3)
        ),
        SEQUENCES,
    ),
    **{
        build.__name__: (build, SEQUENCES)
        for build in (
            torch_attention.MultiheadCrossing,
            torch_attention.MultiheadWithWeights,
            torch_attention.DecoderLayerNormFirst,
            heads.RotaryInterleaved,
            heads.GroupedByExpanding,
            heads.BareEinsum,
        )
    },
    "ShiftedWindows": (windows.ShiftedWindows, (torch.randn(2, 3, 8, 8, dtype=torch.float64),)),
    "SpatialReduction": (map_attention.SpatialReduction, (torch.randn(2, 3, 8, 8, dtype=torch.float64),)),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[Tensor], Path, int]]:
    """What each exported network gives here, the file of what it gives in a process without the package, its units."""
    folder, made = tmp_path_factory.mktemp("exported"), {}
    for number, (name, (build, inputs)) in enumerate(STORED.items()):
        model, mutator = prepared(random_network(build), inputs)
        narrow(mutator.mutable_units, seed=5, prefix=False)
        torch.save((export_subnet(model), inputs), folder / str(number))
        with torch.no_grad():
            outputs = invariants.run(model, inputs)
        made[name] = (outputs, folder / f"{number}.out", len(mutator.mutable_units))
    command = [sys.executable, "-c", CODE, *(str(folder / str(number)) for number in range(len(STORED)))]
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tests)
    assert done.returncode == 0, done.stderr
    return made


@pytest.mark.parametrize("name", STORED)
def test_exported_attention_needs_no_package(name: str, stored: dict[str, tuple[list[Tensor], Path, int]]) -> None:
    expected, path, count = stored[name]
    assert count > 0
    result = torch.load(path)
    for one, other in zip(expected, result if isinstance(result, tuple) else (result,), strict=True):
        assert invariants.relative(one, other) <= TOLERANCE
