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
truncated BPTT.

Theorem 1: if s_* held during those K transitions, then Δ_s(t) = −∇_s(t) and Δ_θ(t) = −∇_θ(t) for
every t, as β → 0: the error is O(β), or O(β²) where the processes of +β and −β are averaged
(symmetric nudging). With continual updates, θ ← θ + η Δ_θ(t) in every step, the error is O(β + η).

All gradients of BPTT come from one backward pass, and memory grows with K alone.

Source: Ernoult et al., https://arxiv.org/abs/1905.13633, theorem 1; continual updates:
https://arxiv.org/abs/2005.04168, theorem 1.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, Self, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from eqprop.costs import Cost, SquaredError
from eqprop.models import ConvergentModel, State
from eqprop.relaxation import nudge, relax

__all__ = [
    "Agreement",
    "Agreements",
    "Average",
    "Comparison",
    "FreePhase",
    "Premise",
    "Process",
    "average",
    "bptt_process",
    "compare",
    "ep_process",
    "free_phase",
]

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
        residual: max |s_T − s_{T−1}| over the units of each layer: how far from converged.
        moved: max |s_T − s_{T−k}| over the units of each layer and k = 1 … K: the theorem supposes
            that it is 0.
        alternating: whether the end goes to and fro between two states, into which layers that are
            all updated at once may fall: s_T is 100 times closer to s_{T−2} than to s_{T−1}.
    """

    start: State
    state: State
    free_steps: int
    nudged_steps: int
    residual: tuple[float, ...]
    moved: tuple[float, ...]
    alternating: bool


@torch.no_grad()
def free_phase(model: ConvergentModel, x: Tensor, free_steps: int, nudged_steps: int) -> FreePhase:
    """Let the model settle freely for T transitions, watching the last K.

    Raises:
        ValueError: K < 1 or K > T.
        NonFiniteError: a state stopped being finite.
    """
    if not 1 <= nudged_steps <= free_steps:
        raise ValueError(
            f"nudged_steps: expected 1 to free_steps = {free_steps}, as backpropagation goes "
            f"through the last of the free ones, got {nudged_steps}"
        )
    drive = model.drive(x)
    start = model.initial_state(x)
    if settling := free_steps - nudged_steps:
        start = relax(model, x, settling, state=start, drive=drive).state
    path = relax(
        model,
        x,
        nudged_steps,
        state=start,
        drive=drive,
        record=True,
        phase=f"free phase, last {nudged_steps} steps",
    ).trajectory
    moved = [_distance(before, path[-1]) for before in path[:-1]]
    return FreePhase(
        start,
        path[-1],
        free_steps,
        nudged_steps,
        residual=moved[-1],
        moved=tuple(map(max, zip(*moved, strict=True))),
        alternating=len(moved) > 1 and max(moved[-2]) < 0.01 * max(moved[-1]),
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
    """

    states: tuple[Tensor, ...]
    parameters: Mapping[str, Tensor]
    free: FreePhase
    layers: tuple[str, ...]
    beta: float
    epsilon: float

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
    nudging: Literal["one-sided", "symmetric"] = "one-sided",
    eta: Rates | None = None,
    cost: Cost | None = None,
    free: FreePhase | None = None,
) -> Process:
    """The updates of EP at every step of the nudged phase.

    Args:
        model: any convergent model; it is left as it was, whatever η.
        x: the static input, (B, …).
        target: y, shaped like the output layer, (B, …).
        free_steps: T.
        nudged_steps: K.
        beta: β ≠ 0; in real time the continuous-time one.
        nudging: ``symmetric`` averages the processes of +β and −β.
        eta: learning rates of continual updates, θ ← θ + η Δ_θ(t) after every step. A vector field
            is then differentiated at s_t, as continual EP does; with None at s_*, as EP does. For
            primitive functions None and 0 mean the same.
        cost: ℓ; the squared error if not given.
        free: the free phase of this model, x, T and K, where the caller has it already.

    Raises:
        ValueError: K < 1, K > T, β = 0 or not finite, unknown nudging, learning rates that do not
            fit the model, a free phase of other T or K.
        NonFiniteError: a state stopped being finite.
    """
    if not 0 < abs(beta) < math.inf:
        raise ValueError(f"beta: expected a finite number other than 0, got {beta}")
    if nudging not in ("one-sided", "symmetric"):
        raise ValueError(f"nudging: expected one-sided or symmetric, got {nudging!r}")
    rates = None if eta is None else _rates(model, eta)
    free = _checked(free, model, x, free_steps, nudged_steps)
    cost = cost or SquaredError()
    states, parameters = _nudged(model, x, target, free, beta, rates, cost)
    if nudging == "symmetric":
        # One way at a time, so that there is never more than one spare process in memory.
        opposite_states, opposite = _nudged(model, x, target, free, -beta, rates, cost)
        for here, there in zip(states, opposite_states, strict=True):
            here.add_(there).div_(2)
        for name, here in parameters.items():
            here.add_(opposite[name]).div_(2)
    return Process(states, parameters, free, _layers(model), beta, model.epsilon)


