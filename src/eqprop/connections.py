r"""Connections: how two neighbouring layers pull at each other.

A *tied* connection contributes a coupling of what the lower layer sends, l, and of what the upper
one does, u, to Φ. Its way *up* is the derivative of the coupling with respect to u, its way *down*
the one with respect to l::

                        coupling             up                down
    :class:`Dense`      u · (W l + b)        W l + b           Wᵀ u
    :class:`ConvPool`   u • P(w ⋆ l + b)     P(w ⋆ l + b)      wᵀ ⋆ P⁻¹(u)
    :class:`Untied`     none                 that of a tied connection; down by weights of its own

P pools and P⁻¹ undoes it: where P takes the largest value of each window, P⁻¹ puts u where that
value was and 0 elsewhere; where P takes their average, P⁻¹ spreads u evenly. wᵀ ⋆ is the
transposed convolution. P⁻¹ depends on l through the places of the largest values, the *switches*,
which the way up finds and the way down needs.

How a connection learns from two states, before and after, is its *contrast*::

    tied       coupling(after) − coupling(before)
    untied     ⟨up(l), m_u⟩ + ⟨down(u), m_l⟩

with l and u at the anchor, and m_l and m_u how the layers moved. To first order both are the same
where the weights are: u · W l has the differential ⟨W l, du⟩ + ⟨Wᵀ u, dl⟩.

Source: Ernoult et al., https://arxiv.org/abs/1905.13633; untied weights:
https://arxiv.org/abs/2005.04168.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, final, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

__all__ = [
    "Change",
    "Connection",
    "ConvPool",
    "Dense",
    "Ends",
    "Pooling",
    "Switches",
    "TiedConnection",
    "Untied",
    "convolutional",
    "dense",
    "untied",
]

Switches = Tensor | None
"""Where the largest values of a pooling's windows were; ``None`` where nothing is chosen."""

Ends = tuple[Tensor, Tensor]
"""(lower, upper): what the two layers send."""

Pooling = Literal["max", "average"]


@final
@dataclass(frozen=True, eq=False)
class Change:
    """What happens at the two ends of a connection between the states that are compared.

    Attributes:
        before, after: what the layers send in these states, (B, …lower) and (B, …upper).
        anchor: what they send where a vector field is differentiated.
        moved: (∂r/∂s)ᵀ (after − before) of the states, the derivative that of the anchor; 0, of no
            shape, for the static input.
    """

    before: Ends
    after: Ends
    anchor: Ends
    moved: Ends


class Connection(nn.Module, ABC):
    """What a lower and an upper layer send to each other, and how that is learnt.

    Attributes:
        lower_shape: the shape of the lower layer, without the batch.
        upper_shape: the shape of the upper layer, without the batch.
    """

    lower_shape: tuple[int, ...]
    upper_shape: tuple[int, ...]

    @abstractmethod
    def up(self, lower: Tensor) -> tuple[Tensor, Switches]:
        """What the upper layer receives, (B, …upper), and the switches."""

    def switches(self, lower: Tensor) -> Switches:
        """The switches alone, as :meth:`up` finds them."""
        return self.up(lower)[1]

    @abstractmethod
    def down(self, upper: Tensor, switches: Switches, onto: Tensor | None = None) -> Tensor:
        """What the lower layer receives, (B, …lower), added to ``onto``.

        ``switches`` are those that :meth:`up` found for the present state of the lower layer.
        """

    @abstractmethod
    def contrast(self, change: Change) -> Tensor:
        """One value per sample, (B,), whose θ-gradient ÷ β is the local learning rule."""

    @abstractmethod
    def contrast_gradients(self, change: Change, scale: float = 1.0) -> dict[str, Tensor]:
        """scale · ∂/∂θ of the batch mean of :meth:`contrast`, by parameter name.

        A lower end that is the same tensor before and after is the static input.
        """

    def tangent_kernel(self, lower: Tensor, rates: Mapping[str, float]) -> Tensor | None:
        """K, (B, B): when θ moves by η ⊙ ∂/∂θ ⟨m, up(l)⟩ for any m, up(l) moves by K m.

        None where up is not linear in θ.

        Args:
            lower: l, what the lower layer sends.
            rates: η, by parameter name; 0 for those that are left out.
        """
        return None


