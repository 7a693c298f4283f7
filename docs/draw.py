"""Draw the pictures of the documentation anew: ``python docs/draw.py [FOLDER]``.

Nothing in them is drawn by hand: each shows what a mutator found in a model that it prepared, or what a benchmark
measured.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pictures import model, prune, slimmable, unit

PICTURES = {
    "unit.svg": unit.draw,
    "resnet18.svg": model.draw,
    "slimmable.svg": slimmable.draw,
    "prune.svg": prune.draw,
}


def main(folder: Path) -> None:
    """Write every picture into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        (folder / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
