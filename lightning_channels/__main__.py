"""``python -m lightning_channels`` is ``lightning-channels``."""

from lightning_channels.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
