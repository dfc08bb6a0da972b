r"""Theorem 1: the updates of EP against the gradients of BPTT, step by step.

A process is what happens at every step t = 0 … K−1, in neurons and in synapses:

====  ======================================  ===================================================
      states                                  parameters
====  ======================================  ===================================================
EP    Δ_s(t) = (s_{t+1} − s_t) / (εβ)         Δ_θ(t) = (1/β) ∂/∂θ contrast(s_t, s_{t+1})
BPTT  ∇_s(t) = ∂ℓ/∂s_{T−t}, of every sample   ∇_θ(t) = ∂L/∂θ_{T−t}
====  ======================================  ===================================================

EP starts its nudged phase at s_*, the end of a free phase of T transitions. BPTT differentiates the
last K of the same T transitions, each with its own copy of θ; the copy θ_{T−t} is the one that
leads to s_{T−t}, and L is the batch mean of ℓ. For a primitive function, the contrast is
Φ(s_{t+1}) − Φ(s_t), so Σ_t Δ_θ(t) telescopes to the update of EP, as Σ_t ∇_θ(t) is the gradient of
truncated BPTT. What a readout learns is all in the step t = 0, as its last copy alone is seen by ℓ;
in EP it is ∂ℓ/∂θ(s_t) − ∂ℓ/∂θ(s_{t+1}), at t = 0 without the former.

Theorem 1: if s_* held during those K transitions, then Δ_s(t) = −∇_s(t) and Δ_θ(t) = −∇_θ(t) for
every t, as β → 0: the error is O(β), or O(β²) where the processes of +β and −β are averaged
(symmetric nudging), or O(β^N) where those of N points of a circle of complex β are, and of what
comes of it the real part is taken (holomorphic EP): s_t is a holomorphic function of β at every
step, so that Cauchy's formula holds step by step. With continual updates, θ ← θ + η Δ_θ(t) in every
step, there is one of O(η/β) more, since what the moving weights do to the states is divided by β
too. Where layers are updated in turn, the totals over a nudged phase that has settled agree, the
single steps do not; by Newton's steps (:mod:`eqprop.networks.real_time`) those of parameters alone,
as every unit has a time step of its own in place of ε. Of units at a bound of a clip see
:mod:`eqprop.analysis.held`.

Other estimators nudge the network otherwise, and teach by other moves: their processes are had in
the same way, by their :mod:`~eqprop.estimators.dynamics`.

All gradients of BPTT come from one backward pass, and memory grows with K alone. How well two
processes agree is measured in :mod:`eqprop.analysis.agreement`.

Source: Ernoult et al., https://arxiv.org/abs/1905.13633, theorem 1; continual updates:
https://arxiv.org/abs/2005.04168, theorem 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
from torch import Tensor

from eqprop.analysis.held import Holding, held_units, holding
from eqprop.core.costs import Cost, SquaredError
from eqprop.core.models import ConvergentModel, State
from eqprop.core.nudging import Nudge, require_beta
from eqprop.core.phases import relax
from eqprop.core.stand_in import standing_in
from eqprop.core.stepping import movement, require_finite, transitions
from eqprop.estimators.dynamics import Local, NudgedDynamics
from eqprop.estimators.holomorphic import Holomorphic, circle, require_holomorphic
from eqprop.summary import summary

__all__ = [
    "FreePhase",
    "Nudges",
    "Process",
    "bptt_process",
    "ep_process",
    "free_phase",
    "points_of",
    "require_reach",
]

Nudges = Literal["one-sided", "symmetric"] | int
"""Of which β processes are averaged: β, ±β, or N points of the circle β e^{2πik/N}."""

Rates = float | Sequence[float] | Mapping[str, float]
"""η: one rate, one per layer (input side first), or one per parameter by name (others stay)."""


@final
@dataclass(frozen=True, eq=False)
class FreePhase:
    """A free phase of T transitions, and how steady its end was.

    Attributes:
        start: s_{T−K}, from where BPTT differentiates.
        state: s_* = s_T, from where EP is nudged.
        free_steps: T.
        nudged_steps: K.
        residual: max ``|s_T − s_{T−1}|`` over the units of each layer: how far from converged.
        moved: max ``|s_T − s_{T−k}|`` over the units of each layer and k = 1 … K: the theorem
            supposes that it is 0.
        oscillating: whether the end goes to and fro between two states, into which layers that are
            all updated at once may fall: s_T is 100 times closer to s_{T−2} than to s_{T−1}.
        in_turn: whether a step updates some layers after others, see :mod:`eqprop.core.powers`.
        holding: what can hold units of the model, see :mod:`eqprop.analysis.held`.
        held: which units are held at s_*, (B, …) of bool per layer; nothing if nothing can.
    """

    start: State
    state: State
    free_steps: int
    nudged_steps: int
    residual: tuple[float, ...]
    moved: tuple[float, ...]
    oscillating: bool
    in_turn: bool
    holding: Holding = ""
    held: State = ()

    __repr__ = summary


@torch.no_grad()
def free_phase(model: ConvergentModel, x: Tensor, free_steps: int, nudged_steps: int) -> FreePhase:
    """Let the model settle freely for T transitions, watching the last K.

    Raises:
        ValueError: K < 1 or K > T.
        NonFiniteError: a state stopped being finite.
    """
    require_reach(free_steps, nudged_steps)
    drive = model.drive(x)
    start = model.initial_state(x)
    if settling := free_steps - nudged_steps:
        start = relax(model, x, settling, state=start, drive=drive).state
    phase = f"free phase, last {nudged_steps} steps"
    steps = transitions(model, drive, start, nudged_steps, phase=phase)
    path = [start, *(after for _, after in steps)]
    by = holding(model)
    moved = [tuple(movement(before, path[-1]).amax(0).tolist()) for before in path[:-1]]
    return FreePhase(
        start,
        path[-1],
        free_steps,
        nudged_steps,
        residual=moved[-1],
        moved=tuple(map(max, zip(*moved, strict=True))),
        oscillating=len(moved) > 1 and max(moved[-2]) < 0.01 * max(moved[-1]),
        in_turn=bool(getattr(model, "in_turn", False)),
        holding=by,
        held=held_units(model, drive, path[-1], by),
    )


def require_reach(free_steps: int, nudged_steps: int) -> None:
    """Refuse a K through which BPTT cannot go."""
    if not 1 <= nudged_steps <= free_steps:
        raise ValueError(
            f"nudged_steps: expected 1 to free_steps = {free_steps}, as backpropagation goes "
            f"through the last of the free ones, got {nudged_steps}"
        )


@final
@dataclass(frozen=True, eq=False)
class Process:
    """What happened at every step t, in neurons and in synapses.

    Attributes:
        states: Δ_s(t) or ∇_s(t) for every sample, (K, B, …), one per layer.
        parameters: Δ_θ(t) or ∇_θ(t), (K, …), by parameter name.
        free: the free phase before it.
        layers: what messages call the layers.
        beta: β of EP; 0 for BPTT.
        epsilon: the model's time step ε.
        crossed: the share, 0 to 1, of the units of each layer that are held at s_* and not in some
            step of the nudged phase, or the other way round. Nothing where that cannot be seen of
            the states, and for BPTT.
    """

    states: tuple[Tensor, ...]
    parameters: Mapping[str, Tensor]
    free: FreePhase
    layers: tuple[str, ...]
    beta: float
    epsilon: float
    crossed: tuple[float, ...] = ()

    __repr__ = summary

    @property
    def total(self) -> dict[str, Tensor]:
        """Σ_t over the process, by parameter name: the update of EP, or the gradient of BPTT."""
        return {name: steps.sum(0) for name, steps in self.parameters.items()}


@torch.no_grad()
def ep_process(
    model: ConvergentModel,
    x: Tensor,
    target: Tensor,
    *,
    free_steps: int,
    nudged_steps: int,
    beta: float,
    nudging: Nudges = "one-sided",
    eta: Rates | None = None,
    cost: Cost | None = None,
    free: FreePhase | None = None,
    dynamics: type[NudgedDynamics] = Local,
) -> Process:
    """The updates of EP at every step of the nudged phase.

    Args:
        model: any convergent model; it is left as it was, whatever η.
        x: the static input, (B, …).
        target: y, shaped like the output layer, (B, …).
        free_steps: T.
        nudged_steps: K.
        beta: β ≠ 0; in real time the continuous-time one.
        nudging: ``symmetric`` averages the processes of +β and −β; a number N those of N points of
            the circle β e^{2πik/N} of complex β, as holomorphic EP does: 2 is symmetric.
        eta: learning rates of continual updates, θ ← θ + η Δ_θ(t) after every step. A vector field
            is then differentiated at s_t, as continual EP does; with None at s_*, as EP does. For
            primitive functions None and 0 mean the same.
        cost: ℓ; the squared error if not given.
        free: the free phase of this model, x, T and K, where the caller has it already.
        dynamics: those of the nudged phase, see :mod:`eqprop.estimators.dynamics`: EP's own, or
            what another estimator does in its place.

    Raises:
        ValueError: K < 1, K > T, β = 0 or not finite, unknown nudging, learning rates that do not
            fit the model, a free phase of other T or K; of more than two points, continual
            updates, or dynamics that are not EP's.
        NotHolomorphicError: more than two points, of a model, or a cost, that is not holomorphic.
        NonFiniteError: a state stopped being finite.
    """
    require_beta(beta)
    points = points_of(nudging)
    if points > 2:
        _require_circle(model, eta, dynamics)
    rates = None if eta is None else _rates(model, eta)
    free = _checked(free, model, x, free_steps, nudged_steps)
    cost = cost or SquaredError()
    given = model, x, target, free
    (first, share), *others = circle(beta, points)
    states, parameters, crossed = _nudged(*given, first, rates, cost, dynamics)
    for here in (*states, *parameters.values()):
        here.mul_(share)
    # One point at a time, so that there is never more than one spare process in memory.
    for at, share in others:
        there, taught, cross = _nudged(*given, at, rates, cost, dynamics)
        crossed = tuple(one | other for one, other in zip(crossed, cross, strict=True))
        for here, other in zip(states, there, strict=True):
            here.add_(other, alpha=share)
        for name, here in parameters.items():
            here.add_(taught[name], alpha=share)
        del there, taught
    shares = tuple(float(of.double().mean()) for of in crossed)
    return Process(states, parameters, free, _layers(model), beta, model.epsilon, shares)


def points_of(nudging: Nudges) -> int:
    """N, of how many points of the circle of β the processes are averaged; the error is O(β^N).

    Raises:
        ValueError: unknown nudging, or N < 1.
    """
    if nudging in get_args(get_args(Nudges)[0]):
        return 1 if nudging == "one-sided" else 2
    if type(nudging) is not int or nudging < 1:
        raise ValueError(
            f"nudging: expected one-sided, symmetric or how many points of the circle of β, at "
            f"least 1, got {nudging!r}"
        )
    return nudging


def _require_circle(
    model: ConvergentModel, eta: Rates | None, dynamics: type[NudgedDynamics]
) -> None:
    """Refuse what no complex β can nudge."""
    require_holomorphic(model)
    if eta is not None:
        raise ValueError(
            "eta: expected none with more than two points of β, as continual updates of complex β "
            f"would make the parameters complex, got {eta}"
        )
    if dynamics is not Local:
        raise ValueError(
            "dynamics: expected EP's own (Local) with more than two points of β, got "
            f"{dynamics.__name__}"
        )


def _nudged(
    model: ConvergentModel,
    x: Tensor,
    target: Tensor,
    free: FreePhase,
    beta: complex,
    rates: Mapping[str, float] | None,
    cost: Cost,
    dynamics: type[NudgedDynamics],
) -> tuple[tuple[Tensor, ...], dict[str, Tensor], State]:
    """The processes of one nudged phase, Δ_s and Δ_θ, and which units crossed a kink."""
    steps = free.nudged_steps
    nudge = Nudge(cost, target, beta, model)
    present = _trained(model)
    states = tuple(layer.new_empty((steps, *layer.shape)) for layer in free.state)
    parameters = {name: p.new_empty((steps, *p.shape)) for name, p in present.items()}
    # Frozen parameters leave the drive as it is; moving ones may change it in every step.
    drive = model.drive(x) if rates is None else None
    # What is recorded of a complex β is the real part: of its conjugate, it is the same.
    nudged = (Holomorphic if beta.imag else dynamics)(model, x, free.state)
    state, read = free.state, dict[str, Tensor]()
    # What an activation holds would have to be asked of another field in every step.
    seen = free.holding in ("clip", "rho")
    crossed = tuple(torch.zeros_like(of) for of in free.held) if seen else ()
    for t in range(steps):
        with standing_in(model, present):
            at = model.drive(x) if drive is None else drive
            pull = nudged.pulling(nudge)
            before, state = next(transitions(nudged, at, state, 1, nudge=pull))
            anchor = free.state if rates is None else before
            gradients = nudged.teaching(before, state, anchor, 1 / beta)
            reads = nudged.reading(cost, state, target)
            for name, gradient in reads.items():
                gradients[name] = read.get(name, 0.0) - gradient
            read = reads
        for recorded, old, new in zip(states, before, state, strict=True):
            recorded[t] = ((new - old) / (model.epsilon * beta)).real
        if seen:
            for of, there, now in zip(
                crossed, free.held, held_units(model, at, state, free.holding), strict=True
            ):
                of.logical_or_(there != now)
        for name, recorded in parameters.items():
            recorded[t] = gradients[name]
        if rates is not None:
            nudged.renew()
            present = {
                name: (p + rates[name] * gradients[name]).requires_grad_()
                for name, p in present.items()
            }
    moves = (tuple(layer[t] for layer in states) for t in range(steps))
    require_finite(model, moves, steps, nudge.phase)
    return states, parameters, crossed


def bptt_process(
    model: ConvergentModel,
    x: Tensor,
    target: Tensor,
    *,
    free_steps: int,
    nudged_steps: int,
    cost: Cost | None = None,
    free: FreePhase | None = None,
) -> Process:
    """The gradients of BPTT at every one of the last K transitions, all from one backward pass.

    The gradients by states are those of the cost of each sample, those by parameters of the batch
    mean. ``.grad`` is not touched.

    Args:
        model: any convergent model.
        x: the static input, (B, …).
        target: y, shaped like the output layer, (B, …).
        free_steps: T.
        nudged_steps: K, how many transitions are differentiated.
        cost: ℓ; the squared error if not given.
        free: the free phase of this model, x, T and K, where the caller has it already.

    Raises:
        ValueError: K < 1, K > T, a free phase of other T or K.
        NonFiniteError: a state stopped being finite.
    """
    free = _checked(free, model, x, free_steps, nudged_steps)
    cost = cost or SquaredError()

    state = free.start
    path: list[State] = []
    copies: list[dict[str, Tensor]] = []
    with torch.enable_grad():
        for _ in range(nudged_steps):
            # A copy to autograd, but the same memory: only the gradients are K times θ.
            copies.append(_trained(model))
            with standing_in(model, copies[-1]):
                _, state = next(transitions(model, model.drive(x), state, 1))
            # Where nothing that is differentiated leads to a layer, it still has a gradient itself.
            state = tuple(s if s.requires_grad else s.detach().requires_grad_() for s in state)
            path.append(state)
        with standing_in(model, copies[-1]):
            loss = cost(model.prediction(state), target).sum()
        if not loss.requires_grad:
            raise ValueError("cost: expected a function of the output that autograd can follow")
        # By samples, the sum gives each its own; by parameters, the mean is asked for.
        wanted = [
            tensor
            for state, copy in zip(reversed(path), reversed(copies), strict=True)
            for tensor in (*state, *copy.values())
        ]
        gradients = list(torch.autograd.grad(loss, wanted, materialize_grads=True))
    del path, copies, wanted, loss, state
    gradients.reverse()

    states = tuple(s.new_empty((nudged_steps, *s.shape)) for s in free.state)
    names = _trained(model)
    parameters = {name: p.new_empty((nudged_steps, *p.shape)) for name, p in names.items()}
    for t in range(nudged_steps):
        # Taken off the list one by one, so that not everything is in memory twice.
        for recorded in states:
            recorded[t] = gradients.pop()
        for recorded in parameters.values():
            recorded[t] = gradients.pop() / len(x)
    return Process(states, parameters, free, _layers(model), 0.0, model.epsilon)


def _trained(model: ConvergentModel) -> dict[str, Tensor]:
    """The trained parameters as fresh leaves on the same memory."""
    return {
        name: p.detach().requires_grad_() for name, p in model.named_parameters() if p.requires_grad
    }


def _rates(model: ConvergentModel, eta: Rates) -> dict[str, float]:
    """The learning rate of every trained parameter, by name."""
    names = list(_trained(model))
    if isinstance(eta, Mapping):
        if unknown := sorted(set(eta) - set(names)):
            raise ValueError(f"eta: expected names among {', '.join(names)}, got {unknown[0]}")
        return {name: float(eta.get(name, 0.0)) for name in names}
    if isinstance(eta, Sequence):
        groups = getattr(model, "parameter_groups", None)
        if groups is None:
            raise ValueError(
                f"eta: expected one number, or one by parameter name, as {type(model).__name__} "
                f"does not say which layer a parameter belongs to, got {list(eta)}"
            )
        by_parameter = {id(p): group["lr"] for group in groups(eta) for p in group["params"]}
        return {
            name: float(by_parameter[id(p)])
            for name, p in model.named_parameters()
            if name in names
        }
    return dict.fromkeys(names, float(eta))


def _checked(
    free: FreePhase | None, model: ConvergentModel, x: Tensor, free_steps: int, nudged_steps: int
) -> FreePhase:
    if free is None:
        return free_phase(model, x, free_steps, nudged_steps)
    if (free.free_steps, free.nudged_steps) != (free_steps, nudged_steps):
        raise ValueError(
            f"free: expected a free phase of T = {free_steps} and K = {nudged_steps}, "
            f"got one of T = {free.free_steps} and K = {free.nudged_steps}"
        )
    return free


def _layers(model: ConvergentModel) -> tuple[str, ...]:
    return tuple(model.layer_name(index) for index in range(len(model.shapes)))