class TiedConnection(Connection):
    """A connection whose ways up and down are the derivatives of one coupling, by one weight.

    Attributes:
        weight: W or w.
    """

    weight: nn.Parameter

    def coupling(self, ends: Ends) -> Tensor:
        """u · up(l), per sample."""
        lower, upper = ends
        return _product(upper, self.up(lower)[0])

    def contrast(self, change: Change) -> Tensor:
        """coupling(after) − coupling(before)."""
        return self.coupling(change.after) - self.coupling(change.before)

    def down(self, upper: Tensor, switches: Switches, onto: Tensor | None = None) -> Tensor:
        return self.transposed(self.weight, upper, switches, onto)

    @abstractmethod
    def transposed(
        self, weight: Tensor, upper: Tensor, switches: Switches, onto: Tensor | None = None
    ) -> Tensor:
        """The way down by any weight of this shape."""

    @abstractmethod
    def up_gradients(self, lower: Tensor, upper: Tensor) -> dict[str, Tensor]:
        """∂/∂θ of the batch sum of the coupling, by parameter name."""

    @abstractmethod
    def down_gradient(self, lower: Tensor, upper: Tensor, switches: Switches) -> Tensor:
        """∂/∂weight of the batch sum of ⟨transposed(weight, upper, switches), lower⟩."""