def _nudged(
    model: ConvergentModel,
    x: Tensor,
    target: Tensor,
    free: FreePhase,
    beta: float,
    rates: Mapping[str, float] | None,
    cost: Cost,
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The processes of one nudged phase, Δ_s and Δ_θ."""
    steps = free.nudged_steps
    force = nudge(cost, target, beta)
    present = _trained(model)
    states = tuple(layer.new_empty((steps, *layer.shape)) for layer in free.state)
    parameters = {name: p.new_empty((steps, *p.shape)) for name, p in present.items()}
    # Frozen parameters leave the drive as it is; moving ones may change it in every step.
    drive = model.drive(x) if rates is None else None
    state = free.state
    for t in range(steps):

        def transition(
            model: ConvergentModel, state: State = state, t: int = t
        ) -> tuple[State, dict[str, Tensor]]:
            phase = f"nudged phase (beta {beta:+g}), t = {t},"
            after = relax(model, x, 1, state=state, force=force, drive=drive, phase=phase).state
            anchor = free.state if rates is None else state
            return after, model.contrast_gradients(x, state, after, anchor, 1 / beta)

        if rates is None:
            after, gradients = transition(model)
        else:
            after, gradients = _standing_in(model, present, transition)
            present = {
                name: (p + rates[name] * gradients[name]).requires_grad_()
                for name, p in present.items()
            }
        for recorded, old, new in zip(states, state, after, strict=True):
            recorded[t] = (new - old) / (model.epsilon * beta)
        for name, recorded in parameters.items():
            recorded[t] = gradients[name]
        state = after
    return states, parameters


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

    def transition(copy: ConvergentModel, state: State) -> State:
        return copy.step(copy.drive(x), state)

    state = free.start
    path: list[State] = []
    copies: list[dict[str, Tensor]] = []
    with torch.enable_grad():
        for _ in range(nudged_steps):
            # A copy to autograd, but the same memory: only the gradients are K times θ.
            copies.append(_trained(model))
            state = _standing_in(model, copies[-1], transition, state)
            # Where nothing that is differentiated leads to a layer, it still has a gradient itself.
            state = tuple(s if s.requires_grad else s.detach().requires_grad_() for s in state)
            path.append(state)
        loss = cost(state[-1], target).sum()
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


@final
@dataclass(frozen=True)
class Agreement:
    """How well EP's updates u agree with v, minus the gradients of BPTT, over a set of entries.

    Attributes:
        relative_error: ‖u − v‖ / ‖v‖, the relative root-mean-square error; 0 if both are 0, and
            infinite if v alone is.
        cosine: ⟨u, v⟩ / (‖u‖ ‖v‖); not a number if one of them is 0.
        angle: arccos of it, in degrees, precise for small angles too.
        sign_agreement: the share, 0 to 1, of the entries with v ≠ 0 in which u has the sign of v.
            Where v is exactly 0 (a step that the error has not reached, a pixel that is black in
            the whole batch) there is no sign to agree with; where u alone is 0, it disagrees. Not a
            number if v is 0 everywhere.
    """

    relative_error: float
    cosine: float
    angle: float
    sign_agreement: float

    @classmethod
    def of(cls, sums: Sequence[float]) -> Self:
        """From ‖u‖², ‖v‖², ⟨u, v⟩, ‖u − v‖², how many signs were equal, of how many."""
        uu, vv, uv, dd, equal, counted = sums
        u, v, d = math.sqrt(uu), math.sqrt(vv), math.sqrt(dd)
        error = d / v if v else (math.inf if d else 0.0)
        cosine = angle = math.nan
        if u and v:
            cosine = max(-1.0, min(1.0, uv / (u * v)))
            # ‖u − v‖² = (‖u‖ − ‖v‖)² + 2 ‖u‖ ‖v‖ (1 − cos): arccos would lose half of the digits.
            chord = min(4.0, max(0.0, (d - (u - v)) * (d + (u - v)) / (u * v)))
            angle = math.degrees(2 * math.atan2(math.sqrt(chord), math.sqrt(4 - chord)))
        return cls(error, cosine, angle, equal / counted if counted else math.nan)


@final
@dataclass(frozen=True)
class Agreements:
    """Agreement over the whole of a nudged phase, and at every step.

    Attributes:
        overall: over all entries at all t.
        at: over all entries at t, for t = 0 … K−1.
    """

    overall: Agreement
    at: tuple[Agreement, ...]


@final
@dataclass(frozen=True)
class Premise:
    """Whether the free phase was steady, as Theorem 1 supposes.

    What the free state still moves by, EP takes for an effect of the nudge. So the premise is said
    to hold as long as, in every layer, the last free transition and the K last ones moved no unit
    by more than a ``limit`` of what the nudge moves one by, in its largest step and in all. The
    limit is 1 %, or |β| if that is smaller: the error that the finite nudge itself brings.

    Attributes:
        layers: what the layers are called.
        residual: the largest move in the last free transition, per layer.
        moved: the largest move within the last K free transitions, per layer.
        nudged_step: the largest move in one nudged transition, per layer.
        nudged: the largest move in the nudged phase, per layer.
        limit: the share of the latter two that the former two may come to.
        rounding: moves that may be those of rounding alone, which are no reproach.
        alternating: whether the free state goes to and fro between two states.
    """

    layers: tuple[str, ...]
    residual: tuple[float, ...]
    moved: tuple[float, ...]
    nudged_step: tuple[float, ...]
    nudged: tuple[float, ...]
    limit: float
    rounding: float
    alternating: bool

    @property
    def holds(self) -> bool:
        return not self.problems

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, a line each; empty if the premise holds."""
        found = []
        for what, free, nudged in (
            ("the free phase has not converged", self.residual, self.nudged_step),
            ("the free phase moved during its last K steps", self.moved, self.nudged),
        ):
            layers = [
                f"{layer} by {f:.1e}, {_percent(f, n)} of what the nudge moves it by"
                for layer, f, n in zip(self.layers, free, nudged, strict=True)
                if f > max(self.limit * n, self.rounding)
            ]
            if layers:
                found.append(
                    f"{what}: {'; '.join(layers)}; expected at most {100 * self.limit:.2g} %"
                )
        if found:
            found[0] += (
                "; it alternates between two states, which more free steps seldom end"
                if self.alternating
                else "; allow more free steps"
            )
        return tuple(found)


@final
@dataclass(frozen=True)
class Comparison:
    """How well EP's processes agree with minus those of BPTT.

    Attributes:
        states: over all layers.
        parameters: over all parameters.
        by_layer: the states of each layer, by what it is called.
        by_parameter: each parameter, by name.
        total_update_angle: degrees between Σ_t Δ_θ(t) and −Σ_t ∇_θ(t) over all weights, that is
            parameters of at least two dimensions (or all, if none has), put end to end.
        premise: whether the free phase was steady.
    """

    states: Agreements
    parameters: Agreements
    by_layer: dict[str, Agreements]
    by_parameter: dict[str, Agreements]
    total_update_angle: float
    premise: Premise


@torch.no_grad()
def compare(ep: Process, bptt: Process) -> Comparison:
    """Compare the processes of :func:`ep_process` with those of :func:`bptt_process`.

    Raises:
        ValueError: they are of different models, batches or K, or not one of each kind.
    """
    if ep.beta == 0 or bptt.beta != 0:
        raise ValueError(
            f"beta: expected a process of EP, then one of BPTT, got {ep.beta:g} and {bptt.beta:g}"
        )
    for what, ours, theirs in (
        ("layers", _shapes(dict(enumerate(ep.states))), _shapes(dict(enumerate(bptt.states)))),
        ("parameters", _shapes(ep.parameters), _shapes(bptt.parameters)),
    ):
        if ours != theirs:
            raise ValueError(
                f"{what}: expected processes of the same shapes, got {ours} and {theirs}"
            )
    layers = {
        name: _sums(u, v) for name, u, v in zip(ep.layers, ep.states, bptt.states, strict=True)
    }
    parameters = {name: _sums(u, bptt.parameters[name]) for name, u in ep.parameters.items()}
    weights = [name for name, p in ep.parameters.items() if p.dim() > 2] or list(parameters)
    totals = [
        _sums(ep.parameters[name].sum(0, keepdim=True), bptt.parameters[name].sum(0, keepdim=True))
        for name in weights
    ]
    return Comparison(
        states=_agreements(layers.values(), len(ep.states[0])),
        parameters=_agreements(parameters.values(), len(ep.states[0])),
        by_layer={name: _agreements([sums], len(sums)) for name, sums in layers.items()},
        by_parameter={name: _agreements([sums], len(sums)) for name, sums in parameters.items()},
        total_update_angle=_agreements(totals, 1).overall.angle,
        premise=_premise(ep),
    )


@final
@dataclass(frozen=True)
class Average:
    """A comparison averaged over mini-batches.

    Attributes:
        mean: the mean of every figure; of the premise, the worst.
        spread: the standard deviation of every figure over the mini-batches (n − 1); not a number
            for one alone.
        batches: how many there were.
    """

    mean: Comparison
    spread: Comparison
    batches: int


def average(comparisons: Sequence[Comparison]) -> Average:
    """Average comparisons over mini-batches.

    Raises:
        ValueError: there are none.
    """
    if not comparisons:
        raise ValueError("comparisons: expected at least one, got none")

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    def deviation(values: Sequence[float]) -> float:
        if len(values) < 2 or not all(map(math.isfinite, values)):
            return math.nan
        centre = mean(values)
        return math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1))

    return Average(_fold(comparisons, mean), _fold(comparisons, deviation), len(comparisons))


