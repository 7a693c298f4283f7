"""Going on from a checkpoint in the midst of a pruning: what is computed then is what would have been computed."""

from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from tests.callbacks.noise import BATCHES, EPOCHS, loader, saving, train
from tests.callbacks.pruned import BySignedGradients, kept, pruning

SCHEDULE = {"type": "linear", "start_step": 1, "end_step": 11}

# arguments of the callback and of the trainer
RUNS = {
    "l1": ({}, {}),
    "taylor": ({"criterion": "taylor"}, {}),
    "fisher, greedy": ({"criterion": "fisher", "schedule": {"type": "greedy", "interval": 2}}, {}),
    "running means": (lambda: {"criterion": BySignedGradients()}, {}),
    "frozen teacher": ({"distillation": {}, "schedule": {**SCHEDULE, "type": "cubic"}}, {}),
    "live teacher": ({"distillation": {}, "recovery": {"teacher": "live"}}, {}),
    "accumulated": ({"criterion": "taylor", "schedule": {**SCHEDULE, "end_step": 5}}, {"accumulate_grad_batches": 2}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, name):
    arguments, options = RUNS[name]

    def ours():
        return pruning(**{"schedule": SCHEDULE, **(arguments() if callable(arguments) else arguments)})

    run = partial(train, **options)
    straight = run(tmp_path / "diary", loader(), *saving(tmp_path), seed=1, pruning=(first := ours()))
    assert len({str(entry["choices"]) for entry in straight}) > 3
    for checkpoint in ("2", "5", "end6", "9") if not options else ("2", "4", "end6"):
        resumed = run(
            tmp_path / f"diary{checkpoint}",
            loader(),
            seed=2,
            checkpoint=tmp_path / f"{checkpoint}.ckpt",
            pruning=(again := ours()),
        )
        assert 0 < len(resumed) < len(straight)
        assert resumed == straight[-len(resumed) :], checkpoint
        assert kept(again) == kept(first)


def test_the_same_callback_can_resume(tmp_path):
    ours = pruning(schedule=SCHEDULE, criterion="taylor", distillation={})
    straight = train(tmp_path / "diary", loader(), *saving(tmp_path), seed=1, pruning=ours)
    resumed = train(tmp_path / "again", loader(), seed=2, checkpoint=tmp_path / "5.ckpt", pruning=ours)
    assert resumed == straight[5:]


def test_a_finished_pruning_is_only_fine_tuned_further(tmp_path):
    ours = pruning(schedule=SCHEDULE)
    straight = train(tmp_path / "diary", loader(), *saving(tmp_path), seed=1, pruning=ours)
    assert len(straight) == EPOCHS * BATCHES
    more = train(
        tmp_path / "more", loader(), seed=2, checkpoint=tmp_path / "18.ckpt", pruning=ours, max_epochs=EPOCHS + 1
    )
    assert len(more) == BATCHES
    assert {str(entry["choices"]) for entry in more} == {str(straight[-1]["choices"])}


def test_a_checkpoint_from_before_is_pruned_from_the_beginning(tmp_path):
    save = ModelCheckpoint(tmp_path, "plain", save_last=False)
    train(tmp_path / "plain", loader(), save, seed=1, max_epochs=1)
    ours = pruning(schedule={"type": "linear", "start_step": 8, "end_step": 12})
    done = train(tmp_path / "diary", loader(), seed=1, checkpoint=tmp_path / "plain.ckpt", pruning=ours)
    assert done[1]["step"][-1] == 8
    widths = [sum(entry["choices"].values()) for entry in done]
    assert widths[1] == 20 > widths[6] == widths[-1]


def test_the_checkpoint_is_plain_data(tmp_path):
    ours = pruning(schedule=SCHEDULE, criterion="taylor", distillation={})
    train(tmp_path / "diary", loader(), *saving(tmp_path), seed=1, pruning=ours)
    state = torch.load(tmp_path / "5.ckpt", weights_only=True)["callbacks"]["ChannelPruning"]
    assert set(state["pruning"]) == {"pruner", "progress", "teacher"}
    assert 0 < state["pruning"]["progress"] < 1
