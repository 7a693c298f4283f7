"""Checkpoints that are whole, and the newest of them."""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from lightning_channels import ChannelPruning, newest_checkpoint
from tests.callbacks.nets import Classifier, loader, trainer
from tests.callbacks.noise import saving


@pytest.fixture
def folder(tmp_path):
    """``2.ckpt``, ``4.ckpt`` and ``6.ckpt``."""
    run = trainer(tmp_path, ChannelPruning(), saving(tmp_path / "c", every=2)[0])
    run.fit(Classifier(), loader())
    return tmp_path / "c"


def damaged(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut off":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = bytearray()
    elif how == "a bit":
        content[len(content) // 2] ^= 1
    else:
        content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    path.write_bytes(content)


def test_steps_count_and_not_times(folder):
    assert newest_checkpoint(folder) == str(folder / "6.ckpt")
    os.utime(folder / "2.ckpt")
    assert newest_checkpoint(str(folder)) == str(folder / "6.ckpt")
    (folder / "6.ckpt").rename(folder / "a.ckpt")
    assert newest_checkpoint(folder) == str(folder / "a.ckpt")


def test_of_equal_steps_the_one_written_last_counts(folder):
    for name, age in (("epoch_end.ckpt", 0), ("before.ckpt", 100)):
        shutil.copy(folder / "6.ckpt", folder / name)
        os.utime(folder / name, (2e9 - age, 2e9 - age))
    assert newest_checkpoint(folder) == str(folder / "epoch_end.ckpt")


@pytest.mark.parametrize("how", ["cut off", "empty", "a bit", "zeros"])
def test_damaged_ones_are_passed_over(folder, how):
    damaged(folder / "6.ckpt", how)
    with pytest.warns(UserWarning, match=r"6\.ckpt is passed over, since it isn't a whole checkpoint"):
        assert newest_checkpoint(folder) == str(folder / "4.ckpt")
    damaged(folder / "4.ckpt", how)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert newest_checkpoint(folder) == str(folder / "2.ckpt")
    assert len(caught) == 2


def test_what_cannot_be_resumed_from_is_passed_over(folder):
    checkpoint = torch.load(folder / "6.ckpt", weights_only=True)
    torch.save({**checkpoint, "global_step": 9}, folder / ".9.ckpt.123.lightning_channels.tmp")
    torch.save({key: checkpoint[key] for key in ("global_step", "state_dict", "loops")}, folder / "weights.ckpt")
    torch.save(checkpoint["state_dict"], folder / "state_dict.ckpt")
    assert newest_checkpoint(folder) == str(folder / "6.ckpt")


def test_nothing_is_a_start_anew(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "none") is None
    run = trainer(tmp_path, ChannelPruning(), max_steps=1)
    run.fit(Classifier(), loader(), ckpt_path=newest_checkpoint(tmp_path))
    assert run.global_step == 1


class Code:
    """Runs when it is unpickled; saved under hyperparameters, say."""

    def __reduce__(self):
        return exec, ("raise SystemExit('run')",)


def test_nothing_in_a_checkpoint_is_run(folder):
    checkpoint = torch.load(folder / "6.ckpt", weights_only=True)
    things = {"code": Code(), "set": {1}, "path": Path("x"), "dtype": torch.float32, "list": [Code()]}
    torch.save({**checkpoint, "global_step": 9, "hyper_parameters": things}, folder / "other.ckpt")
    assert newest_checkpoint(folder) == str(folder / "other.ckpt")


def test_remote_folders(tmp_path):
    import fsspec

    run = trainer(tmp_path, ChannelPruning())
    run.fit(Classifier(), loader())
    run.save_checkpoint("memory://newest/some.ckpt")
    fsspec.filesystem("memory").pipe("/newest/cut.ckpt", b"PK")
    with pytest.warns(UserWarning, match=r"cut\.ckpt is passed over"):
        assert newest_checkpoint("memory://newest") == "memory:///newest/some.ckpt"
    again = trainer(tmp_path, ChannelPruning(), max_epochs=2)
    again.fit(Classifier(), loader(), ckpt_path="memory:///newest/some.ckpt")
    assert again.current_epoch == 2


class Stopped(Exception):
    pass


def cut_off(source, target):
    """As of a process that is stopped while it copies from another file system."""
    Path(target).write_bytes(Path(source).read_bytes()[:1000])
    Path(source).unlink()
    raise Stopped


def test_a_name_is_given_to_a_whole_file_alone(folder, monkeypatch, tmp_path):
    plain, ours = trainer(tmp_path), trainer(tmp_path, ChannelPruning())
    for run in (plain, ours):
        run.fit(Classifier(), loader())
    whole = (folder / "6.ckpt").read_bytes()
    monkeypatch.setattr(shutil, "move", cut_off)
    for name in ("6.ckpt", "new.ckpt"):
        with pytest.raises(Stopped):
            ours.save_checkpoint(folder / name)
    assert (folder / "6.ckpt").read_bytes() == whole
    assert not (folder / "new.ckpt").exists()
    with pytest.raises(Stopped):
        plain.save_checkpoint(folder / "new.ckpt")
    assert (folder / "new.ckpt").stat().st_size == 1000


def test_plugins_that_wrap_lightnings_write_whole_files(tmp_path, monkeypatch):
    plugin = AsyncCheckpointIO()
    run = trainer(tmp_path, ChannelPruning(), *saving(tmp_path / "c", every=2), plugins=[plugin])
    names = []
    replace = os.replace
    monkeypatch.setattr(
        os, "replace", lambda source, target: (names.append(Path(target).name), replace(source, target))
    )
    run.fit(Classifier(), loader())
    assert {"2.ckpt", "4.ckpt", "6.ckpt", "end6.ckpt"} <= set(names)
    assert Path(newest_checkpoint(tmp_path / "c")).name in ("6.ckpt", "end6.ckpt")
    trainer(tmp_path, ChannelPruning(), plugins=[plugin]).fit(Classifier(), loader())


def test_other_plugins_get_the_path_itself(tmp_path):
    class Own(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint, path, storage_options=None):
            self.path = path
            super().save_checkpoint(checkpoint, path, storage_options)

    plugin = Own()
    run = trainer(tmp_path, ChannelPruning(), plugins=[plugin])
    run.fit(Classifier(), loader())
    run.save_checkpoint(tmp_path / "some.ckpt")
    assert plugin.path == tmp_path / "some.ckpt"


def test_what_a_dead_process_left_is_removed_later(folder, tmp_path):
    old, new = folder / ".2.ckpt.1.lightning_channels.tmp", folder / ".4.ckpt.1.lightning_channels.tmp"
    for file, age in ((old, 4000), (new, 100)):
        file.write_bytes(b"a part")
        written = (folder / "6.ckpt").stat().st_mtime - age
        os.utime(file, (written, written))
    run = trainer(tmp_path, ChannelPruning(), max_steps=1)
    run.fit(Classifier(), loader())
    run.save_checkpoint(folder / "8.ckpt")
    assert not old.exists()
    assert new.exists()


def test_a_checkpoint_can_be_read_by_every_user_who_could_before(tmp_path):
    code = "import os; print(oct(0o666 & ~os.umask(0)))"
    mode = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    run = trainer(tmp_path, ChannelPruning(), max_steps=1)
    run.fit(Classifier(), loader())
    run.save_checkpoint(tmp_path / "some.ckpt")
    assert oct((tmp_path / "some.ckpt").stat().st_mode & 0o777) == mode