def _fold(trees: Sequence[Any], fold: Callable[[Sequence[float]], float]) -> Any:
    """One tree of the same structure, every number of it folded from theirs."""
    first = trees[0]
    if isinstance(first, float):
        return fold(trees)
    if isinstance(first, Premise):
        return _worst(trees)
    if isinstance(first, dict):
        return {key: _fold([tree[key] for tree in trees], fold) for key in first}
    if isinstance(first, tuple):
        return tuple(_fold(items, fold) for items in zip(*trees, strict=True))
    assert is_dataclass(first)
    return type(first)(
        **{
            field.name: _fold([getattr(tree, field.name) for tree in trees], fold)
            for field in fields(first)
        }
    )


def _worst(premises: Sequence[Premise]) -> Premise:
    """The premise of the mini-batch that kept it least."""

    def excess(premise: Premise) -> float:
        pairs = (
            *zip(premise.residual, premise.nudged_step, strict=True),
            *zip(premise.moved, premise.nudged, strict=True),
        )
        return max(free / max(premise.limit * n, premise.rounding) for free, n in pairs)

    return max(premises, key=excess)


def _premise(ep: Process) -> Premise:
    scale = abs(ep.beta) * ep.epsilon
    dtype = ep.states[0].dtype
    largest = max(float(layer.abs().max()) for layer in ep.free.state)
    return Premise(
        ep.layers,
        ep.free.residual,
        ep.free.moved,
        nudged_step=tuple(scale * float(layer.abs().max()) for layer in ep.states),
        nudged=tuple(scale * float(layer.cumsum(0).abs().max()) for layer in ep.states),
        limit=min(0.01, abs(ep.beta)),
        rounding=8 * torch.finfo(dtype).eps * max(1.0, largest),
        alternating=ep.free.alternating,
    )


