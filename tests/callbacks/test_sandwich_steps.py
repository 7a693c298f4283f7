"""What a training step may look like under the sandwich rule, and what it leaves behind."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointError, checkpoint

from lightning_channels import ChannelPruning, ResourceCounter
from lightning_channels.samplers import passes_of
from tests.callbacks.nets import conv_net, loader, trainer
from tests.callbacks.sandwich import (
    BATCHES,
    SANDWICH,
    ByHand,
    Net,
    Plain,
    PlainByHand,
    check,
    drawn,
    fit,
    soft,
    squares,
)


class Logging(Net):
    """Logs the loss and the accuracy of what it computes, and returns more than a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[float, float]] = []
        self.calls = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.calls += 1
        logits = self.net(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        self.log("train_loss", loss)
        self.log("train_acc", (logits.argmax(1) == batch[1]).float().mean())
        return {"loss": loss, "logits": logits.detach()}


class Logged(L.Callback):
    """The metrics after each batch, and what the step returned."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []
        self.outputs: list[Any] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *args: Any) -> None:
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.outputs.append(outputs)


@pytest.mark.parametrize("memory", ["fast", "lean"])
def test_what_a_step_logs_is_that_of_the_widest(tmp_path: Path, memory: str) -> None:
    logged, module = Logged(), Logging()
    fit(tmp_path, module, epochs=1, memory=memory, callbacks=(logged,))
    assert module.calls == len(BATCHES)
    widest = Net().net.train()
    logits = widest(BATCHES[0][0])
    first = logged.metrics[0]
    assert first["train_loss"] == pytest.approx(F.cross_entropy(logits, BATCHES[0][1]).item(), rel=1e-6)
    assert first["train_acc"] == pytest.approx(float((logits.argmax(1) == BATCHES[0][1]).float().mean()))
    assert logged.outputs[0]["logits"].shape == (4, 4)


@pytest.mark.parametrize("memory", ["fast", "lean"])
def test_a_net_that_is_called_twice(tmp_path: Path, memory: str) -> None:
    """Two views of a batch: each call has a narrow twin."""

    class Twice(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            flipped = self.net(batch[0].flip(-1))
            return F.cross_entropy(self.net(batch[0]), batch[1]) + F.cross_entropy(flipped, batch[1])

    class TwiceByHand(ByHand):
        def forward(self, x: Tensor, widths: list[int]) -> Tensor:
            flipped = super().forward(x.flip(-1), widths)
            return torch.stack([super().forward(x, widths), flipped])

    def entropy(outputs: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(outputs[0], batch[1]) + F.cross_entropy(outputs[1], batch[1])

    module, pruning = fit(tmp_path, Twice(), memory=memory, distillation=squares)
    by_hand = TwiceByHand(lambda a, b, batch: squares(a[0], b[0]) + squares(a[1], b[1]))
    passes = drawn(pruning)
    for epoch in range(2):
        for number, batch in enumerate(BATCHES):
            widths = passes(epoch, number)
            widest = by_hand.forward(batch[0], widths[0])
            loss = entropy(widest, batch)
            for own in widths[1:]:
                loss = loss + by_hand.term(by_hand.forward(batch[0], own), widest.detach(), batch)
            loss.backward()
            by_hand.optimizer.step()
            by_hand.optimizer.zero_grad()
    check(module, by_hand.net)


@pytest.mark.parametrize("memory", ["fast", "lean"])
def test_the_module_itself_may_be_called(tmp_path: Path, memory: str) -> None:
    """``self(x)``, with the callback on the whole module."""
    module, _ = fit(tmp_path, module=Net(), memory=memory)
    whole = Net()
    other = ChannelPruning(sampler=SANDWICH, seed=4, memory=memory)  # type: ignore[arg-type]
    trainer(tmp_path, other, max_epochs=2).fit(whole, loader(shuffle=False))
    check(module, whole.net)


def test_a_net_on_what_came_of_it_is_refused(tmp_path: Path) -> None:
    class Chained(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            features = self.net[:6](batch[0])
            return F.cross_entropy(self.net[6:](features), batch[1])

    with pytest.raises(MisconfigurationException, match="Put the calls into one module's forward"):
        fit(tmp_path, Chained())


def test_a_step_that_calls_nothing_prunable_is_refused(tmp_path: Path) -> None:
    class Elsewhere(Net):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(3, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.other(batch[0].mean((2, 3))), batch[1])

    with pytest.raises(MisconfigurationException, match="called nothing that can be narrow"):
        fit(tmp_path, Elsewhere())


def test_manual_optimization_is_refused(tmp_path: Path) -> None:
    module = Net()
    module.automatic_optimization = False
    with pytest.raises(MisconfigurationException, match="needs automatic optimization"):
        fit(tmp_path, module)
    assert type(module.net[0]) is nn.Conv2d


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_skipped_step_has_no_passes(tmp_path: Path) -> None:
    class Skipping(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx % 2 else loss

    module, pruning = fit(tmp_path, Skipping(), epochs=1)
    by_hand = ByHand(soft)
    passes = drawn(pruning)
    expected = by_hand.train(lambda epoch, number: passes(epoch, 2 * number), 1, BATCHES[::2])
    # batch norm has seen the skipped batches too
    for own, other in zip(module.net.parameters(), expected.parameters(), strict=True):
        assert ((own - other).abs().max() / other.abs().max()).detach().item() <= 1e-6


@pytest.mark.parametrize("memory", ["fast", "lean"])
def test_inputs_that_other_modules_computed(tmp_path: Path, memory: str) -> None:
    class Stem(Net):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 3, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(self.stem(batch[0])), batch[1])

    if memory == "lean":
        with pytest.raises(MisconfigurationException, match="memory='lean' runs a backward pass for each width"):
            fit(tmp_path, Stem(), memory=memory)
        return
    module, _ = fit(tmp_path, Stem(), memory=memory, epochs=1)
    assert not torch.equal(module.stem.weight, Stem().stem.weight)


# --- leaving no trace


class Failing(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch_idx == 2:
            raise RuntimeError("as planned")
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("module", [Net(), Failing()], ids=["end", "exception"])
def test_nothing_is_left_behind(tmp_path: Path, module: Any) -> None:
    before = set(module.__dict__)
    pruning = ChannelPruning(sampler=SANDWICH, module="net")
    run = trainer(tmp_path, pruning)
    if isinstance(module, Failing):
        with pytest.raises(RuntimeError, match="as planned"):
            run.fit(module, loader(shuffle=False))
    else:
        run.fit(module, loader(shuffle=False))
    assert "training_step" not in module.__dict__
    assert set(module.__dict__) - before <= {"_hparams"}  # which is Lightning's
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert set(pruning.mutator.current_choices.values()) == {8, 12}


def test_a_copy_made_in_the_middle_is_a_plain_module(tmp_path: Path) -> None:
    copies: list[Any] = []

    class Copying(L.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
            copies.append(copy.deepcopy(module))

    module, _ = fit(tmp_path, epochs=1, callbacks=(Copying(),))
    twin = copies[0]
    assert twin.training_step.__func__ is Net.training_step
    assert twin.training_step.__self__ is twin
    assert twin.net(BATCHES[0][0]).shape == (4, 4)
    assert module is not twin


def test_only_one_callback_runs_several_passes(tmp_path: Path) -> None:
    class Two(Net):
        def __init__(self) -> None:
            super().__init__()
            self.second = conv_net(dropout=0.0)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]) + self.second(batch[0]), batch[1])

    pair = [ChannelPruning(sampler=SANDWICH, module=name) for name in ("net", "second")]
    with pytest.raises(MisconfigurationException, match="only one callback can run several passes"):
        trainer(tmp_path, *pair).fit(Two(), loader())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": "small"}, "memory must be 'fast' or 'lean', got 'small'"),
        ({"distillation": {"temperatur": 2}}, "temperatur"),
        ({"distillation": {"loss": "k"}}, "unknown loss 'k'"),
        ({"distillation": {"temperature": 0}}, "temperature must be a number above 0, got 0"),
        ({"distillation": {"soft": 0.0}}, "learn nothing"),
        ({"distillation": {"outputs": 1.5}}, "outputs must be a function, a name or a place"),
        ({"distillation": 3}, "distillation must be a dict"),
        ({"sampler": {"type": "sandwich", "n_random": -1}}, "n_random must be an integer of at least 0"),
        ({"sampler": {"type": "sandwich", "reduction": "avg"}}, "reduction must be 'sum' or 'mean'"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        ChannelPruning(**options)


def test_outputs_without_logits_are_explained(tmp_path: Path) -> None:
    class Wordy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = conv_net(dropout=0.0)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"scores": self.inner(x)}

    class Module(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = Wordy()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0])["scores"], batch[1])

    with pytest.raises(MisconfigurationException, match=r"'kl' needs logits .* the net returned dict"):
        fit(tmp_path, Module())
    fit(tmp_path, Module(), epochs=1, distillation={"outputs": "scores"})


def test_the_widths_are_those_of_the_sampler(tmp_path: Path) -> None:
    seen: list[list[int]] = []

    def note(module: nn.Module, args: Any, out: Tensor) -> None:
        if seen:
            seen[-1].append(out.shape[1])

    class Watching(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net[0].register_forward_hook(note)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            seen.append([])
            return super().training_step(batch, batch_idx)

    _, pruning = fit(tmp_path, Watching(), epochs=1)
    passes = drawn(pruning)
    assert seen == [[widths[0] for widths in passes(0, number)] for number in range(len(BATCHES))]
    assert {widths[0] for widths in seen} == {8}
    assert {widths[1] for widths in seen} == {2}
    assert len({widths[2] for widths in seen}) > 1


@pytest.mark.parametrize("memory", ["fast", "lean"])
def test_the_logged_share_is_the_average_of_the_passes(tmp_path: Path, memory: str) -> None:
    logged = Logged()
    _, pruning = fit(tmp_path, epochs=1, memory=memory, callbacks=(logged,))
    counter = ResourceCounter(pruning.mutator)
    for number, metrics in enumerate(logged.metrics):
        shares = []
        for choices in passes_of(pruning.sampler, pruning.mutator, seed=4, epoch=0, batch_idx=number):
            pruning.mutator.set_choices(choices)
            shares.append(counter.active_params() / counter.total_params)
        assert metrics["channels/params"] == pytest.approx(sum(shares) / len(shares))


def test_a_compiled_net_is_watched_from_outside(tmp_path: Path) -> None:
    class Compiled(Net):
        def __init__(self) -> None:
            super().__init__()
            self.fast = torch.compile(self.net, backend="eager")

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.fast(batch[0]), batch[1])

    module, pruning = fit(tmp_path, Compiled(), epochs=1)
    check(module, ByHand(soft).train(drawn(pruning), 1, BATCHES), relative=1e-5)


def test_a_net_that_fails_and_is_called_again(tmp_path: Path) -> None:
    """An exception that the step handles leaves the watch in order."""

    class Trying(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            with contextlib.suppress(RuntimeError):
                self.net(batch[0][:, :1])
            return super().training_step(batch, batch_idx)

    module, pruning = fit(tmp_path, Trying())
    check(module, ByHand(soft).train(drawn(pruning), 2, BATCHES))


class Kept(nn.Sequential):
    """Computes its first half again in the backward pass."""

    def first(self, x: Tensor) -> Tensor:
        for module in list(self)[:6]:
            x = module(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.first, x, use_reentrant=False)
        for module in list(self)[6:]:
            x = module(x)
        return x


def test_lean_passes_go_with_activation_checkpointing(tmp_path: Path) -> None:
    class Module(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.net = Kept(*self.net)

    module, pruning = fit(tmp_path, Module(), memory="lean")
    check(module, PlainByHand(soft).train(drawn(pruning), 2, BATCHES))
    with pytest.raises(CheckpointError):  # one backward pass for all would compute it again at the last width
        fit(tmp_path, Module(), memory="fast")