@final
class Dense(TiedConnection):
    """All-to-all weights: up(l) = W l + b, down(u) = Wᵀ u, with W (out, in) and b (out,).

    Weights and bias start uniform in ±1/√in, as those of :class:`torch.nn.Linear` do.

    Args:
        lower: the size of the lower layer, or its shape, (C, H, W) above a convolution; it is
            flattened.
        size: the number of units of the upper layer.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, lower: int | Sequence[int], size: int) -> None:
        super().__init__()
        _require_whole("Dense", size, *([lower] if isinstance(lower, int | float) else lower))
        self.lower_shape = (lower,) if isinstance(lower, int) else tuple(lower)
        self.upper_shape = (size,)
        if not self.lower_shape or min(*self.lower_shape, size) < 1:
            raise ValueError(f"Dense: expected sizes of at least 1, got {lower} and {size}")
        inputs = math.prod(self.lower_shape)
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(size, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(size).uniform_(-bound, bound))

    def up(self, lower: Tensor) -> tuple[Tensor, Switches]:
        return torch.addmm(self.bias, lower.flatten(1), self.weight.t()), None

    def switches(self, lower: Tensor) -> Switches:
        return None

    def transposed(
        self, weight: Tensor, upper: Tensor, switches: Switches, onto: Tensor | None = None
    ) -> Tensor:
        if onto is not None and len(self.lower_shape) == 1:
            return torch.addmm(onto, upper, weight)
        received = (upper @ weight).unflatten(1, self.lower_shape)
        return received if onto is None else onto + received

    def contrast_gradients(self, change: Change, scale: float = 1.0) -> dict[str, Tensor]:
        (lower_before, upper_before), (lower_after, upper_after) = change.before, change.after
        # The scale goes into the states: multiplying the gradient would be another pass over it.
        scale /= len(upper_after)
        gradients = self.up_gradients(lower_after, (upper_after - upper_before) * scale)
        if lower_after is not lower_before:
            # u′ l′ᵀ − u lᵀ = (u′ − u) l′ᵀ + u (l′ − l)ᵀ: no difference of two large products.
            nearby = (lower_after - lower_before).flatten(1) * scale
            gradients["weight"].addmm_(upper_before.t(), nearby)
        return gradients

    def up_gradients(self, lower: Tensor, upper: Tensor) -> dict[str, Tensor]:
        return {"weight": upper.t() @ lower.flatten(1), "bias": upper.sum(0)}

    def down_gradient(self, lower: Tensor, upper: Tensor, switches: Switches) -> Tensor:
        return upper.t() @ lower.flatten(1)

    def tangent_kernel(self, lower: Tensor, rates: Mapping[str, float]) -> Tensor | None:
        """η_W l lᵀ + η_b."""
        lower = lower.flatten(1)
        return lower @ lower.t() * rates.get("weight", 0.0) + rates.get("bias", 0.0)

    def extra_repr(self) -> str:
        return f"{' × '.join(map(str, self.lower_shape))}, {self.upper_shape[0]}"


@final
class ConvPool(TiedConnection):
    """Convolution, then pooling: up(l) = P(w ⋆ l + b), down(u) = wᵀ ⋆ P⁻¹(u).

    w is (channels, C, kernel, kernel) and b (channels,); both start uniform in ±1/√(C kernel²), as
    those of :class:`torch.nn.Conv2d` do. Without padding a convolution makes an image of height H
    one of ⌊(H + 2 padding − kernel) / stride⌋ + 1, and pooling divides that by ``pool``, leaving
    out what remains.

    Args:
        lower: the shape (C, H, W) of the lower layer.
        channels: of the upper layer.
        kernel: side of the convolution's window.
        stride: by how many pixels the window moves.
        padding: rows and columns of zeros around the image.
        pool: side of the pooling's windows, which do not overlap; 1 does not pool.
        pooling: whether a window gives its largest value (``max``) or the mean (``average``).

    Raises:
        ValueError: a lower layer that is no image, or is too small; says what would fit.
    """

    def __init__(
        self,
        lower: Sequence[int],
        channels: int,
        kernel: int = 5,
        *,
        stride: int = 1,
        padding: int = 0,
        pool: int = 2,
        pooling: Pooling = "max",
    ) -> None:
        super().__init__()
        if isinstance(lower, int):
            raise ValueError(
                "ConvPool: expected a lower layer of shape (channels, height, width), "
                f"got the size {lower}"
            )
        _require_whole("ConvPool", *lower, channels, kernel, stride, padding, pool)
        self.lower_shape = tuple(lower)
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.pool, self.pooling = pool, pooling
        if len(self.lower_shape) != 3 or min(self.lower_shape) < 1:
            raise ValueError(
                "ConvPool: expected a lower layer of shape (channels, height, width), "
                f"got {self.lower_shape}"
            )
        if min(channels, kernel, stride, pool) < 1 or padding < 0:
            raise ValueError(
                "ConvPool: expected channels, kernel, stride and pool of at least 1 and padding of "
                f"at least 0, got {channels}, {kernel}, {stride}, {pool} and {padding}"
            )
        if pooling not in get_args(Pooling):
            raise ValueError(
                f"pooling: expected one of {', '.join(get_args(Pooling))}, got {pooling!r}"
            )
        inputs, *image = self.lower_shape
        self.conv_shape = (channels, *((n + 2 * padding - kernel) // stride + 1 for n in image))
        if min(self.conv_shape[1:]) < pool:
            least = kernel + (pool - 1) * stride - 2 * padding
            raise ValueError(
                f"ConvPool: expected an image of at least {least}×{least}, which kernel {kernel}, "
                f"stride {stride}, padding {padding} and pool {pool} need, "
                f"got {image[0]}×{image[1]}"
            )
        self.upper_shape = (channels, *(n // pool for n in self.conv_shape[1:]))
        bound = 1 / math.sqrt(inputs * kernel**2)
        weight = torch.empty(channels, inputs, kernel, kernel).uniform_(-bound, bound)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def up(self, lower: Tensor) -> tuple[Tensor, Switches]:
        lower = _channels_last(lower)
        image = F.conv2d(lower, self.weight, self.bias, self.stride, self.padding)
        if self.pool == 1:
            return image, None
        if self.pooling == "average":
            return F.avg_pool2d(image, self.pool), None
        return F.max_pool2d(image, self.pool, return_indices=True)

    def switches(self, lower: Tensor) -> Switches:
        chosen = self.pool > 1 and self.pooling == "max"
        return self.up(lower)[1] if chosen else None

    def transposed(
        self, weight: Tensor, upper: Tensor, switches: Switches, onto: Tensor | None = None
    ) -> Tensor:
        missed = tuple(
            n - ((m - 1) * self.stride + self.kernel - 2 * self.padding)
            for n, m in zip(self.lower_shape[1:], self.conv_shape[1:], strict=True)
        )
        received = F.conv_transpose2d(
            self._unpooled(upper, switches),
            weight,
            None,
            self.stride,
            self.padding,
            output_padding=missed,
        )
        # In place, as this tensor is new and no backward pass needs its values.
        return received if onto is None else received.add_(onto)

    def _unpooled(self, upper: Tensor, switches: Switches) -> Tensor:
        """P⁻¹(u), (B, …conv_shape)."""
        if self.pool == 1:
            return upper
        if switches is not None:
            return F.max_unpool2d(
                upper, switches, (self.pool, self.pool), output_size=self.conv_shape[1:]
            )
        spread = F.interpolate(upper / self.pool**2, scale_factor=self.pool, mode="nearest")
        height, width = (n - m for n, m in zip(self.conv_shape[1:], spread.shape[2:], strict=True))
        return F.pad(spread, (0, width, 0, height)) if height or width else spread

    def contrast_gradients(self, change: Change, scale: float = 1.0) -> dict[str, Tensor]:
        (lower_before, upper_before), (lower_after, upper_after) = change.before, change.after
        scale /= len(upper_after)
        if lower_after is lower_before:
            return self.up_gradients(lower_after, (upper_after - upper_before) * scale)
        switches = self.switches(torch.cat((lower_after, lower_before)))
        images = self._unpooled(torch.cat((upper_after, upper_before)) * scale, switches)
        image_after, image_before = images.chunk(2)
        moved = image_after - image_before
        # As for Dense: U′ ⋆ l′ − U ⋆ l = (U′ − U) ⋆ l′ + U ⋆ (l′ − l), both in one call.
        weight = self._weight_gradient(
            torch.cat((lower_after, lower_after - lower_before)), torch.cat((moved, image_before))
        )
        return {"weight": weight, "bias": moved.sum((0, 2, 3))}

    def up_gradients(self, lower: Tensor, upper: Tensor) -> dict[str, Tensor]:
        image = self._unpooled(upper, self.switches(lower))
        return {"weight": self._weight_gradient(lower, image), "bias": image.sum((0, 2, 3))}

    def down_gradient(self, lower: Tensor, upper: Tensor, switches: Switches) -> Tensor:
        return self._weight_gradient(lower, self._unpooled(upper, switches))

    def _weight_gradient(self, lower: Tensor, image: Tensor) -> Tensor:
        """∂/∂w of image • (w ⋆ lower), summed over the batch."""
        shape = self.weight.shape
        gradient = conv2d_weight(_channels_last(lower), shape, image, self.stride, self.padding)
        return gradient.contiguous()

    def extra_repr(self) -> str:
        pooled = f", pool={self.pool}, pooling={self.pooling}" if self.pool > 1 else ""
        return (
            f"{' × '.join(map(str, self.lower_shape))}, {self.upper_shape[0]}, "
            f"kernel={self.kernel}, stride={self.stride}, padding={self.padding}{pooled}"
        )


@final
class Untied(Connection):
    """Up by one weight, down by another: up(l) as ``upward`` has it, down(u) = θ_bᵀ u.

    These are the derivatives of no coupling: the dynamics are a vector field, and each weight
    learns from its own way. The backward weights θ_b have the shape of the forward ones θ_f, and
    start as these with the sign of each flipped with the probability ½ (1 − cos ψ), so that the
    *weight angle*, cos Ψ = ⟨θ_b, θ_f⟩ / (‖θ_b‖ ‖θ_f‖), is about ψ. There is no backward bias.

    Args:
        upward: a dense connection or a convolution; what pools does so on the way up.
        angle: ψ in degrees, from 0 to 180.

    Raises:
        ValueError: an angle outside that range.
        TypeError: ``upward`` is untied itself.

    Source: Ernoult et al., https://arxiv.org/abs/2005.04168.
    """

    def __init__(self, upward: TiedConnection, angle: float = 0.0) -> None:
        super().__init__()
        if not isinstance(upward, TiedConnection):
            raise TypeError(f"Untied: expected a tied connection, got {type(upward).__name__}")
        if not 0 <= angle <= 180:
            raise ValueError(f"angle: expected degrees from 0 to 180, got {angle}")
        self.lower_shape, self.upper_shape = upward.lower_shape, upward.upper_shape
        self.upward = upward
        flipped = torch.rand(upward.weight.shape) < (1 - math.cos(math.radians(angle))) / 2
        weight = upward.weight.detach()
        self.backward_weight = nn.Parameter(torch.where(flipped, -weight, weight))

    @property
    def weight_angle(self) -> float:
        """Ψ in degrees, now; 90 if one of the weights is 0."""
        weights = self.upward.weight.detach().double(), self.backward_weight.detach().double()
        if not all(weight.any() for weight in weights):
            return 90.0
        forward, backward = (weight / weight.norm() for weight in weights)
        # 2 atan(‖f − b‖ / ‖f + b‖): the arc cosine would lose half the digits of a small angle.
        apart, along = (forward - backward).norm().item(), (forward + backward).norm().item()
        return math.degrees(2 * math.atan2(apart, along))

    def up(self, lower: Tensor) -> tuple[Tensor, Switches]:
        return self.upward.up(lower)

    def switches(self, lower: Tensor) -> Switches:
        return self.upward.switches(lower)

    def down(self, upper: Tensor, switches: Switches, onto: Tensor | None = None) -> Tensor:
        return self.upward.transposed(self.backward_weight, upper, switches, onto)

    def contrast(self, change: Change) -> Tensor:
        """⟨up(l), m_u⟩ + ⟨down(u), m_l⟩."""
        (lower, upper), (moved_lower, moved_upper) = change.anchor, change.moved
        received, switches = self.up(lower)
        return _product(received, moved_upper) + _product(self.down(upper, switches), moved_lower)

    def contrast_gradients(self, change: Change, scale: float = 1.0) -> dict[str, Tensor]:
        (lower, upper), (moved_lower, moved_upper) = change.anchor, change.moved
        scale /= len(upper)
        forward = self.upward.up_gradients(lower, moved_upper * scale)
        backward = self.upward.down_gradient(
            moved_lower, upper * scale, self.upward.switches(lower)
        )
        return {
            **{f"upward.{name}": gradient for name, gradient in forward.items()},
            "backward_weight": backward,
        }

    def extra_repr(self) -> str:
        return f"weight angle {self.weight_angle:.1f}°"


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Their scalar product, per sample."""
    return (one * other).flatten(1).sum(1)


