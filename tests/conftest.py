"""Shared by all tests: one thread each, so that parallel workers don't fight for the cores."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
