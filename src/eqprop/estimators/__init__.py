"""Gradient estimators: each fills ``.grad``, so any ``torch.optim`` optimizer can follow."""

from eqprop.estimators.backpropagation_through_time import BPTT
from eqprop.estimators.continual_equilibrium_propagation import ContinualEP
from eqprop.estimators.equilibrium_propagation import NUDGINGS, EquilibriumPropagation
from eqprop.estimators.estimator import Estimate, Estimator
from eqprop.estimators.recurrent_backpropagation import AdjointError, RecurrentBackprop

__all__ = [
    "BPTT",
    "NUDGINGS",
    "AdjointError",
    "ContinualEP",
    "EquilibriumPropagation",
    "Estimate",
    "Estimator",
    "RecurrentBackprop",
]
