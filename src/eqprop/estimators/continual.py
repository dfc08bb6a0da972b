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

With symmetric nudging two copies of the states are nudged at once, one by +β, one by −β, and the
weights follow half the difference of what both teach: in the sum that of symmetric EP, as η → 0.

Source: Ernoult et al., "Equilibrium Propagation with Continual Weight Updates",
https://arxiv.org/abs/2005.04168.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor

from eqprop.core.costs import Cost, SampleWeighted, SquaredError
from eqprop.core.models import ConvergentModel, State
from eqprop.core.nudging import Nudge, Nudging, require_nudging
from eqprop.core.phases import relax
from eqprop.core.powers import DefersUpdates
from eqprop.core.settling import Relaxation
from eqprop.core.sizes import described
from eqprop.estimators.asymmetric import Asymmetric
from eqprop.estimators.descent import is_plain_descent, learning_rates, require_no_closure
from eqprop.estimators.dyadic import Adjoint
from eqprop.estimators.dynamics import Local, NudgedDynamics
from eqprop.estimators.estimator import Estimate, Estimator, random_sign
from eqprop.estimators.nudges import require_phases

__all__ = ["ContinualEP", "continual_asymmetric", "continual_dyadic"]


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
        nudging: ``one-sided`` with β as given, ``random-sign`` with +β or −β drawn per mini-batch,
            ``symmetric`` with both at once, in two copies of the states.
        tolerance: let every sample end its free phase where it rests, see
            :func:`~eqprop.core.phases.relax`, to the tolerance times the
            :meth:`~eqprop.core.nudging.Nudge.effect` of the nudge, as which what is left of it
            counts. The nudged phase has K steps for all: while the weights move, which all samples
            share, none has a state of its own to come to.
        cost: ℓ.
        dynamics: of the nudged phase, see :mod:`eqprop.estimators.dynamics`.

    Raises:
        ValueError: T or K < 1, β = 0 or not finite, an unknown nudging, a negative tolerance.
        TypeError: a cost that is none, or dynamics; an optimizer whose ``step`` needs a closure.
    """

    optimizer: torch.optim.Optimizer
    free_steps: int
    nudged_steps: int
    beta: float
    nudging: Nudging = "one-sided"
    tolerance: float | None = None
    cost: Cost = field(default_factory=SquaredError)
    dynamics: type[NudgedDynamics] | None = Local

    def __post_init__(self) -> None:
        require_phases(self)
        require_no_closure(self.optimizer)
        require_nudging(self.nudging)
        if not (isinstance(self.dynamics, type) and issubclass(self.dynamics, NudgedDynamics)):
            raise TypeError(
                "dynamics: expected those of a nudged phase, such as Local, got "
                f"{described(self.dynamics)}"
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
        samples, drive = len(x), model.drive(x)
        beta = self.beta / self.cost.largest_weight
        if self.nudging == "random-sign":
            beta *= random_sign(generator)
        nudge = Nudge(self.cost, target, beta, model)
        symmetric = self.nudging == "symmetric"
        ahead = None if symmetric else nudge
        free = relax(model, x, self.free_steps, drive=drive, tolerance=self.tolerance, ahead=ahead)
        start, signs, reads = free.state, None, nudge
        if symmetric:
            # Two copies of every sample, which nothing but the weights connects.
            both = torch.arange(samples, device=x.device).repeat(2)
            drive, x = model.part(drive, x, both), x.index_select(0, both)
            start = tuple(layer.index_select(0, both) for layer in start)
            reads = nudge.part(both)
            signs = x.new_ones(len(x))
            signs[:samples] = -1
            nudge = replace(reads, cost=SampleWeighted(reads.cost, signs))
        assert self.dynamics is not None
        nudged = self.dynamics(model, x, start)

        rates = learning_rates(model, self.optimizer)
        own = self.dynamics is Local
        plain, deferred = own and is_plain_descent(self.optimizer), None
        if plain and isinstance(model, DefersUpdates):
            deferred = model.defer(x, rates)
        waiting = frozenset[str]() if deferred is None else deferred.parameters & rates.keys()
        reading = _Reading(model, reads, rates.keys())
        learn = self._rule(model, x, nudged, rates, rates.keys() - waiting, plain)

        def update(before: State, after: State) -> Any:
            # What a move away from the target teaches is what the move back would.
            compared = (before, after) if signs is None else _towards(signs, before, after)
            learn(*compared, before, 1 / beta, reading.step(after))
            # Autocast remembers the rounded weights of before.
            torch.clear_autocast_cache()
            nonlocal drive
            nudged.renew()
            if deferred is None:
                drive = nudged.drive()
            else:
                # Not in place: the drive of a single linear layer is its state.
                drive = torch.add(drive, deferred.follow(*compared), alpha=1 / beta)
            return drive

        try:
            phase = nudged.phase(drive, self.nudged_steps, nudge, update)
            if waiting:
                compared = (start, phase.state)
                compared = compared if signs is None else _towards(signs, *compared)
                last = self._rule(model, x, nudged, rates, waiting, plain)
                last(*compared, start, 1 / beta, {})
        finally:
            self.optimizer.zero_grad()
        return Estimate(free, (phase,) if signs is None else _halves(phase))

    def _rule(
        self,
        model: ConvergentModel,
        x: Tensor,
        nudged: NudgedDynamics,
        rates: Mapping[str, float],
        names: Collection[str],
        plain: bool,
    ) -> Callable[[State, State, State, float, Mapping[str, Tensor]], None]:
        """What moves these parameters: the rule itself under plain descent, else the optimizer.

        Returns:
            A function of before, after, anchor, the scale 1/β and the gradients of a readout.
        """
        parameters = dict(model.named_parameters())
        if plain:
            rule = model.learning_rule(x, {name: rates[name] for name in names})

            def learn_both(
                before: State, after: State, anchor: State, scale: float, read: Mapping[str, Tensor]
            ) -> None:
                rule(before, after, anchor, scale)
                for name, gradient in read.items():
                    parameters[name].add_(gradient, alpha=-rates[name])

            return learn_both

        def learn(
            before: State, after: State, anchor: State, scale: float, read: Mapping[str, Tensor]
        ) -> None:
            gradients = nudged.teaching(before, after, anchor, -scale, names)
            for name, gradient in (gradients | dict(read)).items():
                parameters[name].grad = gradient
            self.optimizer.step()

        return learn


class _Reading:
    """What a readout learns in every nudged step: ∂ℓ/∂θ there, less what it was a step before."""

    def __init__(self, model: ConvergentModel, nudge: Nudge, names: Collection[str]) -> None:
        self._of = model, nudge, names
        self._before: dict[str, Tensor] = {}

    def step(self, state: State) -> dict[str, Tensor]:
        """The gradients of this step, which sum to those of the last state."""
        model, nudge, names = self._of
        now = model.readout_gradients(nudge.cost, state, nudge.target, names)
        moved = {name: g - self._before.get(name, 0.0) for name, g in now.items()}
        self._before = now
        return moved


def _towards(signs: Tensor, before: State, after: State) -> tuple[State, State]:
    """The two states, exchanged for the samples of a negative sign."""
    back = [signs.view(-1, *[1] * (layer.dim() - 1)) < 0 for layer in before]
    pairs = [*zip(back, before, after, strict=True)]
    return (
        tuple(torch.where(there, a, b) for there, b, a in pairs),
        tuple(torch.where(there, b, a) for there, b, a in pairs),
    )


def _halves(of: Relaxation) -> tuple[Relaxation, Relaxation]:
    """Those of the first half of the samples, and those of the second."""
    states = [layer.chunk(2) for layer in of.state]
    parts = zip(of.steps.chunk(2), of.moved.chunk(2), strict=True)
    one, other = (
        Relaxation(tuple(halves[i] for halves in states), steps, moved)
        for i, (steps, moved) in enumerate(parts)
    )
    return one, other


def continual_asymmetric(
    optimizer: torch.optim.Optimizer,
    free_steps: int,
    nudged_steps: int,
    beta: float,
    nudging: Nudging = "one-sided",
    tolerance: float | None = None,
    cost: Cost | None = None,
) -> ContinualEP:
    """:class:`ContinualEP` that is exact for any vector field, as η, β → 0: with the nudged phase
    of :class:`~eqprop.estimators.asymmetric.AsymEP`, J that of the weights of now, at s_*."""
    cost = cost or SquaredError()
    phases = (free_steps, nudged_steps, beta, nudging, tolerance, cost)
    return ContinualEP(optimizer, *phases, dynamics=Asymmetric)


def continual_dyadic(
    optimizer: torch.optim.Optimizer,
    free_steps: int,
    nudged_steps: int,
    tolerance: float | None = None,
    cost: Cost | None = None,
) -> ContinualEP:
    """:class:`ContinualEP` whose error is that of η alone: a free phase, then K transitions of the
    difference of :mod:`~eqprop.estimators.dyadic`, with β = 1."""
    cost = cost or SquaredError()
    phases = (free_steps, nudged_steps, 1.0, "one-sided", tolerance, cost)
    return ContinualEP(optimizer, *phases, dynamics=Adjoint)
