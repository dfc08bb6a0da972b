r"""Costs ℓ(ŷ, y): what the output layer should come to.

A cost gives one value per sample; losses are means over the batch. Its gradient at the output is
what nudges the network: in the nudged phase the output layer receives the force −β ∂ℓ/∂ŷ.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from eqprop.core.sizes import described, require_number

__all__ = [
    "Cost",
    "CrossEntropy",
    "SampleWeighted",
    "SquaredError",
    "Weighted",
    "cost_gradient",
    "require_cost",
    "require_differentiable",
    "require_per_sample",
]


def require_per_sample(name: str, value: Tensor, samples: int) -> Tensor:
    """``value``, if it is one number per sample.

    Raises:
        ValueError: it is not of shape (B,): a mean or a sum over the batch, for instance; or no
            tensor.
    """
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{name}: expected one value per sample, a tensor of shape ({samples},), got "
            f"{type(value).__name__}"
        )
    if value.shape != (samples,):
        raise ValueError(
            f"{name}: expected one value per sample, shape ({samples},), got {tuple(value.shape)}"
        )
    return value


def require_differentiable(cost: Tensor) -> None:
    """Refuse the costs of an output that requires a gradient if no gradient comes back from them.

    Raises:
        ValueError: says so.
    """
    if not cost.requires_grad:
        raise ValueError(
            "cost: expected one that autograd can follow back to the output, got one that is "
            "detached from it, such as a count of errors or what numpy has computed"
        )


class Cost(ABC):
    """ℓ(ŷ, y), per sample.

    Write ``__call__``; override :meth:`gradient` where an explicit formula is faster than autograd.
    """

    @abstractmethod
    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """ℓ for every sample: ``output`` and ``target`` (B, …) give (B,)."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def require_target(self, target: Tensor) -> None:  # noqa: B027 - most costs take any
        """Refuse a target that the cost has no meaning for; called once for every mini-batch.

        Raises:
            ValueError: says what is expected.
        """

    @property
    def largest_weight(self) -> float:
        """By what the cost of a sample is multiplied at most. Estimators that nudge divide β by it:
        a weight says how much a sample is to teach, not how far it is pulled."""
        return 1.0

    def part(self, rows: Tensor) -> "Cost":
        """The same for some of the samples, by their numbers; the same cost, unless it knows more
        of a sample than output and target."""
        return self

    def gradient(self, output: Tensor, target: Tensor) -> Tensor:
        """∂ℓ/∂ŷ for every sample, shaped like ``output``.

        Raises:
            ValueError: the cost is not one value per sample, or no function of the output that
                autograd can follow.
        """
        with torch.enable_grad():
            at = output.detach().requires_grad_()
            cost = require_per_sample("cost", self(at, target), len(output))
            require_differentiable(cost)
            # Of complex outputs, see eqprop.core.derivative.
            total = cost.sum()
            (gradient,) = torch.autograd.grad(total.real, at)
        return gradient.conj() if gradient.is_complex() else gradient


@final
class SquaredError(Cost):
    """ℓ = ½‖ŷ − y‖², the cost of the published experiments.

    Raises:
        ValueError: output and target are not of one shape (labels, for instance, are to be made
            targets first, see :func:`~eqprop.data.dataset.one_hot`).
    """

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * self.gradient(output, target).square().flatten(1).sum(1)

    def gradient(self, output: Tensor, target: Tensor) -> Tensor:
        _require_same_shape(output, target)
        return output - target


