r"""Holomorphic Equilibrium Propagation: exact at a β that is not small.

Where F is a holomorphic function of the state, the nudge may have a complex strength β, the states
are complex, and the steady state s_*^β is a holomorphic function of β around 0. Its derivative
there, which is what EP wants, is an integral over a circle of any radius within which it stays so,
by Cauchy's formula; and that of N points β_k = β e^{2πik/N} on it is ::

    Δθ = (1/N) Σ_k (1/β_k) ∂Φ/∂θ(s_*^{β_k})         error O(β^N): exponential in N

as all powers of β but the first, the (N + 1)-th, … cancel. N = 2 is symmetric nudging. For points
that are conjugate to each other so are the states, ∂Φ/∂θ(s̄) the conjugate of ∂Φ/∂θ(s), and one of
the two phases is enough: those of half of the circle, of which k = 0, and k = N/2 for even N, are
real. The larger β may be, the less does noise in the states matter, which is divided by it.

A complex transition is that of the model itself, with its parameters and input as complex numbers.
What is not holomorphic, such as a clip, the largest of a window or a norm, is refused: nothing
would be left of Cauchy's formula. A sigmoid has poles off the real axis, the scaled one where
Im s = π/4: they, and where a phase settles no more, bound β.

Source: Laborieux and Zenke, https://arxiv.org/abs/2209.00530.
"""

import cmath
import math
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, final

import torch
from torch import Tensor

from eqprop.core.activations import Activation
from eqprop.core.costs import Cost, SquaredError
from eqprop.core.models import ConvergentModel, State, parameter_gradients
from eqprop.core.nudging import Nudge
from eqprop.core.phases import relax
from eqprop.core.settling import Relaxation
from eqprop.core.sizes import require_whole
from eqprop.core.stand_in import standing_in
from eqprop.estimators.dynamics import Local, NudgedDynamics
from eqprop.estimators.estimator import Estimate, Estimator, accumulate
from eqprop.estimators.nudges import require_phases

__all__ = ["Holomorphic", "HolomorphicEP", "NotHolomorphicError", "circle", "require_holomorphic"]

_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


class NotHolomorphicError(ValueError):
    """A model, or a cost, that is not holomorphic; the message says what of it."""


