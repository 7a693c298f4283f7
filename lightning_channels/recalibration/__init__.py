"""Batch-norm statistics for the width that is active now.

Under slimmable training all widths share one set of running statistics, so these fit none of them. Before a width is
measured or exported its statistics are computed anew.
"""

from lightning_channels.recalibration.recalibrate import recalibrate_batch_norm, recalibrated

__all__ = ["recalibrate_batch_norm", "recalibrated"]
