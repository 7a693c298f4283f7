"""The proof that a model computes what it should at every width."""

from lightning_channels.mutators.proof.prove import Proof
from lightning_channels.mutators.proof.record import ProofRecord

__all__ = ["Proof", "ProofRecord"]
