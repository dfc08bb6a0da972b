r"""Continual Equilibrium Propagation: neurons and synapses move together.

The free phase is that of EP. In the nudged phase every transition is followed by an update::

    s_{t+1} = F(x, s_t, θ_t) − β ∂ℓ/∂s(s_t, y)
    θ_{t+1} = θ_t + (η/β) ∂/∂θ contrast(before = s_t, after = s_{t+1}, anchor = s_t)

The weights of a readout, which feel no dynamics, move by −η (∂ℓ/∂θ(s_{t+1}) − ∂ℓ/∂θ(s_t)), in the
first step by −η ∂ℓ/∂θ(s_1): what they see of −β ℓ in Φ_β.

A synapse needs the present and the last state of its two neurons, nothing earlier: the rule is
local in space and in time. For a primitive function it is the difference of ∂Φ/∂θ between
s_{t+1} and s_t; with a vector field it is C-VF. With the weights frozen the updates sum to that
of one-sided EP, which they come close to as η → 0.

The update is the optimizer's, which receives minus the above without η as the gradient of every
step; plain gradient descent is the published rule. Under it the updates of parameters that act
through the drive alone, and linearly, such as those of a dense connection from the static input,
sum to one, made at the end, while the drive follows them step by step: the same states and
weights, without going through the largest matrix K times.

Source: Ernoult et al., "Equilibrium Propagation with Continual Weight Updates",
https://arxiv.org/abs/2005.04168.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor

from eqprop.core.costs import Cost, SquaredError, require_cost
from eqprop.core.models import ConvergentModel, LearningRule, State
from eqprop.core.nudging import Nudge, require_beta
from eqprop.core.phases import (
    nudged_phase,
    relax,
    require_steps,
    require_tolerance,
)
from eqprop.core.powers import DefersUpdates
from eqprop.estimators.descent import is_plain_descent, learning_rates, require_no_closure
from eqprop.estimators.estimator import Estimate, Estimator, random_sign

__all__ = ["CONTINUAL_NUDGINGS", "ContinualEP"]

Nudging = Literal["one-sided", "random-sign"]
CONTINUAL_NUDGINGS: tuple[Nudging, ...] = get_args(Nudging)


@final
@dataclass(frozen=True)
class ContinualEP(Estimator):
    """EP whose optimizer takes a step after every transition of the nudged phase.

    Unlike other estimators it leaves no gradient: the parameters have learnt when the call returns,
    and ``.grad`` is empty, so that a training loop's own ``optimizer.step()`` finds nothing to do.
    Whatever is to happen in every step, such as clipping, is for the optimizer's hooks.

    Args:
        optimizer: any optimizer of the model's parameters whose ``step`` needs no closure; its
            learning rates are η, one per layer where its parameter groups say so.
        free_steps: T, transitions of the free phase.
        nudged_steps: K, transitions, and updates, of the nudged phase.
        beta: β ≠ 0, the strength of the nudge; in real time the continuous-time one. Where samples
            or classes have weights, that of those of the largest weight.
        nudging: ``one-sided`` with β as given, ``random-sign`` with +β or −β drawn per mini-batch.
        tolerance: let every sample end its free phase where it rests, see
            :func:`~eqprop.core.phases.relax`, to the tolerance times the
            :meth:`~eqprop.core.nudging.Nudge.effect` of the nudge, as which what is left of it
            counts. The nudged phase has K steps for all: while the weights move, which all samples
            share, none has a state of its own to come to.
        cost: ℓ.

    Raises:
        ValueError: T or K < 1, β = 0 or not finite, another nudging, a negative tolerance.
        TypeError: a cost that is none; an optimizer whose ``step`` needs a closure.
    """

    optimizer: torch.optim.Optimizer
    free_steps: int
    nudged_steps: int
    beta: float
    nudging: Nudging = "one-sided"
    tolerance: float | None = None
    cost: Cost = field(default_factory=SquaredError)

    def __post_init__(self) -> None:
        require_steps(free_steps=self.free_steps, nudged_steps=self.nudged_steps)
        require_cost(self.cost)
        require_tolerance(self.tolerance)
        require_beta(self.beta)
        require_no_closure(self.optimizer)
        if self.nudging not in CONTINUAL_NUDGINGS:
            raise ValueError(
                f"nudging: expected one of {', '.join(CONTINUAL_NUDGINGS)}, as the weights can "
                f"follow one nudged phase only, got {self.nudging!r}"
            )

    @torch.no_grad()
    def estimate(
        self,
        model: ConvergentModel,
        x: Tensor,
        target: Tensor,
        generator: torch.Generator | None,
    ) -> Estimate:
        """Updates the parameters in every step of the nudged phase.

        Raises:
            ValueError: the optimizer holds none of the model's parameters.
            NonFiniteError: a state stopped being finite; in the nudged phase, what was learnt in
                it stays.
        """
        drive = model.drive(x)
        beta = self.beta / self.cost.largest_weight
        if self.nudging == "random-sign":
            beta *= random_sign(generator)
        nudge = Nudge(self.cost, target, beta, model)
        free = relax(model, x, self.free_steps, drive=drive, tolerance=self.tolerance, ahead=nudge)

        rates = learning_rates(model, self.optimizer)
        plain, deferred = is_plain_descent(self.optimizer), None
        if plain and isinstance(model, DefersUpdates):
            deferred = model.defer(x, rates)
        waiting = frozenset[str]() if deferred is None else deferred.parameters & rates.keys()
        reading = _Reading(model, self.cost, target, rates.keys())
        learn = self._rule(model, x, rates, rates.keys() - waiting, plain=plain, reading=reading)

        def update(before: State, after: State) -> Any:
            learn(before, after, before, 1 / beta)
            # Autocast remembers the rounded weights of before.
            torch.clear_autocast_cache()
            nonlocal drive
            if deferred is None:
                drive = model.drive(x)
            else:
                # Not in place: the drive of a single linear layer is its state.
                drive = torch.add(drive, deferred.follow(before, after), alpha=1 / beta)
            return drive

        try:
            nudged = nudged_phase(
                model,
                x,
                self.nudged_steps,
                nudge,
                free.state,
                drive=drive,
                update=update,
            )
            if waiting:
                last = self._rule(model, x, rates, waiting, plain=plain)
                last(free.state, nudged.state, free.state, 1 / beta)
        finally:
            self.optimizer.zero_grad()
        return Estimate(free, (nudged,))

    def _rule(
        self,
        model: ConvergentModel,
        x: Tensor,
        rates: Mapping[str, float],
        names: Collection[str],
        *,
        plain: bool,
        reading: "_Reading | None" = None,
    ) -> LearningRule:
        """What moves these parameters: the rule itself under plain descent, else the optimizer."""
        parameters = dict(model.named_parameters())
        if plain:
            rule = model.learning_rule(x, {name: rates[name] for name in names})
            if reading is None or not model.has_readout:
                return rule

            def learn_both(before: State, after: State, anchor: State, scale: float) -> None:
                rule(before, after, anchor, scale)
                for name, gradient in reading.step(after).items():
                    parameters[name].add_(gradient, alpha=-rates[name])

            return learn_both

        def learn(before: State, after: State, anchor: State, scale: float) -> None:
            gradients = model.contrast_gradients(x, before, after, anchor, -scale, names)
            if reading is not None:
                gradients |= reading.step(after)
            for name, gradient in gradients.items():
                parameters[name].grad = gradient
            self.optimizer.step()

        return learn


class _Reading:
    """What a readout learns in every nudged step: ∂ℓ/∂θ there, less what it was a step before."""

    def __init__(
        self, model: ConvergentModel, cost: Cost, target: Tensor, names: Collection[str]
    ) -> None:
        self._of = model, cost, target, names
        self._before: dict[str, Tensor] = {}

    def step(self, state: State) -> dict[str, Tensor]:
        """The gradients of this step, which sum to those of the last state."""
        model, cost, target, names = self._of
        now = model.readout_gradients(cost, state, target, names)
        moved = {name: g - self._before.get(name, 0.0) for name, g in now.items()}
        self._before = now
        return moved
