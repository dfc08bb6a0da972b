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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, final

import torch
from torch import Tensor

from eqprop.core.activations import Activation
from eqprop.core.costs import Cost, SquaredError
from eqprop.core.models import ConvergentModel, State
from eqprop.core.nudging import Nudge
from eqprop.core.phases import nudged_phase, relax
from eqprop.core.settling import Relaxation
from eqprop.core.sizes import require_whole
from eqprop.core.stand_in import standing_in
from eqprop.estimators.estimator import Estimate, Estimator, accumulate
from eqprop.estimators.nudges import require_phases

__all__ = ["HolomorphicEP", "circle"]

_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


def circle(beta: float, points: int) -> list[tuple[complex, float]]:
    """β_k of half of the circle, and how many points of the whole each stands for: 1 or 2.

    Args:
        beta: its radius, and the first of them. points: N, of the whole circle.
    """
    found: list[tuple[complex, float]] = []
    for k in range(points // 2 + 1):
        real = k == 0 or 2 * k == points
        # A real one without the rounding of its angle.
        at = (
            complex(beta if k == 0 else -beta)
            if real
            else cmath.rect(beta, 2 * math.pi * k / points)
        )
        found.append((at, 1.0 if real else 2.0))
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
            ValueError: a model, or a cost, that is not holomorphic.
            NonFiniteError: a state stopped being finite.
        """
        _require_holomorphic(model)
        drive = model.drive(x)
        free = relax(model, x, self.free_steps, drive=drive, tolerance=self.tolerance)
        gradients: dict[str, Tensor] = {}
        phases: list[Relaxation] = []
        for beta, times in circle(self.beta / self.cost.largest_weight, self.points):
            if beta.imag:
                found = self._complex(model, x, target, free.state, drive, beta)
            else:
                found = self._real(model, x, target, free.state, drive, beta.real)
            phases.append(found[0])
            for name, gradient in found[1].items():
                share = gradient * (times / self.points)
                gradients[name] = gradients[name] + share if name in gradients else share
        accumulate(model, gradients)
        return Estimate(free, tuple(phases))

    def _real(
        self,
        model: ConvergentModel,
        x: Tensor,
        target: Tensor,
        free: State,
        drive: Any,
        beta: float,
    ) -> tuple[Relaxation, dict[str, Tensor]]:
        """The phase at a real point, and minus what it teaches."""
        nudge = Nudge(self.cost, target, beta, model)
        phase = nudged_phase(model, x, self.nudged_steps, nudge, free, drive=drive)
        gradients = model.contrast_gradients(x, free, phase.state, free, -1 / beta)
        # −β ℓ is in Φ_β: (1/β) ∂/∂θ of it is the gradient itself.
        return phase, gradients | model.readout_gradients(self.cost, phase.state, target)

    def _complex(
        self,
        model: ConvergentModel,
        x: Tensor,
        target: Tensor,
        free: State,
        drive: Any,
        beta: complex,
    ) -> tuple[Relaxation, dict[str, Tensor]]:
        """The same at a complex one: the real part of what it teaches."""
        kind = _COMPLEX.get(free[-1].dtype)
        if kind is None:
            raise TypeError(
                f"x: expected float32 or float64, as holomorphic EP has complex states, got "
                f"{free[-1].dtype}"
            )
        unit = Nudge(self.cost, target, 1.0, model)
        parameters = {
            name: p.detach().to(kind).requires_grad_(p.requires_grad)
            for name, p in model.named_parameters()
        }
        start = tuple(layer.to(kind) for layer in free)
        with _in_words(model, self.cost), standing_in(model, parameters):
            phase = relax(
                model,
                x,
                self.nudged_steps,
                state=start,
                drive=_cast(drive, kind),
                nudge=lambda state: unit(state) * beta,
                phase=f"nudged phase (beta {beta:.3g})",
            )
            with torch.enable_grad():
                output = tuple(layer.detach() for layer in phase.state)
                taught = -model.contrast(x.to(kind), start, output, start).mean() / beta
                if model.has_readout:
                    taught = taught + self.cost(model.prediction(output), target).mean()
                learning = {name: p for name, p in parameters.items() if p.requires_grad}
                found = torch.autograd.grad(
                    taught.real, list(learning.values()), materialize_grads=True
                )
        return phase, {name: g.real for name, g in zip(learning, found, strict=True)}


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
def _in_words(model: ConvergentModel, cost: Cost) -> Iterator[None]:
    """What torch cannot compute of complex numbers is not holomorphic, by its own words."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if "complex" not in str(error).lower():
            raise
        raise ValueError(
            f"holomorphic EP: expected a transition of {type(model).__name__} and a cost {cost!r} "
            f"that are holomorphic, got an operation that is not: {str(error).splitlines()[0]}"
        ) from error


def _require_holomorphic(model: ConvergentModel) -> None:
    """Refuse a clip, and an activation whose slopes along both axes differ."""
    if model.clip is not None:
        raise ValueError(
            "holomorphic EP: expected states that are not clipped, got a clip of "
            f"[{model.clip[0]:g}, {model.clip[1]:g}]; leave it away (clip=None, --no-clip)"
        )
    for rho in (model.activation, getattr(model, "rho", None)):
        if isinstance(rho, Activation) and not _is_holomorphic(rho):
            raise ValueError(
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