@final
class CrossEntropy(Cost):
    """ℓ = −(1/scale) Σ_c y_c log p_c, p = softmax(scale · ŷ).

    y is one-hot, or any probabilities. Its gradient is Σ_c y_c · p − y, of the size of that of the
    squared error whatever the scale.

    Args:
        scale: by what the outputs are multiplied before the softmax. Outputs that are kept in
            [0, 1], as those of most ρ are, differ by 1 at most: without a scale of about 10 no
            class can be likelier than e times another one, and the gradient never falls to 0. A
            readout needs none.

    Raises:
        TypeError: a scale that is no number.
        ValueError: one that is not above 0, output and target of different shapes, a single output,
            whose softmax is 1 whatever it is, or targets that are no probabilities.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = require_number("scale", scale)
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"scale: expected a finite number > 0, got {scale}")

    def __repr__(self) -> str:
        return f"CrossEntropy(scale={self.scale:g})"

    def require_target(self, target: Tensor) -> None:
        _require_probabilities(target)
        if target.shape[1] < 2:
            raise ValueError(
                "cost: expected at least two outputs, one for each class, got one, whose softmax "
                "is 1 whatever it is; take two, or SquaredError()"
            )

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        _require_same_shape(output, target)
        scaled = output * self.scale
        if scaled.is_complex():
            shifted = scaled - scaled.real.amax(1, keepdim=True)
            logs = shifted - shifted.exp().sum(1, keepdim=True).log()
        else:
            logs = scaled.log_softmax(1)
        return (target * logs).flatten(1).sum(1) / -self.scale

    def gradient(self, output: Tensor, target: Tensor) -> Tensor:
        _require_same_shape(output, target)
        scaled = output * self.scale
        if scaled.is_complex():
            powers = (scaled - scaled.real.amax(1, keepdim=True)).exp()
            probabilities = powers / powers.sum(1, keepdim=True)
        else:
            probabilities = scaled.softmax(1)
        return target.sum(1, keepdim=True) * probabilities - target


@final
class Weighted(Cost):
    """w · ℓ, the weight of a sample that of its class, w = Σ_c w_c y_c, for one-hot y.

    Args:
        cost: ℓ.
        weights: w_c, one for each class; 1 leaves a class as it is.

    Raises:
        ValueError: no weights, some that are negative or not finite, or none above 0; a target of
            another number of classes, or that is no probabilities.
    """

    def __init__(self, cost: Cost, weights: Sequence[float] | Tensor) -> None:
        require_cost(cost)
        self.cost = cost
        given = weights.tolist() if isinstance(weights, Tensor) else weights
        self.weights = tuple(require_number("weights", weight) for weight in given)
        if not any(self.weights) or not all(0 <= w < float("inf") for w in self.weights):
            raise ValueError(
                "weights: expected finite numbers of at least 0, one for each class and not all "
                f"of them 0, got {weights}"
            )

    def __repr__(self) -> str:
        return f"Weighted({self.cost!r}, {self.weights})"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return self.cost(output, target) * self._of(target)

    def gradient(self, output: Tensor, target: Tensor) -> Tensor:
        return self.cost.gradient(output, target) * self._of(target).unsqueeze(1)

    def require_target(self, target: Tensor) -> None:
        self.cost.require_target(target)
        _require_probabilities(target)

    @property
    def largest_weight(self) -> float:
        return max(self.weights) * self.cost.largest_weight

    def part(self, rows: Tensor) -> Cost:
        inner = self.cost.part(rows)
        return self if inner is self.cost else Weighted(inner, self.weights)

    def _of(self, target: Tensor) -> Tensor:
        if target.dim() != 2 or target.shape[1] != len(self.weights):
            raise ValueError(
                f"target: expected {len(self.weights)} classes, as there are weights, got "
                f"{tuple(target.shape[1:])}"
            )
        return target @ target.new_tensor(self.weights)


@final
class SampleWeighted(Cost):
    """w · ℓ, one weight for each sample of a mini-batch.

    Args:
        cost: ℓ.
        weights: w, (B,), on the device of the output; 1 leaves a sample as it is.
        largest: of the weights of all samples, those of other mini-batches among them; that of
            these if not given.

    Raises:
        ValueError: weights that are not one for each sample.
    """

    def __init__(self, cost: Cost, weights: Tensor, largest: float | None = None) -> None:
        require_cost(cost)
        self.cost, self.weights = cost, weights
        # Of a mini-batch of which none counts, nothing is learnt, however it is nudged.
        self._largest = (float(weights.max()) or 1.0) if largest is None else largest

    def __repr__(self) -> str:
        return f"SampleWeighted({self.cost!r}, {len(self.weights)} weights)"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return self.cost(output, target) * self._of(output)

    def gradient(self, output: Tensor, target: Tensor) -> Tensor:
        gradient = self.cost.gradient(output, target)
        return gradient * self._of(output).view(-1, *[1] * (gradient.dim() - 1))

    @property
    def largest_weight(self) -> float:
        return self._largest * self.cost.largest_weight

    def part(self, rows: Tensor) -> Cost:
        weights = self.weights.index_select(0, rows)
        return SampleWeighted(self.cost.part(rows), weights, self._largest)

    def require_target(self, target: Tensor) -> None:
        self.cost.require_target(target)
        self._of(target)

    def _of(self, samples: Tensor) -> Tensor:
        return require_per_sample("weights", self.weights, len(samples))


def _require_probabilities(target: Tensor) -> None:
    """Refuse targets that are no classes, such as those of a regression."""
    sums = target.flatten(1).sum(1)
    if target.dim() != 2 or (target < 0).any() or ((sums - 1).abs() > 1e-3).any():
        raise ValueError(
            "target: expected one-hot vectors, or probabilities that sum to 1, as the cost is one "
            "of classes, got other numbers; of a regression take SquaredError()"
        )


def _require_same_shape(output: Tensor, target: Tensor) -> None:
    if output.shape != target.shape:
        raise ValueError(
            f"target: expected the shape of the output, {tuple(output.shape)}, "
            f"got {tuple(target.shape)}"
        )


def cost_gradient(cost: Cost, output: Tensor, target: Tensor) -> Tensor:
    """∂ℓ/∂ŷ, of whatever cost, one value for every output unit.

    Raises:
        ValueError: it has another shape, which might pass for one by broadcasting.
    """
    gradient = cost.gradient(output, target)
    if not isinstance(gradient, Tensor) or gradient.shape != output.shape:
        got = tuple(gradient.shape) if isinstance(gradient, Tensor) else described(gradient)
        raise ValueError(
            f"{type(cost).__name__}.gradient: expected one value for every output unit of every "
            f"sample, {tuple(output.shape)}, got {got}"
        )
    return gradient


def require_cost(cost: object) -> None:
    """Refuse what is no cost, such as a loss of torch.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(cost, Cost):
        raise TypeError(
            "cost: expected a Cost, such as SquaredError() or one of a class of your own, got "
            f"{described(cost)}"
        )
