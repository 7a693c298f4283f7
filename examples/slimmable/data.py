"""The data sets, each a LightningDataModule that gives batches of (images, labels)."""

from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import datasets
from torchvision.transforms import v2


class ImageData(L.LightningDataModule):
    """What the data sets share: ``train_set`` and ``test_set``, filled by ``setup``, and the loaders over them.

    Args:
        batch_size: Images in a batch.
        num_workers: Processes that load; 0 loads in the main process.
    """

    train_set: Dataset
    test_set: Dataset

    def __init__(self, batch_size: int, num_workers: int = 0) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.num_workers = num_workers

    def _loader(self, dataset: Dataset, shuffle: bool) -> DataLoader:
        return DataLoader(
            dataset,
            self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.test_set, shuffle=False)

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.test_set, shuffle=False)


class Digits(ImageData):
    """scikit-learn's 1,797 scanned digits of 8x8 pixels, which come with its wheel.

    Args:
        batch_size: Images in a batch.
        test_share: Share of the images that is held out, in equal parts of each digit.
        shift: Training images are moved by up to this many pixels in each direction.
        seed: Decides which images are held out.
        num_workers: Processes that load; the data is in memory, so 0 is best.
    """

    def __init__(
        self, batch_size: int = 64, test_share: float = 0.2, shift: int = 1, seed: int = 0, num_workers: int = 0
    ) -> None:
        super().__init__(batch_size, num_workers)
        self.test_share = test_share
        self.shift = shift
        self.seed = seed

    def setup(self, stage: str | None = None) -> None:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        pixels, labels = load_digits(return_X_y=True)
        images = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)
        images = (images - 0.305) / 0.376  # the images' mean and standard deviation
        train, test = train_test_split(
            range(len(labels)), test_size=self.test_share, stratify=labels, random_state=self.seed
        )
        labels = torch.tensor(labels)
        self.train_set = TensorDataset(images[train], labels[train])
        self.test_set = TensorDataset(images[test], labels[test])

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        images, labels = batch
        if self.shift and self.trainer is not None and self.trainer.training:
            images = random_shift(images, self.shift)
        return images, labels


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """Move each image by its own random number of pixels, up to ``pixels`` in each direction.

    What comes in at the border is the image's own edge repeated.
    """
    count, channels, height, width = images.shape
    padded = F.pad(images, [pixels] * 4, mode="replicate")
    down, right = torch.randint(0, 2 * pixels + 1, (2, count, 1), device=images.device)
    rows = down + torch.arange(height, device=images.device)
    columns = right + torch.arange(width, device=images.device)
    image = torch.arange(count, device=images.device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=images.device).view(1, -1, 1, 1)
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


class CIFAR10(ImageData):
    """CIFAR-10 in its own python format, as torchvision reads it.

    Args:
        root: The folder that holds ``cifar-10-batches-py``.
        download: Let torchvision download the data into ``root`` where it is missing.
        batch_size: Images in a batch.
        num_workers: Processes that load.
    """

    def __init__(self, root: str, download: bool = False, batch_size: int = 128, num_workers: int = 2) -> None:
        super().__init__(batch_size, num_workers)
        self.root = root
        self.download = download

    def prepare_data(self) -> None:
        if self.download:
            datasets.CIFAR10(self.root, train=True, download=True)

    def setup(self, stage: str | None = None) -> None:
        if not self.download and not Path(self.root, datasets.CIFAR10.base_folder).is_dir():
            raise FileNotFoundError(
                f"no {datasets.CIFAR10.base_folder} in {self.root!r}; put CIFAR-10 there or pass data.download=true"
            )
        normalize = [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
        ]
        augment = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]
        self.train_set = datasets.CIFAR10(self.root, train=True, transform=v2.Compose([*augment, *normalize]))
        self.test_set = datasets.CIFAR10(self.root, train=False, transform=v2.Compose(normalize))


class ImageFolder(ImageData):
    """Images on disk: ``root/train/CLASS/*.png`` and ``root/val/CLASS/*.png``, in any format that Pillow reads.

    Args:
        root: The folder that holds ``train`` and ``val``.
        size: Images are cropped to this height and width.
        batch_size: Images in a batch.
        num_workers: Processes that load.
    """

    def __init__(self, root: str, size: int = 224, batch_size: int = 64, num_workers: int = 2) -> None:
        super().__init__(batch_size, num_workers)
        self.root = root
        self.size = size

    def setup(self, stage: str | None = None) -> None:
        for part in ("train", "val"):
            if not Path(self.root, part).is_dir():
                raise FileNotFoundError(f"no folder {part!r} in {self.root!r}; expected {part}/CLASS/IMAGE files there")
        normalize = [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
        augment = [v2.RandomResizedCrop(self.size, antialias=True), v2.RandomHorizontalFlip()]
        center = [v2.Resize(round(self.size * 8 / 7), antialias=True), v2.CenterCrop(self.size)]
        self.train_set = datasets.ImageFolder(str(Path(self.root, "train")), v2.Compose([*augment, *normalize]))
        self.test_set = datasets.ImageFolder(str(Path(self.root, "val")), v2.Compose([*center, *normalize]))
