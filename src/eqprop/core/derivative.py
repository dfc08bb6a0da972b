"""Derivatives by autograd, wherever an explicit formula is not at hand."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["derivative"]


def derivative(
    function: Callable[..., Tensor], at: Sequence[Tensor], weights: Tensor | None = None
) -> tuple[Tensor, ...]:
    """(∂ function / ∂ each argument)ᵀ weights; differentiable itself where gradients are enabled.

    Args:
        function: of the tensors in ``at``; its value is summed, unless there are weights.
        at: its arguments.
        weights: of the shape of its value.

    Of complex arguments it is that of a holomorphic function.

    Raises:
        TypeError: the value depends on the arguments by nothing that autograd knows.
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        # Nodes of their own: one argument may have been computed from another, and the derivative
        # by the one must not run through the other.
        nodes = tuple(
            tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()
            for tensor in at
        )
        value = function(*nodes)
        if not value.requires_grad:
            raise TypeError(
                "expected a value that autograd can follow back to the states, got one that it "
                "cannot: computed under no_grad, detached, by numpy, or of none of them"
            )
        if weights is None:
            value = value.sum()
        if value.is_complex():
            # Of a holomorphic function autograd gives the conjugate derivative.
            weights = torch.ones_like(value) if weights is None else weights.conj()
        found = torch.autograd.grad(
            value, nodes, weights, create_graph=differentiable, materialize_grads=True
        )
        return tuple(g.conj() for g in found) if value.is_complex() else found
