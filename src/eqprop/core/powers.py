"""What a model may be able to do besides: optional powers, had by whoever has them.

=================  =========================================================================
``defer``          updates within a nudged phase may wait for its end, see below
``in_turn``        whether a step moves some layers after others, which see where these went
``weight_angles``  Ψ between forward and backward weights in degrees, input side first
=================  =========================================================================
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

from torch import Tensor

from eqprop.core.models import State

__all__ = ["DeferredUpdates", "DefersUpdates", "Telescope"]


@final
@dataclass(frozen=True, eq=False)
class DeferredUpdates:
    """Parameters whose updates, step by step, sum to one of the whole phase.

    They act on the state through the drive alone, which follows them without their being updated.

    Attributes:
        parameters: their names.
        follow: what the drive gains when they take a step θ ← θ + η ∂/∂θ of the batch mean of
            contrast(before, after), as a function of these two states.
    """

    parameters: frozenset[str]
    follow: Callable[[State, State], Tensor]


Telescope = DeferredUpdates
"""The earlier name."""


@runtime_checkable
class DefersUpdates(Protocol):
    """Updates within a nudged phase may wait for its end."""

    def defer(self, x: Tensor, rates: Mapping[str, float]) -> DeferredUpdates | None:
        """Those that may; none, if none may.

        Args:
            x: the static input, (B, …).
            rates: the learning rate of every parameter that learns, by name.
        """
        ...
