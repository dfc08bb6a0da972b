r"""What a model is to Theorem 1, and what is therefore to be expected of the agreement.

===============  ===========================================  =====================================
kind             F                                            the error, as β → 0
===============  ===========================================  =====================================
exact            ∂Φ/∂s                                        falls as β, as β^N with N points of
                                                              its circle: β² if symmetric
approximate      σ(∂Φ/∂s), the gradient of no Φ               levels off: EP leaves out the σ′ of
                 (prototypical)                               the output layer
the same, the    σ(∂Φ/∂s − β ∂ℓ/∂s)                           of parameters falls likewise; states
nudge inside                                                  are off by σ′
exact, in a      M⁻¹ ∂Φ/∂s: units with gains, ways down       of parameters falls likewise; states
metric M         that are scaled, Newton's steps              are off by a factor each
vector field     comes from no Φ                              levels off, as far as the Jacobian of
                                                              F is not symmetric
===============  ===========================================  =====================================

A nudge inside of σ makes prototypical networks follow the gradient of their parameters, step by
step. With A the Jacobian of ∂Φ/∂s, which is symmetric, and D that of σ, both at s_*, the Jacobian
of F is D A, and BPTT goes by ∇_s(t+1) = A D ∇_s(t) from ∇_s(0) = ∂ℓ/∂s. The nudged phase moves by
s_{t+1} − s_* = D (A (s_t − s_*) − β ∂ℓ/∂s), so that Δ_s(t+1) = D A Δ_s(t) from Δ_s(0) = −D ∂ℓ/∂s.
Hence Δ_s(t) = −D ∇_s(t), and Δ_θ(t) = (∂²Φ/∂θ∂s)ᵀ Δ_s(t) = −(∂F/∂θ)ᵀ ∇_s(t) = −∇_θ(t). Outside of
σ, the force on the output lacks the D.

With a metric M, diagonal, the Jacobian is M⁻¹ H and BPTT goes by H M⁻¹, so that Δ_s(t) = −M⁻¹
∇_s(t) but for a constant, which connections make up for, see :mod:`eqprop.hardware.mismatch` and
:mod:`eqprop.networks.connections.feedback`. Noise on the states is divided by β, and hides all of
it as β → 0.

What units that are held change of this is in :mod:`eqprop.analysis.held`. Where layers are updated
in turn, the steady states are the same, and so are the totals over a nudged phase that has settled,
of EP and of BPTT: of these the table holds. The single steps are others, and do not agree.

Source: Ernoult et al., https://arxiv.org/abs/1905.13633; vector fields:
https://arxiv.org/abs/2005.04168.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, final

from eqprop.core.models import ConvergentModel, PrimitiveModel
from eqprop.hardware.mismatch import Mismatched
from eqprop.hardware.noise import Noisy
from eqprop.networks.connections.feedback import Feedback
from eqprop.networks.connections.untied import Untied
from eqprop.networks.layered import LayeredNetwork
from eqprop.networks.real_time import RealTimeNetwork

__all__ = ["ModelKind", "beta_power", "model_kind"]


@final
@dataclass(frozen=True)
class ModelKind:
    """What kind of model it is.

    Attributes:
        name: ``exact``, ``approximate`` or ``vector field``.
        clipped: whether its states are kept in an interval.
        activated: whether an activation stands outside of the field.
        inside: whether the nudge acts inside of the activation.
        in_turn: whether a step moves some layers after others.
        weight_angles: Ψ in degrees between forward and backward weights, of what is untied.
        metric: whether states feel a nudge by factors of their own.
        noisy: whether its states have noise.
    """

    name: Literal["exact", "approximate", "vector field"]
    clipped: bool = False
    activated: bool = False
    inside: bool = False
    in_turn: bool = False
    weight_angles: tuple[float, ...] = ()
    metric: bool = False
    noisy: bool = False

    @property
    def said(self) -> str:
        """The model in a few words."""
        inner = {"vector field": "f(s)"}.get(self.name, "∂Φ/∂s")
        field = f"ρ({inner})" if self.activated else inner
        nudged = ", nudged inside of ρ" * (self.activated and self.inside)
        field = f"clip({field})" if self.clipped else field
        said = {
            "exact": f"exact{' but for its clip' * self.clipped}, F = {field}",
            "approximate": f"approximate (prototypical), F = {field}",
            "vector field": f"vector field, F = {field} from no Φ",
        }[self.name]
        if self.weight_angles:
            angles = ", ".join(f"{angle:.3g}°" for angle in self.weight_angles)
            said += f", weights {angles} apart"
        said += ", in a metric of its own" * self.metric + ", with noise" * self.noisy
        return said + nudged + ", layers updated in turn" * self.in_turn

    def expected(self, points: int = 1, whatever: str = "") -> str:
        """What the error is to do as β → 0.

        Args:
            points: N, of how many β the processes are averaged, see
                :func:`~eqprop.analysis.processes.points_of`.
            whatever: what it does of any model, see
                :attr:`~eqprop.estimators.dynamics.NudgedDynamics.error`.
        """
        power = beta_power(points)
        error = whatever.format(beta=power) or self._error(power)
        if self.in_turn:
            return f"of the total over a settled nudged phase {error}; single steps do not agree"
        return error

    def _error(self, power: str) -> str:
        if self.noisy:
            return "the error grows, as noise is divided by β"
        falls = f"the error falls in proportion to {power}"
        if self.name == "exact" and self.metric:
            return f"{falls} in parameters, and levels off in states, each off by a factor"
        if self.name == "exact":
            return f"{falls}{', but for states at the clip' * self.clipped}"
        if self.name == "approximate" and self.inside:
            return f"{falls} in parameters, and levels off in states, as ρ′ lies between"
        if self.name == "approximate":
            return f"the error levels off, as {_LEFT_OUT}"
        if self.weight_angles and max(self.weight_angles) < _PARALLEL:
            same = "backward weights equal the forward ones"
            return f"as long as {same}, " + (
                f"it levels off, as {_LEFT_OUT}" if self.activated else falls
            )
        if self.weight_angles:
            return "the error levels off, as what comes down is turned by about that angle"
        return f"{falls} if the Jacobian of F is symmetric, else levels off"

    def to_json(self) -> dict[str, Any]:
        """What it is, in words too."""
        return {**asdict(self), "weight_angles": list(self.weight_angles), "said": self.said}


def beta_power(points: int) -> str:
    """β^N, as it is written: what the error of N points of the circle of β is in proportion to."""
    return "β" if points == 1 else f"β{str(points).translate(_SUPERSCRIPTS)}"


_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

_LEFT_OUT = "EP leaves out the ρ′ of the output layer, unless it is nudged inside of ρ"

_PARALLEL = 0.01
"""Degrees below which weights count as equal."""


def model_kind(model: ConvergentModel) -> ModelKind:
    """What kind of model it is, by what it is made of.

    A layered network has a Φ if its connections are tied; another model if it is a
    :class:`~eqprop.core.models.PrimitiveModel`. Of the rest nothing is known but F, and so of a
    model whose step is its own, such as a noisy one.
    """
    angles: tuple[float, ...] = ()
    if isinstance(model, LayeredNetwork):
        has_phi = all(
            c.keeps_phi if isinstance(c, Feedback) else not isinstance(c, Untied)
            for c in model.chain
        )
        angles = model.weight_angles
    else:
        has_phi = isinstance(model, PrimitiveModel)
    has_phi = has_phi and not _steps_by_itself(model)
    activated = model.activation is not None
    return ModelKind(
        ("approximate" if activated else "exact") if has_phi else "vector field",
        clipped=model.clip is not None,
        activated=activated,
        inside=model.nudge_place == "inside",
        in_turn=bool(getattr(model, "in_turn", False)),
        weight_angles=angles,
        metric=_has_metric(model),
        noisy=isinstance(model, Noisy),
    )


def _has_metric(model: ConvergentModel) -> bool:
    scaled = isinstance(model, LayeredNetwork) and any(
        isinstance(c, Feedback) and c.scale != 1 for c in model.chain
    )
    # Every unit has a time step of its own.
    scaled |= isinstance(model, RealTimeNetwork) and model.updates == "newton"
    return scaled or (isinstance(model, Mismatched) and model.gain_spread > 0)


def _steps_by_itself(model: ConvergentModel) -> bool:
    """Whether a class that is not the library's has replaced what makes a transition of Φ."""
    return any(
        name in vars(kind)
        for kind in type(model).__mro__
        if not kind.__module__.startswith("eqprop.")
        for name in ("step", "advance", "move")
    )
