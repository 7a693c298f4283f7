from collections.abc import Callable

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from lightning_channels._config import config_dir


@pytest.fixture(scope="session")
def composed() -> Callable[..., DictConfig]:
    """conf/train.yaml with overrides, for a run on the CPU."""

    def run(*overrides: str) -> DictConfig:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
            return compose("train", ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", *overrides])

    return run
