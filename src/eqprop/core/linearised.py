r"""A transition near a state: products with its Jacobian J = ∂F/∂s and with Jᵀ.

F(s + v) = F(s) + J v + O(‖v‖²). Backpropagation through time goes down by Jᵀ, and at a steady state
so does the adjoint of the implicit gradient; what the network itself passes on is J. They are the
same where F comes from a Φ. Neither is ever written down. A model that knows its Jacobian has its
products, such as a layered network whose connections are weights, see
:mod:`eqprop.networks.jacobian`; of any other Jᵀ v is one backward pass through one transition, and
J v one through that backward pass, which is linear in v.
"""

from functools import cached_property
from typing import Any, final

import torch

from eqprop.core.models import ConvergentModel, State
from eqprop.core.stepping import transitions

__all__ = ["Linearised"]


@final
class Linearised:
    """F around one state of every sample.

    Args:
        drive: ``model.drive(x)``; made where gradients are enabled, :attr:`after` leads to the
            parameters that it depends on, too.
        state: where.
    """

    def __init__(self, model: ConvergentModel, drive: Any, state: State) -> None:
        self._model, self._drive = model, drive
        self._at = tuple(layer.detach().requires_grad_() for layer in state)
        with torch.no_grad():
            self._known = model.jacobian(drive, state)

    @cached_property
    def after(self) -> State:
        """F(state), with the graph of the transition behind it."""
        # Some versions of torch would go on with the rounded weights of an autocast before, which
        # pass no gradient.
        torch.clear_autocast_cache()
        with torch.enable_grad():
            return next(transitions(self._model, self._drive, self._at, 1))[1]

    @property
    def reached(self) -> State:
        """The same without."""
        if self._known is not None:
            return self._known.after
        return tuple(layer.detach() for layer in self.after)

    def transposed(self, v: State) -> State:
        """Jᵀ v."""
        if self._known is not None:
            return self._known.transposed(v)
        live = self._live
        if not live:
            return tuple(map(torch.zeros_like, self._at))
        outputs, weights = ([of[i] for i in live] for of in (self.after, v))
        return torch.autograd.grad(
            outputs, self._at, weights, retain_graph=True, materialize_grads=True
        )

    def times(self, v: State) -> State:
        """J v."""
        if self._known is not None:
            return self._known.times(v)
        dual, pulled = self._pull
        live = [i for i, layer in enumerate(pulled) if layer.requires_grad]
        if not live:
            return tuple(map(torch.zeros_like, self._at))
        return torch.autograd.grad(
            [pulled[i] for i in live],
            dual,
            [v[i] for i in live],
            retain_graph=True,
            materialize_grads=True,
        )

    @cached_property
    def _live(self) -> list[int]:
        """A layer that neither depends on a state nor learns has no graph, and pulls at none."""
        return [i for i, layer in enumerate(self.after) if layer.requires_grad]

    @cached_property
    def _pull(self) -> tuple[State, State]:
        """Of any v, and Jᵀ v as a function of it."""
        with torch.enable_grad():
            dual = tuple(torch.zeros_like(layer, requires_grad=True) for layer in self._at)
            if not self._live:
                return dual, ()
            pulled = torch.autograd.grad(
                [self.after[i] for i in self._live],
                self._at,
                [dual[i] for i in self._live],
                create_graph=True,
                materialize_grads=True,
            )
        return dual, pulled
