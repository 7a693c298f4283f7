"""A criterion of your own, by its name in a config of your own.

The training of examples/train.py, with all of its options, on units that keep the channels of the most varied weights:

    python examples/custom_criterion.py --config-dir examples/custom_conf criterion=spread \
        unit=ranked 'unit.criterion=${criterion}' callback.criterion=null trainer.max_epochs=3

In your own program every place that takes a criterion takes it by its name, too: build_criterion("spread").
"""

from torch import Tensor

from lightning_channels import CRITERIA, GroupTensor, WeightCriterion


@CRITERIA.register("spread")
class SpreadCriterion(WeightCriterion):
    """The standard deviation of a channel's weights."""

    def score(self, tensor: GroupTensor) -> Tensor:
        return tensor.rows().std(1, correction=0)


if __name__ == "__main__":
    from train import main

    main()
