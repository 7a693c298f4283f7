"""Train a slimmable classifier, then export and measure it at several widths.

A Hydra app on the groups in conf/:

    python examples/train.py
    python examples/train.py unit=one_shot 'unit.candidate_choices=[0.25,0.5,0.75,1.0]' data.batch_size=32
    python examples/train.py --multirun seed=0,1,2
    python examples/train.py --cfg job
"""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lightning_channels import config_dir


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")
def main(config: DictConfig) -> None:
    # here, so that --cfg, --help and misspelt overrides answer without waiting for torch
    from slimmable.run import report, train

    output = Path(HydraConfig.get().runtime.output_dir)
    trained = train(config, output)
    report(trained, config, output)


if __name__ == "__main__":
    main()
