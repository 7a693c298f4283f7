"""Random number generators that come out of a block as they went in."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["preserve_rng"]


@contextmanager
def preserve_rng(*generators: torch.Generator | None) -> Iterator[None]:
    """Put back the global generators of Python, numpy and torch when the block ends, also after an exception.

    Args:
        *generators: Further torch generators (a data loader's own) to put back.
    """
    own = [(generator, generator.get_state()) for generator in generators if generator is not None]
    python, torch_cpu = random.getstate(), torch.get_rng_state()
    # numpy and CUDA are looked at only where they are in use already: neither is started for this
    numpy_random: Any = sys.modules.get("numpy.random")
    numpy_state = None if numpy_random is None else numpy_random.get_state()
    in_use = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if in_use else None
    try:
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(torch_cpu)
        if numpy_state is not None:
            numpy_random.set_state(numpy_state)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        for generator, state in own:
            generator.set_state(state)
