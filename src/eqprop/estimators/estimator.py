r"""What every estimator has in common.

An estimator looks at one mini-batch and adds its estimate of ∂L/∂θ, L the batch mean of the cost at
the steady state, to the ``.grad`` of every parameter, as ``loss.backward()`` would::

    optimizer.zero_grad()
    estimate = estimator(model, x, target)
    optimizer.step()

but for :class:`~eqprop.estimators.continual.ContinualEP`, which takes the optimizer's steps itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from eqprop.core.costs import Cost, SquaredError
from eqprop.core.models import ConvergentModel
from eqprop.core.settling import Relaxation

__all__ = ["Estimate", "Estimator", "accumulate", "random_sign"]


@final
@dataclass(frozen=True)
class Estimate:
    """What an estimator did, besides filling ``.grad``.

    Attributes:
        free: the free phase; ``free.state[-1]`` is the network's prediction before the update.
        nudged: the nudged phases, none for estimators without them.
    """

    free: Relaxation
    nudged: tuple[Relaxation, ...] = ()


class Estimator(ABC):
    """Adds an estimate of ∂L/∂θ to the ``.grad`` of the model's parameters.

    Write ``__call__`` and give it ``free_steps``; :func:`~eqprop.training.loop.train` evaluates
    with these attributes too.

    Attributes:
        free_steps: T.
        tolerance: lets every sample end a phase where it rests, see
            :func:`~eqprop.core.phases.relax`.
        cost: ℓ.
    """

    free_steps: int
    tolerance: float | None = None
    cost: Cost = SquaredError()

    @abstractmethod
    def __call__(
        self,
        model: ConvergentModel,
        x: Tensor,
        target: Tensor,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """Estimate from one mini-batch.

        Args:
            model: any convergent model.
            x: the static input, (B, …).
            target: y, shaped like the output layer, (B, …).
            generator: where randomness comes from, if the estimator has any.

        Raises:
            NonFiniteError: a state stopped being finite; names the layer, the phase and the step.
        """


def accumulate(model: nn.Module, gradients: Mapping[str, Tensor]) -> None:
    """Add each gradient to the ``.grad`` of the parameter of its name."""
    parameters = dict(model.named_parameters())
    for name, gradient in gradients.items():
        parameter = parameters[name]
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad.add_(gradient)


def random_sign(generator: torch.Generator | None) -> int:
    """+1 or −1, each as likely."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2, (), generator=generator, device=device).item()) * 2 - 1