def _channels_last(images: Tensor) -> Tensor:
    """The same images with the channels last in memory, for which pooling is over ten times faster.

    All that is computed from them keeps that order, so that only an input is ever copied.
    """
    if images.shape[1] == 1:
        # Of one channel either order is a view, but torch takes it for the other one.
        return images.reshape(len(images), *images.shape[2:], 1).permute(0, 3, 1, 2)
    return images.contiguous(memory_format=torch.channels_last)


def _require_whole(what: str, *numbers: object) -> None:
    for number in numbers:
        if type(number) is not int:
            raise ValueError(f"{what}: expected whole numbers (windows are square), got {number!r}")


def dense(*sizes: int) -> list[TiedConnection]:
    """The dense connections of a chain of layers: ``dense(784, 512, 10)``, input side first.

    Raises:
        ValueError: fewer than two sizes, or one below 1.
    """
    if len(sizes) < 2:
        raise ValueError(f"dense: expected the sizes of the input and of a layer, got {sizes}")
    return [Dense(lower, upper) for lower, upper in pairwise(sizes)]


def untied(connections: Sequence[TiedConnection], angle: float = 0.0) -> list[Connection]:
    """The same chain with backward weights of their own, but at the input, from which none lead.

    Args:
        connections: input side first, see :func:`dense` and :func:`convolutional`; they become the
            ways up.
        angle: ψ in degrees, from 0 to 180, at which the backward weights start.

    Raises:
        ValueError: an angle outside that range, or no connection.
        TypeError: connections that are untied already.
    """
    if not connections:
        raise ValueError("connections: expected at least one, got none")
    first, *others = connections
    return [first, *(Untied(connection, angle) for connection in others)]


