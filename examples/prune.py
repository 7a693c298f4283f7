"""Prune a trained classifier to a budget, fine-tune it, and export what is left.

A Hydra app on conf/prune.yaml and the groups beside it:

    python examples/prune.py experiment=digits_l1
    python examples/prune.py experiment=digits_group_fisher callback.target.flops=0.3
    python examples/prune.py experiment=digits_l1 pretrained=outputs/.../unpruned.ckpt
    python examples/prune.py --multirun experiment=digits_l1 seed=0,1,2
"""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lightning_channels import config_dir


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="prune")
def main(config: DictConfig) -> None:
    # here, so that --cfg, --help and misspelt overrides answer without waiting for torch
    from slimmable.prune import run

    run(config, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
