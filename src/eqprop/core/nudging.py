r"""The nudge: what pulls the output layer a little towards the target.

In the nudged phase the output layer receives the force −β ∂ℓ/∂ŷ(ŷ, y), added outside the
activation. β > 0 pulls towards the target, β < 0 pushes away from it.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, final, get_args

import torch
from torch import Tensor

from eqprop.core.costs import Cost, cost_gradient
from eqprop.core.models import ConvergentModel, State
from eqprop.core.sizes import require_number
from eqprop.summary import summary

__all__ = ["NUDGINGS", "Nudge", "Nudging", "nudge", "require_beta", "require_nudging"]

Nudging = Literal["one-sided", "random-sign", "symmetric"]
"""With β as given, with +β or −β drawn per mini-batch, or with both, one after the other."""

NUDGINGS: tuple[Nudging, ...] = get_args(Nudging)
"""All of them."""

_LEARNT = 0.01
"""A sample is learnt where no output misses its target by more than this, on a scale of [0, 1]."""

_BELOW = 0.1
"""The share of what moves the output that moves the layers below it, about."""

_COARSEST = 0.01
"""No less than the rounding of any numbers that networks compute in: that of bfloat16 is 2⁻⁷."""


@final
@dataclass(frozen=True, eq=False)
class Nudge:
    """The force −β ∂ℓ/∂ŷ(ŷ, y) on the output layer, as a function of the state.

    Args:
        cost: ℓ.
        target: y, shaped like the output layer, (B, …).
        beta: β ≠ 0; in real time the continuous-time one. Complex, it nudges complex states.
        model: whose output it is; left out, that of the network that is nudged.

    Raises:
        ValueError: β = 0 or not finite, or so weak that nothing but rounding would be left of it,
            that of autocast among it.
    """

    cost: Cost
    target: Tensor
    beta: complex
    model: ConvergentModel | None = field(default=None, repr=False)

    __repr__ = summary

    def __post_init__(self) -> None:
        require_beta(abs(self.beta) if isinstance(self.beta, complex) else self.beta)
        if abs(self.beta) >= _COARSEST:
            return
        dtype = _of_products(self.target)
        rounding = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
        if abs(self.beta) < rounding:
            raise ValueError(
                f"beta: expected at least {rounding:.1e}, below which rounding in {dtype} hides "
                f"what the nudge does, got {abs(self.beta):g}"
            )

    def __call__(self, state: State) -> Tensor:
        return self._pull(state) * -self.beta

    def effect(self, state: State) -> Tensor:
        """About how far it moves the layers below the output, (B,): a tenth of max ``|β ∂ℓ/∂ŷ|``.

        From a thousandth of ``|β|``, where there is nothing left to learn, to a tenth of what a
        state of [0, 1] can move by.
        """
        strongest = self._pull(state).abs().flatten(1).amax(1)
        return _BELOW * (strongest.clamp(min=_LEARNT) * abs(self.beta)).clamp(max=1.0)

    def _pull(self, state: State) -> Tensor:
        """∂ℓ/∂s of the output layer: ∂ℓ/∂ŷ, handed back through the readout if there is one."""
        model = self.model
        # The usual case, in which nothing stands between the layer and the cost, in every step.
        if model is None or (model.output_layers == 1 and not model.has_readout):
            return cost_gradient(self.cost, state[-1], self.target)
        gradient = cost_gradient(self.cost, model.prediction(state), self.target)
        return model.pull_back(state, gradient)

    def of(self, model: ConvergentModel) -> "Nudge":
        """The same on the output of this model, unless it is of another one already."""
        return self if self.model is not None else replace(self, model=model)

    def part(self, rows: Tensor) -> "Nudge":
        """The same for some of the samples, by their numbers."""
        return replace(self, cost=self.cost.part(rows), target=self.target.index_select(0, rows))

    @property
    def phase(self) -> str:
        """What messages call the phase in which it acts."""
        return f"nudged phase (beta {self.beta:+g})"


nudge = Nudge
"""The earlier name."""


def _of_products(like: Tensor) -> torch.dtype:
    """The numbers in which products are computed: of fewer digits under autocast."""
    device = like.device.type
    # Autocast leaves double precision as it is.
    if like.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return like.dtype


def require_beta(beta: float) -> None:
    """Refuse a nudge of no strength, or of a strength beyond all numbers.

    Raises:
        TypeError: β is no number. ValueError: it is 0 or not finite.
    """
    if not 0 < abs(require_number("beta", beta)) < float("inf"):
        raise ValueError(f"beta: expected a finite number other than 0, got {beta}")


def require_nudging(nudging: object) -> None:
    """Refuse what is none of :data:`NUDGINGS`.

    Raises:
        ValueError: it is none.
    """
    if nudging not in NUDGINGS:
        raise ValueError(f"nudging: expected one of {', '.join(NUDGINGS)}, got {nudging!r}")
