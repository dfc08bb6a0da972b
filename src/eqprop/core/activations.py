r"""Activation functions ρ, with their derivatives.

=====================  ===========================  =====================
name                   ρ(s)                         ρ′(s)
=====================  ===========================  =====================
``scaled-sigmoid``     1 / (1 + exp(−(4s − 2)))     4 ρ (1 − ρ)
``hard-sigmoid``       min(max(s, 0), 1)            1 on [0, 1], else 0
``half-hard-sigmoid``  min(max(s/2, 0), 1)          ½ on [0, 2], else 0
``tanh``               tanh(s)                      1 − ρ²
=====================  ===========================  =====================

The scaled sigmoid is the one of the published experiments: it maps [0, 1] onto most of [0, 1] with
slope 1 in the middle. The slope of the hard sigmoid counts both ends in, as a state that starts at
s = 0 could otherwise never leave it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from eqprop.core.derivative import derivative
from eqprop.registries import ACTIVATIONS

__all__ = [
    "BUILT_IN",
    "HALF_HARD_SIGMOID",
    "HARD_SIGMOID",
    "SCALED_SIGMOID",
    "TANH",
    "Activation",
    "Rho",
    "as_activation",
]


@final
@dataclass(frozen=True)
class Activation:
    """An element-wise function ρ and its derivative.

    Args:
        name: what messages and configurations call it.
        function: ``s -> ρ(s)``, element by element.
        derivative: ``(s, ρ(s)) -> ρ′(s)``. It is given both, because the derivative of a saturating
            function is cheapest in terms of its value.
        product: ``(s, ρ(s), v) -> ρ′(s) ⊙ v``, where that is cheaper than the derivative first.
        bend: ``(s, ρ(s)) -> ρ″(s) / ρ′(s)``, for Newton's steps; unless written out, autograd finds
            ρ″.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor, Tensor], Tensor]
    product: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    bend: Callable[[Tensor, Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        right = isinstance(self.name, str) and callable(self.function) and callable(self.derivative)
        if not right or not all(of is None or callable(of) for of in (self.product, self.bend)):
            raise TypeError(
                "Activation: expected a name, a function and its derivative, in this order, as in "
                'Activation("sin", torch.sin, lambda s, rho: s.cos()), got '
                + ", ".join(map(repr, (self.name, self.function, self.derivative)))
            )

    def __call__(self, s: Tensor) -> Tensor:
        return self.function(s)

    def times_slope(self, s: Tensor, rho: Tensor, v: Tensor) -> Tensor:
        """ρ′(s) ⊙ v, with ρ(s) given."""
        return self.derivative(s, rho) * v if self.product is None else self.product(s, rho, v)

    def times_second(self, s: Tensor, rho: Tensor, v: Tensor, sloped: Tensor) -> Tensor:
        """ρ″(s) ⊙ v, with ρ(s) and ρ′(s) ⊙ v given; memory of its own.

        Raises:
            TypeError: it is not written out, and autograd cannot follow the derivative.
        """
        if self.bend is not None:
            return self.bend(s, rho) * sloped
        return derivative(lambda at: self.derivative(at, self.function(at)), (s,))[0] * v

    @torch.no_grad()
    def sharpest(self, low: float, high: float) -> float:
        """The largest ``|ρ‴|`` between two states, by differences of ρ″ at 20 000 places.

        Raises:
            TypeError: as for :meth:`times_second`.
        """
        s = torch.linspace(low, high, 20_001, dtype=torch.float64)
        rho, ones = self.function(s.clone()), torch.ones_like(s)
        second = self.times_second(s, rho, ones, self.times_slope(s, rho, ones))
        return (second.diff() / s.diff()).abs().max().item()


_MINUS_TWO, _FOUR = torch.tensor(-2.0), torch.tensor(4.0)


def _scaled_sigmoid(s: Tensor) -> Tensor:
    if s.is_complex():
        # torch's own sigmoid of a complex number below −89 is not a number: exp(89) overflows.
        return 0.5 + 0.5 * torch.tanh(2 * s - 1)
    # −2 + 4s in one kernel, and the rest in place: a good part of a step's time goes into these
    # element-wise passes.
    return torch.add(_MINUS_TWO, s, alpha=4).sigmoid_()


def _scaled_sigmoid_derivative(s: Tensor, rho: Tensor) -> Tensor:
    return 4 * torch.addcmul(rho, rho, rho, value=-1)


def _scaled_sigmoid_bend(s: Tensor, rho: Tensor) -> Tensor:
    return torch.add(_FOUR, rho, alpha=-8)


def _scaled_sigmoid_product(s: Tensor, rho: Tensor, v: Tensor) -> Tensor:
    if rho.is_complex():
        # Of complex numbers the kernel below takes the conjugate slope.
        return _scaled_sigmoid_derivative(s, rho) * v
    # The kernel of a backward pass: one pass instead of three.
    return torch.ops.aten.sigmoid_backward(4 * v, rho)


def _hard_sigmoid(s: Tensor) -> Tensor:
    return s.clamp(0, 1)


def _hard_sigmoid_derivative(s: Tensor, rho: Tensor) -> Tensor:
    return (s == rho).to(s.dtype)


def _half_hard_sigmoid(s: Tensor) -> Tensor:
    return (0.5 * s).clamp_(0, 1)


def _half_hard_sigmoid_derivative(s: Tensor, rho: Tensor) -> Tensor:
    return 0.5 * (0.5 * s == rho).to(s.dtype)


def _tanh_derivative(s: Tensor, rho: Tensor) -> Tensor:
    return 1 - rho * rho


def _tanh_bend(s: Tensor, rho: Tensor) -> Tensor:
    return -2 * rho


def _no_bend(s: Tensor, rho: Tensor) -> Tensor:
    return torch.zeros_like(s)


SCALED_SIGMOID = Activation(
    "scaled-sigmoid",
    _scaled_sigmoid,
    _scaled_sigmoid_derivative,
    product=_scaled_sigmoid_product,
    bend=_scaled_sigmoid_bend,
)
HARD_SIGMOID = Activation("hard-sigmoid", _hard_sigmoid, _hard_sigmoid_derivative, bend=_no_bend)
HALF_HARD_SIGMOID = Activation(
    "half-hard-sigmoid", _half_hard_sigmoid, _half_hard_sigmoid_derivative, bend=_no_bend
)
TANH = Activation("tanh", torch.tanh, _tanh_derivative, bend=_tanh_bend)

BUILT_IN = (SCALED_SIGMOID, HARD_SIGMOID, HALF_HARD_SIGMOID, TANH)
"""Those whose derivatives are tested."""

Rho = str | Activation | Callable[[Tensor], Tensor]
"""How ρ may be given: a name, an :class:`Activation`, or a callable of your own."""


def as_activation(rho: Rho) -> Activation:
    """The :class:`Activation` that ``rho`` means: a name, an ``Activation``, or your own callable.

    The derivative of a callable is taken by autograd, so it need only be element-wise and
    differentiable.

    Raises:
        ValueError: an unknown name, a module with parameters, or what is no function of every
            element alone, that gives one like it.
        TypeError: neither a name nor callable.
    """
    if isinstance(rho, Activation):
        at = torch.tensor([[0.0, -0.5], [0.5, 1.5], [0.0, 0.0]])
        value = rho.function(at.clone())
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (at.shape, at.dtype):
            got = (
                f"{value.dtype} of shape {tuple(value.shape)}"
                if isinstance(value, Tensor)
                else type(value).__name__
            )
            raise ValueError(
                f"activation: expected a function of every element, {at.dtype} of shape "
                f"{tuple(at.shape)} for as much, got one, {rho.name}, that gives {got}"
            )
        alone = torch.cat(
            [rho.function(s.view(1, 1)).view(1) for s in at.clone().flatten()]
        ).view_as(at)
        # One that draws noise gives never the same twice, and is none of this kind's faults.
        again = torch.equal(rho.function(at.clone()), value)
        if again and not torch.allclose(alone, value, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise ValueError(
                f"activation: expected a function of every element alone, got one, {rho.name}, "
                "whose value at an element depends on others, such as a softmax; write it into "
                "the field of a model of your own"
            )
        return rho
    if isinstance(rho, str):
        return as_activation(ACTIVATIONS.load(rho))
    if not callable(rho):
        raise TypeError(f"activation: expected a name or a callable, got {rho!r}")
    if isinstance(rho, nn.Module) and any(True for _ in rho.parameters()):
        raise ValueError(
            f"activation: expected a function without parameters, got {type(rho).__name__}, whose "
            "parameters would not be trained; write them into a model of your own"
        )

    name = getattr(rho, "__name__", type(rho).__name__)
    return as_activation(Activation(name, rho, _Slope(rho)))


@final
@dataclass(frozen=True)
class _Slope:
    """ρ′ by autograd; an object, so that a network that has it can be pickled."""

    rho: Callable[[Tensor], Tensor]

    def __call__(self, s: Tensor, _: Tensor) -> Tensor:
        return derivative(self.rho, (s,))[0]
