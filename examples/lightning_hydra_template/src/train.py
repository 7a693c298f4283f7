"""Train and test what the configs say.

python src/train.py
python src/train.py callbacks=channel_pruning
python src/train.py callbacks=channel_pruning callbacks.channel_pruning.target.flops=0.3
"""

import sys
from pathlib import Path

import hydra
import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the configs name classes as src.…


def built(group: DictConfig | None) -> list:
    """The callbacks or loggers of a group, of which each entry is one."""
    return [instantiate(entry) for entry in (group or {}).values() if entry and "_target_" in entry]


def train(cfg: DictConfig) -> tuple[dict[str, float], L.Trainer]:
    """Fit and test.

    Returns:
        The metrics, and the trainer.
    """
    L.seed_everything(cfg.seed, workers=True)
    data: L.LightningDataModule = instantiate(cfg.data)
    model: L.LightningModule = instantiate(cfg.model)
    trainer: L.Trainer = instantiate(cfg.trainer, callbacks=built(cfg.callbacks), logger=built(cfg.logger))
    if cfg.train:
        trainer.fit(model, data, ckpt_path=cfg.ckpt_path)
    metrics = dict(trainer.callback_metrics)
    if cfg.test:
        best = getattr(trainer.checkpoint_callback, "best_model_path", "") if cfg.train else cfg.ckpt_path
        trainer.test(model, data, ckpt_path=best or None)
        metrics |= trainer.callback_metrics
    return {name: float(value) for name, value in metrics.items()}, trainer


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
def main(cfg: DictConfig) -> None:
    metrics, _ = train(cfg)
    for name, value in sorted(metrics.items()):
        print(f"{name}: {value:.4f}")


if __name__ == "__main__":
    main()
