r"""A transition near a state: products with its Jacobian J = ∂F/∂s and with Jᵀ.

F(s + v) = F(s) + J v + O(‖v‖²). Backpropagation through time goes down by Jᵀ, and at a steady state
so does the adjoint of the implicit gradient; what the network itself passes on is J. They are the
same where F comes from a Φ. Neither is ever written down: Jᵀ v is one backward pass through one
transition, and J v one through that backward pass, which is linear in v.
"""

from typing import Any, final

import torch

from eqprop.core.models import ConvergentModel, State
from eqprop.core.stepping import transitions

__all__ = ["Linearised"]


@final
class Linearised:
    """F around one state of every sample.

    Args:
        drive: ``model.drive(x)``; made where gradients are enabled, ``after`` leads to the
            parameters that it depends on, too.
        state: where.

    Attributes:
        after: F(state), with the graph of the transition behind it.
    """

    def __init__(self, model: ConvergentModel, drive: Any, state: State) -> None:
        # Some versions of torch would go on with the rounded weights of an autocast before, which
        # pass no gradient.
        torch.clear_autocast_cache()
        with torch.enable_grad():
            self._at = tuple(layer.detach().requires_grad_() for layer in state)
            _, self.after = next(transitions(model, drive, self._at, 1))
        # A layer that neither depends on a state nor learns has no graph, and pulls at none.
        self._live = [i for i, layer in enumerate(self.after) if layer.requires_grad]
        self._pull: tuple[State, State] | None = None

    def transposed(self, v: State) -> State:
        """Jᵀ v."""
        if not self._live:
            return tuple(map(torch.zeros_like, self._at))
        outputs, weights = ([of[i] for i in self._live] for of in (self.after, v))
        return torch.autograd.grad(
            outputs, self._at, weights, retain_graph=True, materialize_grads=True
        )

    def times(self, v: State) -> State:
        """J v."""
        if self._pull is None:
            with torch.enable_grad():
                dual = tuple(torch.zeros_like(layer, requires_grad=True) for layer in self._at)
                pulled: State = ()
                if self._live:
                    pulled = torch.autograd.grad(
                        [self.after[i] for i in self._live],
                        self._at,
                        [dual[i] for i in self._live],
                        create_graph=True,
                        materialize_grads=True,
                    )
            self._pull = dual, pulled
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
