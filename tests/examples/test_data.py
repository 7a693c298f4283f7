"""The example's data sets, on real digits and on small copies in the others' own formats."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from slimmable.data import CIFAR10, Digits, ImageFolder, random_shift


def test_digits_are_split_by_class_without_overlap() -> None:
    data = Digits(batch_size=64)
    data.setup()
    train, test = (dataset.tensors for dataset in (data.train_set, data.test_set))
    assert (len(train[0]), len(test[0])) == (1437, 360)
    assert train[0].shape[1:] == (1, 8, 8)
    shares = torch.bincount(test[1]) / torch.bincount(torch.cat([train[1], test[1]]))
    assert torch.allclose(shares, torch.full((10,), 0.2), atol=0.01)
    joined = torch.cat([train[0], test[0]])
    assert abs(float(joined.mean())) < 0.01
    assert abs(float(joined.std()) - 1) < 0.01


def test_the_seed_decides_which_digits_are_held_out() -> None:
    first, again, other = (Digits(seed=seed) for seed in (0, 0, 1))
    for data in (first, again, other):
        data.setup()
    assert torch.equal(first.test_set.tensors[0], again.test_set.tensors[0])
    assert not torch.equal(first.test_set.tensors[0], other.test_set.tensors[0])


def test_digits_move_only_in_training() -> None:
    data = Digits()
    data.setup()
    batch = next(iter(data.val_dataloader()))
    data.trainer = type("Trainer", (), {"training": False})()
    assert data.on_after_batch_transfer(batch, 0)[0] is batch[0]
    data.trainer.training = True
    moved, labels = data.on_after_batch_transfer(batch, 0)
    assert labels is batch[1]
    assert not torch.equal(moved, batch[0])


def test_random_shift_gives_every_shift_and_nothing_else() -> None:
    image = torch.arange(2 * 5 * 4, dtype=torch.float32).view(2, 5, 4)
    padded = torch.nn.functional.pad(image, [1] * 4, mode="replicate")
    allowed = {(y, x): padded[:, y : y + 5, x : x + 4] for y in range(3) for x in range(3)}
    torch.manual_seed(0)
    seen = set()
    for moved in random_shift(image.expand(200, -1, -1, -1), 1):
        match = [shift for shift, expected in allowed.items() if torch.equal(moved, expected)]
        assert len(match) == 1
        seen.add(match[0])
    assert seen == set(allowed)


@pytest.fixture
def cifar_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10's python format with 8 images a training file and 6 test images; image i is filled with the value i."""
    folder = tmp_path / datasets.CIFAR10.base_folder
    folder.mkdir()
    sums, first = {}, 0
    for name, count in [*((f"data_batch_{n}", 8) for n in range(1, 6)), ("test_batch", 6)]:
        values = np.arange(first, first + count, dtype=np.uint8)
        content = {
            "batch_label": name,
            "data": np.repeat(values[:, None], 3072, axis=1),
            "labels": [int(value) % 10 for value in values],
            "filenames": [f"{value}.png" for value in values],
        }
        sums[name] = write_pickle(folder / name, content)
        first += count
    meta = {"label_names": [f"class{n}" for n in range(10)], "num_cases_per_batch": 8, "num_vis": 3072}
    checksum = write_pickle(folder / "batches.meta", meta)
    # torchvision compares checksums, and these are other files
    monkeypatch.setattr(
        datasets.CIFAR10, "train_list", [[f"data_batch_{n}", sums[f"data_batch_{n}"]] for n in range(1, 6)]
    )
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": checksum})
    return tmp_path


def write_pickle(path: Path, content: dict) -> str:
    path.write_bytes(pickle.dumps(content, protocol=2))
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_cifar10_is_read_from_its_own_format(cifar_root: Path) -> None:
    data = CIFAR10(str(cifar_root), batch_size=10, num_workers=0)
    data.prepare_data()
    data.setup()
    assert (len(data.train_set), len(data.test_set)) == (40, 6)
    images, labels = next(iter(data.val_dataloader()))
    assert images.shape == (6, 3, 32, 32)
    assert labels.tolist() == [0, 1, 2, 3, 4, 5]
    expected = ((torch.arange(40, 46) / 255)[:, None] - torch.tensor([0.491, 0.482, 0.447])) / torch.tensor(
        [0.247, 0.243, 0.262]
    )
    assert torch.allclose(images[:, :, 16, 16], expected, atol=1e-6)
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (10, 3, 32, 32)
    assert images.dtype == torch.float32


def test_cifar10_that_is_missing_says_what_to_do(tmp_path: Path) -> None:
    data = CIFAR10(str(tmp_path))
    data.prepare_data()
    with pytest.raises(FileNotFoundError, match=r"no cifar-10-batches-py in .*data\.download=true"):
        data.setup()


def test_cifar10_is_downloaded_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(datasets.CIFAR10, "download", lambda self: asked.append(self.root))
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: False)
    CIFAR10(str(tmp_path)).prepare_data()
    assert asked == []
    with pytest.raises(RuntimeError, match="not found or corrupted"):
        CIFAR10(str(tmp_path), download=True).prepare_data()
    assert asked == [str(tmp_path)]


@pytest.fixture
def folder_root(tmp_path: Path) -> Path:
    for part, count in (("train", 3), ("val", 2)):
        for label, color in (("cat", (255, 0, 0)), ("dog", (0, 0, 255))):
            (tmp_path / part / label).mkdir(parents=True)
            for n in range(count):
                Image.new("RGB", (40, 50), color).save(tmp_path / part / label / f"{n}.png")
    return tmp_path


def test_image_folder(folder_root: Path) -> None:
    data = ImageFolder(str(folder_root), size=32, batch_size=4, num_workers=0)
    data.setup()
    assert (len(data.train_set), len(data.test_set)) == (6, 4)
    images, labels = next(iter(data.val_dataloader()))
    assert images.shape == (4, 3, 32, 32)
    assert labels.tolist() == [0, 0, 1, 1]
    red = (torch.tensor([1.0, 0.0, 0.0]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(images[0, :, 16, 16], red, atol=1e-5)
    assert next(iter(data.train_dataloader()))[0].shape == (4, 3, 32, 32)


def test_image_folder_without_a_part_says_what_to_do(folder_root: Path) -> None:
    (folder_root / "val").rename(folder_root / "valid")
    with pytest.raises(FileNotFoundError, match=r"no folder 'val' in .*expected val/CLASS/IMAGE"):
        ImageFolder(str(folder_root)).setup()
