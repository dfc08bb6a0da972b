"""Plain gradient descent, seen through: a learning rule may take its step itself.

What an optimizer does with a gradient is its own affair, but for the plainest, θ ← θ − η · gradient
and nothing else. There a learning rule can move the weights in one pass over them, without writing
down a gradient that would be read once and thrown away; and steps within a phase may be summed.
"""

from inspect import signature

import torch

from eqprop.core.fitting import parameters_within
from eqprop.core.models import ConvergentModel

__all__ = ["is_plain_descent", "learning_rates", "require_no_closure"]


def require_no_closure(optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer that wants to compute the loss itself, and again, such as LBFGS.

    Raises:
        TypeError: its ``step`` cannot do without a closure.
    """
    closure = signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise TypeError(
            f"optimizer: expected one whose step needs no closure, such as SGD or Adam, got "
            f"{type(optimizer).__name__}, which looks at a loss several times; an estimator has "
            "none to look at"
        )


def is_plain_descent(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step of the optimizer is θ ← θ − η · gradient and nothing else."""
    # Hooks clip gradients, or weights: what they do after every step cannot be left out.
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return (
        type(optimizer) is torch.optim.SGD
        and not hooks
        and not any(
            group["momentum"] or group["weight_decay"] or group["maximize"]
            for group in optimizer.param_groups
        )
    )


def learning_rates(model: ConvergentModel, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """η by the names of the parameters that learn.

    Raises:
        ValueError: the optimizer holds none of the model's parameters.
    """
    left = {id(p): float(g.get("lr", 0.0)) for g in optimizer.param_groups for p in g["params"]}
    held, rates = len(left), dict[str, float]()
    for name, parameter in parameters_within(model):
        # A shared one has its first name alone.
        rate = left.pop(id(parameter), None)
        if rate is not None and parameter.requires_grad:
            rates[name] = rate
    if len(left) == held:
        raise ValueError("optimizer: expected one of the model's parameters, got one of others")
    return rates