def circle(beta: float, points: int) -> list[tuple[complex, float]]:
    """β_k of half of the circle, and what share of the whole each stands for: 1/N or 2/N.

    Those on the real axis are real numbers. N = 1 is β alone, N = 2 is ±β.

    Args:
        beta: its radius, and the first of them. points: N ≥ 1, of the whole circle.
    """
    found: list[tuple[complex, float]] = [(beta, 1 / points)]
    for k in range(1, points // 2 + 1):
        opposite = 2 * k == points
        at = cmath.rect(beta, 2 * math.pi * k / points)
        # On an axis without the rounding of its angle.
        at = -beta if opposite else complex(0, beta) if 4 * k == points else at
        found.append((at, (1 if opposite else 2) / points))
    return found


@final
@dataclass(frozen=True)
class HolomorphicEP(Estimator):
    """EP at N points of a circle in the complex plane of β.

    Args:
        free_steps: T, transitions of the free phase.
        nudged_steps: K, transitions of each nudged phase.
        beta: the radius, and the first point, β ≠ 0; in real time the continuous-time one.
        points: N ≥ 2; N // 2 + 1 phases are taken.
        tolerance: let every sample end its free phase where it rests, see
            :func:`~eqprop.core.phases.relax`; T is then the most steps it may take. Nudged phases
            take K.
        cost: ℓ, holomorphic in the output, as the squared error is.

    Raises:
        TypeError: a cost that is none, such as a loss of torch.
        ValueError: T or K < 1, N < 2, β = 0 or not finite, a negative tolerance.
    """

    free_steps: int
    nudged_steps: int
    beta: float
    points: int = 4
    tolerance: float | None = None
    cost: Cost = field(default_factory=SquaredError)
    dynamics: type[NudgedDynamics] | None = field(default=Local, init=False, repr=False)

    def __post_init__(self) -> None:
        require_phases(self)
        (points,) = require_whole("points", self.points)
        if points < 2:
            raise ValueError(f"points: expected at least 2, got {points}")

    @torch.no_grad()
    def estimate(
        self,
        model: ConvergentModel,
        x: Tensor,
        target: Tensor,
        generator: torch.Generator | None,
    ) -> Estimate:
        """Adds the gradient to ``.grad``.

        Raises:
            TypeError: numbers that have no complex ones beside them, such as halves.
            NotHolomorphicError: the model, or the cost.
            NonFiniteError: a state stopped being finite.
        """
        require_holomorphic(model)
        drive = model.drive(x)
        free = relax(model, x, self.free_steps, drive=drive, tolerance=self.tolerance)
        gradients: dict[str, Tensor] = {}
        phases: list[Relaxation] = []
        real, turned = Local(model, x, free.state), Holomorphic(model, x, free.state)
        for beta, share in circle(self.beta / self.cost.largest_weight, self.points):
            nudged = turned if beta.imag else real
            phase = nudged.phase(drive, self.nudged_steps, Nudge(self.cost, target, beta, model))
            # −β ℓ is in Φ_β: (1/β) ∂/∂θ of it is minus the gradient itself.
            taught = nudged.teaching(free.state, phase.state, free.state, -1 / beta)
            taught |= nudged.reading(self.cost, phase.state, target)
            phases.append(phase)
            for name, gradient in taught.items():
                part = gradient * share
                gradients[name] = gradients[name] + part if name in gradients else part
        accumulate(model, gradients)
        return Estimate(free, tuple(phases))


@final
class Holomorphic(NudgedDynamics):
    """The model's own transition and contrast, of complex states and at a complex β.

    What it teaches is real: the mean over two conjugate β.

    Raises:
        TypeError: numbers that have no complex ones beside them, such as halves.
    """

    name = "holomorphic EP"

    def __init__(self, model: ConvergentModel, x: Tensor, free: State) -> None:
        kind = _COMPLEX.get(free[-1].dtype)
        if kind is None:
            raise TypeError(
                f"x: expected float32 or float64, as holomorphic EP has complex states, got "
                f"{free[-1].dtype}"
            )
        self._kind = kind
        self._parameters: dict[str, Tensor] = {}
        super().__init__(model, x, self._states(free))

    @contextmanager
    def _complex(self) -> Iterator[None]:
        """Within it the model has complex parameters, and what torch cannot compute is said."""
        self._parameters = self._parameters or {
            name: p.detach().to(self._kind).requires_grad_(p.requires_grad)
            for name, p in self._model.named_parameters()
        }
        with _in_words(self._model), standing_in(self._model, self._parameters):
            yield

    def step(self, drive: Any, state: State, force: Tensor | None = None) -> State:
        with self._complex():
            return self._model.step(_cast(drive, self._kind), self._states(state), force)

    def pulling(self, nudge: Nudge) -> Callable[[State], Tensor]:
        if not self._model.has_readout:
            return nudge

        def pull(state: State) -> Tensor:
            with self._complex():
                return nudge(self._states(state))

        return pull

    def teaching(
        self,
        before: State,
        after: State,
        anchor: State,
        scale: complex = 1.0,
        only: Container[str] | None = None,
    ) -> dict[str, Tensor]:
        x = self._x.to(self._kind)
        with self._complex(), torch.enable_grad():
            states = map(self._states, (before, after, anchor))
            taught = self._model.contrast(x, *states).mean() * scale
            return _real(parameter_gradients(self._model, (taught.real,), only=only))

    def reading(self, cost: Cost, state: State, target: Tensor) -> dict[str, Tensor]:
        with self._complex():
            return _real(super().reading(cost, state, target))

    def renew(self) -> None:
        self._parameters = {}

    def _states(self, state: State) -> State:
        return tuple(layer.to(self._kind) for layer in state)


def _real(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of ∂ Re f/∂θ, ∂ Re f/∂ Re θ."""
    return {name: gradient.real.contiguous() for name, gradient in gradients.items()}


def _cast(drive: Any, kind: torch.dtype) -> Any:
    """The tensors of a drive as complex ones."""
    if isinstance(drive, Tensor):
        return drive.to(kind) if drive.is_floating_point() else drive
    if isinstance(drive, tuple | list):
        return type(drive)(_cast(part, kind) for part in drive)
    if isinstance(drive, dict):
        return {name: _cast(part, kind) for name, part in drive.items()}
    return drive


@contextmanager
def _in_words(model: ConvergentModel) -> Iterator[None]:
    """What torch cannot compute of complex numbers is not holomorphic, by its own words."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if "complex" not in str(error).lower():
            raise
        raise NotHolomorphicError(
            f"holomorphic EP: expected a transition of {type(model).__name__} and a cost that are "
            f"holomorphic, got an operation that is not: {str(error).splitlines()[0]}"
        ) from error


def require_holomorphic(model: ConvergentModel) -> None:
    """Refuse a clip, and an activation whose slopes along both axes differ.

    Raises:
        NotHolomorphicError: the model has one.
    """
    if model.clip is not None:
        raise NotHolomorphicError(
            "holomorphic EP: expected states that are not clipped, got a clip of "
            f"[{model.clip[0]:g}, {model.clip[1]:g}]; leave it away (clip=None, --no-clip)"
        )
    for rho in (model.activation, getattr(model, "rho", None)):
        if isinstance(rho, Activation) and not _is_holomorphic(rho):
            raise NotHolomorphicError(
                "holomorphic EP: expected an activation that is a holomorphic function, such as "
                f"scaled-sigmoid or tanh, got {rho.name}"
            )


@cache
def _is_holomorphic(rho: Activation) -> bool:
    """Whether ∂ρ/∂y = i ∂ρ/∂x at a few points x + iy, the equations of Cauchy and Riemann."""
    step, at = 1e-5, torch.tensor([0.3 + 0.1j, -0.4 - 0.2j, 1.1 + 0.2j], dtype=torch.complex128)
    try:
        along, across = ((rho(at + way) - rho(at - way)) / (2 * step) for way in (step, step * 1j))
    except (RuntimeError, NotImplementedError, TypeError):
        return False
    return torch.allclose(across, 1j * along, rtol=1e-4, atol=1e-6)
