"""A unit type of your own, by its name in a config of your own.

The training of examples/train.py, with all of its options, on units that keep a power of two channels:

    python examples/custom_unit.py --config-dir examples/custom_conf unit=my_unit trainer.max_epochs=3

In your own program the callback takes it by its name, too: ChannelPruning(unit="MyUnit").
"""

import math

from lightning_channels import UNITS, SequentialMutableChannelUnit


@UNITS.register()
class MyUnit(SequentialMutableChannelUnit):
    """Keeps a power of two channels, or all of them."""

    def allowed_number(self, number: float) -> int:
        inside = self.num_channels // self.groups  # every group keeps as many
        kept = 2 ** round(math.log2(max(1, number / self.groups)))
        return self.groups * min(inside, kept)


if __name__ == "__main__":
    from train import main

    main()