def _sums(ep: Tensor, bptt: Tensor) -> list[list[float]]:
    """What :meth:`Agreement.of` needs, at every t: (K, 6); sums of them serve larger sets."""
    rows = []
    for u, gradient in zip(ep, bptt, strict=True):
        v = -gradient
        counted = v != 0
        rows.append(
            torch.stack(
                [
                    u.square().sum(),
                    v.square().sum(),
                    (u * v).sum(),
                    (u - v).square().sum(),
                    ((u.sign() == v.sign()) & counted).sum().to(u.dtype),
                    counted.sum().to(u.dtype),
                ]
            )
        )
    return torch.stack(rows).tolist()


def _agreements(parts: Any, steps: int) -> Agreements:
    at = [[sum(column) for column in zip(*(part[t] for part in parts), strict=True)]
          for t in range(steps)]  # fmt: skip
    return Agreements(
        Agreement.of([sum(column) for column in zip(*at, strict=True)]),
        tuple(Agreement.of(sums) for sums in at),
    )


class _Within(nn.Module):
    """Makes any function of a model one that :func:`torch.func.functional_call` can run."""

    def __init__(self, model: ConvergentModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(self.model, *arguments)


def _standing_in(
    model: ConvergentModel,
    parameters: Mapping[str, Tensor],
    function: Callable[..., Any],
    *arguments: Any,
) -> Any:
    """``function(model, …)`` while other tensors stand in for the model's parameters."""
    named = {f"model.{name}": value for name, value in parameters.items()}
    return functional_call(_Within(model), named, (function, *arguments))


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


def _distance(before: State, after: State) -> tuple[float, ...]:
    return tuple(float((a - b).abs().max()) for a, b in zip(after, before, strict=True))


def _shapes(tensors: Mapping[Any, Tensor]) -> dict[Any, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _percent(part: float, whole: float) -> str:
    share = 100 * part / whole if whole else math.inf
    return f"{share:.2g} %" if share < 100 else "all"
