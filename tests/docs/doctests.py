"""Run the examples in all docstrings of the package, and print how many there were; what fails is printed before."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import sys
import warnings

import lightning_channels

NOT_OURS = ("lightning_channels.__main__", "lightning_channels.conf", "lightning_channels.examples")


def main() -> int:
    warnings.simplefilter("error")
    failed = attempted = 0
    for found in pkgutil.walk_packages(lightning_channels.__path__, "lightning_channels."):
        if not found.name.startswith(NOT_OURS):
            result = doctest.testmod(importlib.import_module(found.name))
            failed, attempted = failed + result.failed, attempted + result.attempted
    print(f"{attempted} examples, {failed} failed")
    return min(1, failed)


if __name__ == "__main__":
    sys.exit(main())
