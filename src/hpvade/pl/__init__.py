"""Draw proportions, agreement with the truth, signatures and the training history. Tables in, never a model."""

from ._agreement import agreement
from ._proportions import proportions
from ._signatures import signatures
from ._training import training_history

signature = signatures
training = training_history

__all__ = ["agreement", "proportions", "signature", "signatures", "training", "training_history"]