def convolutional(
    input_shape: Sequence[int],
    channels: Sequence[int],
    *sizes: int,
    kernel: int | Sequence[int] = 5,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    pool: int | Sequence[int] = 2,
    pooling: Pooling = "max",
) -> list[TiedConnection]:
    """Convolutions with pooling, then dense connections, input side first.

    ``convolutional((1, 28, 28), (32, 64), 10)`` has two convolutions and a dense output layer.

    Args:
        input_shape: (C, H, W).
        channels: of each convolution; none at all leaves the dense connections.
        sizes: of the dense layers, if any.
        kernel, stride, padding, pool: one number for all convolutions, or one for each.
        pooling: ``max`` or ``average``.

    Raises:
        ValueError: a convolution that does not fit on what lies below it; says which layer, what it
            got and what would fit. A setting that is there neither once nor for each.
    """
    settings = {"kernel": kernel, "stride": stride, "padding": padding, "pool": pool}
    each: dict[str, Sequence[int]] = {}
    for name, value in settings.items():
        each[name] = [value] * len(channels) if isinstance(value, int) else value
        if len(each[name]) == 1:
            each[name] = [*each[name]] * len(channels)
        if channels and len(each[name]) != len(channels):
            raise ValueError(
                f"{name}: expected one number, or {len(channels)}, one for each convolution, "
                f"got {len(each[name])}"
            )
    connections: list[TiedConnection] = []
    shape = tuple(input_shape)
    for index, size in enumerate(channels):
        at = {name: values[index] for name, values in each.items()}
        try:
            connections.append(ConvPool(shape, size, **at, pooling=pooling))
        except ValueError as error:
            raise ValueError(f"hidden layer {index + 1}: {error}") from None
        shape = connections[-1].upper_shape
    for size in sizes:
        connections.append(Dense(shape if connections else math.prod(shape), size))
        shape = (size,)
    return connections
