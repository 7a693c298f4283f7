"""Small data sets, drawn and written in the layouts of real ones, so that the examples run without a download.

Each picture has one bright rectangle or ellipse on a dark, noisy ground; which of the two it is, and its colour, is its
class. They are written where there is nothing yet, and read by the same code that reads the real data.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = ((230, 80, 60), (70, 200, 90), (80, 110, 240))
NAMES = ("aeroplane", "bicycle", "bird")  # the first of VOC's classes
CLASSES = len(COLOURS)

Box = tuple[int, int, int, int]


def image_folder(root: Path, size: int, train: int = 16, val: int = 8) -> Path:
    """``root/{train,val}/CLASS/*.png``, as ``torchvision.datasets.ImageFolder`` reads it.

    Args:
        root: Is made.
        size: Height and width of the pictures.
        train: Pictures of each class to train with.
        val: Pictures of each class to validate with.
    """
    for part, count in (("train", train), ("val", val)):
        for number, (label, image, _, _) in enumerate(_pictures(count * CLASSES, size, seed=len(part))):
            folder = root / part / NAMES[label]
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{number}.png")
    return root


def voc(root: Path, size: int, train: int = 16, val: int = 8) -> Path:
    """``root/VOCdevkit/VOC2012``, as ``torchvision.datasets.VOCSegmentation`` and ``VOCDetection`` read it.

    Args:
        root: Is made.
        size: Height and width of the pictures.
        train: Pictures to train with.
        val: Pictures to validate with.
    """
    devkit = root / "VOCdevkit" / "VOC2012"
    lists = [devkit / "ImageSets" / task for task in ("Segmentation", "Main")]
    for folder in (*(devkit / name for name in ("JPEGImages", "SegmentationClass", "Annotations")), *lists):
        folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("val", val)):
        names = [f"{part}_{number}" for number in range(count)]
        for name, (label, image, mask, box) in zip(names, _pictures(count, size, seed=len(part)), strict=True):
            image.save(devkit / "JPEGImages" / f"{name}.jpg", quality=95)
            mask.save(devkit / "SegmentationClass" / f"{name}.png")
            (devkit / "Annotations" / f"{name}.xml").write_text(_annotation(NAMES[label], box))
        for folder in lists:
            (folder / f"{part}.txt").write_text("\n".join(names) + "\n")
    return root


def _pictures(count: int, size: int, seed: int) -> Iterator[tuple[int, Image.Image, Image.Image, Box]]:
    """Class, picture, mask of classes (0 is the ground, 255 the outline, which counts as neither), and box."""
    random = np.random.default_rng(seed)
    for number in range(count):
        label = number % CLASSES
        left, top = (int(place) for place in random.integers(2, size // 3, 2))
        right, bottom = (int(place) for place in random.integers(size * 2 // 3, size - 2, 2))
        box = (left, top, right, bottom)
        image = Image.fromarray(random.integers(0, 60, (size, size, 3), dtype=np.uint8))
        mask = Image.new("P", (size, size))
        mask.putpalette([channel for colour in ((0, 0, 0), *COLOURS) for channel in colour])
        shape = ("rectangle", "ellipse")[label % 2]
        getattr(ImageDraw.Draw(image), shape)(box, fill=COLOURS[label])
        getattr(ImageDraw.Draw(mask), shape)(box, fill=label + 1, outline=255)
        yield label, image, mask, box


def _annotation(name: str, box: Box) -> str:
    left, top, right, bottom = (place + 1 for place in box)  # VOC counts pixels from 1
    return (
        f"<annotation><object><name>{name}</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object></annotation>\n"
    )
