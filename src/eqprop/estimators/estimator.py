r"""What every estimator has in common.

An estimator looks at one mini-batch and adds its estimate of ∂L/∂θ, L the batch mean of the cost at
the steady state, to the ``.grad`` of every parameter, as ``loss.backward()`` would::

    optimizer.zero_grad()
    estimate = estimator(model, x, target)
    optimizer.step()

but for :class:`~eqprop.estimators.continual.ContinualEP`, which takes the optimizer's steps itself.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from eqprop.core.costs import Cost, SampleWeighted, SquaredError, require_cost
from eqprop.core.fitting import (
    modules_within,
    require_input,
    require_model,
    require_unchanging,
)
from eqprop.core.models import ConvergentModel
from eqprop.core.settling import Relaxation
from eqprop.core.sizes import described
from eqprop.estimators.dynamics import NudgedDynamics
from eqprop.summary import summary

__all__ = ["Estimate", "Estimator", "accumulate", "random_sign"]


@final
@dataclass(frozen=True)
class Estimate:
    """What an estimator did, besides filling ``.grad``.

    Attributes:
        free: the free phase; ``model.prediction(free.state)`` is what the network said before the
            update. No estimator keeps a graph behind it: ``.numpy()`` does.
        nudged: the nudged phases, none for estimators without them.
    """

    free: Relaxation
    nudged: tuple[Relaxation, ...] = ()

    __repr__ = summary

    def __post_init__(self) -> None:
        for phase in (self.free, *self.nudged):
            if not isinstance(phase, Relaxation):
                raise TypeError(
                    "Estimate: expected phases as eqprop.relax and eqprop.nudged_phase give them, "
                    f"each a Relaxation, got {described(phase)}"
                )


class Estimator(ABC):
    """Adds an estimate of ∂L/∂θ to the ``.grad`` of the model's parameters.

    Write :meth:`estimate` and give it ``free_steps``; :func:`~eqprop.training.loop.train` evaluates
    with these attributes too.

    Attributes:
        free_steps: T.
        tolerance: lets every sample end a phase where it rests, see
            :func:`~eqprop.core.phases.relax`.
        cost: ℓ.
        dynamics: of its nudged phase, if it has one that can be looked at step by step, see
            :mod:`eqprop.estimators.dynamics`.
    """

    free_steps: int
    tolerance: float | None = None
    cost: Cost = SquaredError()
    dynamics: type[NudgedDynamics] | None = None

    @final
    def __call__(
        self,
        model: ConvergentModel,
        x: Tensor,
        target: Tensor,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """Estimate from one mini-batch.

        Args:
            model: any convergent model; one that ``torch.compile`` has wrapped stands for what is
                in it, as nothing of it calls ``forward``.
            x: the static input, (B, …).
            target: y, shaped like the output layer, (B, …).
            generator: where randomness comes from, if the estimator has any.

        Raises:
            TypeError: a model that is no convergent one, a parameter that is complex, or has a hook
                of backward, x or the target no tensor, or in another dtype or on another device
                than the parameters, or inference mode, or a cache of parametrizations; a cost that
                is none, or a generator; an own estimator that returns no estimate.
            ValueError: a target that is not shaped like the output layer, such as labels, or not
                finite; no sample; dropout or batch normalisation in training mode; a network whose
                connections were exchanged for some that do not fit.
            NonFiniteError: a state stopped being finite; names the layer, the phase and the step.
        """
        model = require_model(model)
        _require_fitting(model, x, target)
        require_cost(self.cost)
        self.cost.require_target(target)
        if not isinstance(generator, torch.Generator | None):
            raise TypeError(
                "generator: expected a torch.Generator, such as torch.Generator().manual_seed(0), "
                f"got {described(generator)}"
            )
        # What a target was made of learns nothing from it.
        found = self.estimate(model, x, target.detach(), generator)
        if not isinstance(found, Estimate):
            raise TypeError(
                f"{type(self).__name__}.estimate: expected an Estimate, such as Estimate(free), "
                f"got {described(found)}"
            )
        return found

    @final
    def weighing(self, weights: Tensor, largest: float | None = None) -> Self:
        """The same with the cost of each sample of a mini-batch times its weight, (B,).

        Args:
            weights: one for each sample.
            largest: that of all samples, for which β is meant; that of these if not given.
        """
        weighing = copy(self)
        # Estimators are frozen; this one is new.
        object.__setattr__(weighing, "cost", SampleWeighted(self.cost, weights, largest))
        return weighing

    @abstractmethod
    def estimate(
        self,
        model: ConvergentModel,
        x: Tensor,
        target: Tensor,
        generator: torch.Generator | None,
    ) -> Estimate:
        """What :meth:`__call__` does once it has seen that all fits."""


def _require_fitting(model: ConvergentModel, x: Tensor, target: Tensor) -> None:
    """Refuse what does not fit, in words that say what to do."""
    parts = modules_within(model)
    require_unchanging(model, parts)
    require_input(model, x, parts=parts)
    require_input(model, target, "target", parts)
    if target.dtype == torch.bool or target.is_complex():
        raise TypeError(
            f"target: expected real numbers, got {target.dtype}; convert it with target.to(x.dtype)"
        )
    shape = model.output_shape
    if target.shape[1:] != shape:
        graph = getattr(model, "graph", None)
        several = ""
        if model.output_layers > 1 and not model.has_readout and graph is not None:
            names = ", ".join(graph.names[-model.output_layers :])
            several = f" (those of the outputs {names} side by side)"
        labels = target.dim() == 1 and not target.is_floating_point()
        advice = f"; use eqprop.one_hot(labels, {shape[0]})" if labels and len(shape) == 1 else ""
        raise ValueError(
            f"target: expected one value for every output unit, {(len(x), *shape)}{several}, got "
            f"{'labels, ' if labels else ''}{tuple(target.shape)}{advice}"
        )
    if not len(x) or len(x) != len(target):
        raise ValueError(
            f"x, target: expected as many samples, at least one, got {len(x)} and {len(target)}"
        )
    if not (math.isfinite(target.detach().sum()) or target.isfinite().all()):
        sample = int((~target.isfinite()).flatten(1).any(1).nonzero()[0])
        raise ValueError(f"target: expected finite numbers, got nan or inf in sample {sample}")
    if torch.is_inference_mode_enabled():
        raise TypeError(
            "torch.inference_mode: expected to be called outside of it, as nothing can be "
            "differentiated within; torch.no_grad is fine"
        )
    if parametrize._cache_enabled:
        # There is no public way to ask.
        raise TypeError(
            "torch.nn.utils.parametrize.cached: expected to be called outside of it, as what it "
            "keeps does not follow the weights when they learn, and passes them no gradient"
        )
    for part in parts:
        for parameter in part._parameters.values():
            if parameter is not None and (parameter.is_complex() or _is_hooked(parameter)):
                _refuse_parameters(model)


def _refuse_parameters(model: ConvergentModel) -> None:
    """Say which of them is complex, or has a hook."""
    for name, parameter in model.named_parameters():
        if parameter.is_complex():
            raise TypeError(
                f"{model.parameter_name(name)}: expected real numbers, got {parameter.dtype}; make "
                "a parameter of its real part and one of its imaginary part"
            )
        if _is_hooked(parameter):
            raise TypeError(
                f"{model.parameter_name(name)}: expected no hook of backward, which is not called "
                "here, got one; change .grad after the estimator, or give the optimizer a hook "
                "with register_step_pre_hook"
            )


def _is_hooked(parameter: Tensor) -> bool:
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def accumulate(model: nn.Module, gradients: Mapping[str, Tensor]) -> None:
    """Add each gradient to the ``.grad`` of the parameter of its name."""
    parameters = dict(model.named_parameters())
    for name, gradient in gradients.items():
        parameter = parameters[name]
        # Under autocast it may have been computed in another one.
        gradient = gradient.to(parameter.dtype)
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad.add_(gradient)


def random_sign(generator: torch.Generator | None) -> int:
    """+1 or −1, each as likely."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2, (), generator=generator, device=device).item()) * 2 - 1
