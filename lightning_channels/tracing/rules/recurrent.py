"""Recurrent kernels: they read the weights of all gates and steps as one, so nothing that reaches them may change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_channels.tracing.program import Op
from lightning_channels.tracing.rules.table import rule

if TYPE_CHECKING:
    from lightning_channels.tracing.walk import Walk

__all__: list[str] = []


@rule(
    "mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn", "_lstm_mps", "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell",
    "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell",
    "quantized_lstm", "quantized_gru", "_cudnn_rnn_flatten_weight", "_pack_padded_sequence",
    "_pad_packed_sequence",
)  # fmt: skip
def _recurrent(walk: Walk, op: Op) -> None:
    walk.pin_inputs(op, "reaches a recurrent kernel, which reads the weights of all its gates as one")
