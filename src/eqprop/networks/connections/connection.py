r"""Connections: how two neighbouring layers pull at each other.

A *tied* connection contributes a coupling of what the lower layer sends, l, and of what the upper
one does, u, to Φ. It is linear in u. Its way *up* is the derivative of the coupling with respect to
u, its way *down* the one with respect to l::

                coupling             up                down
    Dense       u · (W l + b)        W l + b           Wᵀ u
    ConvPool    u • P(w ⋆ l + b)     P(w ⋆ l + b)      wᵀ ⋆ P⁻¹(u)
    Untied      none                 that of a tied connection; down by weights of its own

The way down depends on l where the coupling is not linear in it. What the way down needs of l, the
way up has found already: its *trace*, such as the places of the largest values of a max-pooling, or
in general l itself.

How a connection learns from two states, before and after, is its *contrast*::

    tied       coupling(after) − coupling(before)
    untied     ⟨up(l), m_u⟩ + ⟨down(u), m_l⟩

with l and u at the anchor, and m_l and m_u how the layers moved. To first order both are the same
where the weights are: u · W l has the differential ⟨W l, du⟩ + ⟨Wᵀ u, dl⟩.

A connection of your own needs its coupling alone; everything else comes from it by autograd,
slowly. Explicit formulas may override it, and must agree with it::

    class Gated(TiedConnection):
        def __init__(self, size):
            super().__init__((size,), (size,))
            self.gate = nn.Parameter(torch.rand(size))

        def coupling(self, ends):
            lower, upper = ends
            return (upper * self.gate * lower).sum(1)

Source: Ernoult et al., https://arxiv.org/abs/1905.13633; untied weights:
https://arxiv.org/abs/2005.04168.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar, NoReturn, final

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod

from eqprop.core.costs import require_per_sample
from eqprop.core.derivative import derivative
from eqprop.core.models import parameter_gradients
from eqprop.core.stand_in import standing_in
from eqprop.summary import summary

__all__ = [
    "Change",
    "Connection",
    "Ends",
    "ExplicitConnection",
    "TiedConnection",
    "Trace",
    "Ways",
    "parameter_of",
    "product",
]

Trace = Any
"""What the way up found that the way down needs; ``None`` where it needs nothing."""

Ends = tuple[Tensor, Tensor]
"""(lower, upper): what the two layers send."""


@final
@dataclass(frozen=True, eq=False)
class Change:
    """What happens at the two ends of a connection between the states that are compared.

    Attributes:
        before, after: what the layers send in these states, (B, …lower) and (B, …upper).
        anchor: what they send where a vector field is differentiated.
        moved: (∂r/∂s)ᵀ (after − before) of the states, the derivative that of the anchor; 0, of no
            shape, for the static input. Absent where no connection asks for it.
    """

    before: Ends
    after: Ends
    anchor: Ends
    moved: Ends | None = None

    __repr__ = summary


class Connection(nn.Module, ABC):
    """What a lower and an upper layer send to each other, and how that is learnt.

    Args:
        lower_shape: the shape of the lower layer, without the batch.
        upper_shape: the shape of the upper layer, without the batch.
    """

    asks_moved: ClassVar[bool] = True
    """Whether :meth:`contrast` asks for what the layers moved by."""

    def __init__(self, lower_shape: Sequence[int], upper_shape: Sequence[int]) -> None:
        super().__init__()
        self.lower_shape = tuple(lower_shape)
        self.upper_shape = tuple(upper_shape)

    def _refuse_hooks(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__}: expected no hook of forward or backward, as a connection has "
            "neither; what changes its weights, such as a mask or a norm, belongs into "
            "torch.nn.utils.parametrize or torch.nn.utils.parametrizations"
        )

    def register_forward_pre_hook(self, hook: Any, **options: Any) -> Any:
        """Refuse all hooks but that of pruning, whose work :class:`_Pruned` does."""
        if not isinstance(hook, BasePruningMethod):
            # The old weight_norm renews a weight in such a hook, which nothing would ever call: it
            # would train something that is not used.
            if type(hook).__module__.startswith("torch.nn.utils"):
                # It has rewritten the connection already; a spectral norm leaves it divided.
                original = self._parameters.get(f"{hook.name}_orig")
                hook.remove(self)
                self._parameters[hook.name] = (
                    self._parameters[hook.name] if original is None else original
                )
            self._refuse_hooks()
        # The product of mask and weight as it is now; it would be that for ever.
        super().__delattr__(hook._tensor_name)
        # Of another class, as with a parametrization: all others need not look for masks.
        self.__class__ = _pruned(type(self))  # pyright: ignore[reportAttributeAccessIssue]
        return super().register_forward_pre_hook(hook, **options)

    register_forward_hook = _refuse_hooks
    register_full_backward_pre_hook = _refuse_hooks
    register_full_backward_hook = _refuse_hooks

    @abstractmethod
    def up(self, lower: Tensor) -> tuple[Tensor, Trace]:
        """What the upper layer receives, (B, …upper), and what :meth:`down` needs of it."""

    def trace(self, lower: Tensor) -> Trace:
        """The latter alone."""
        return self.up(lower)[1]

    @abstractmethod
    def down(self, upper: Tensor, trace: Trace, onto: Tensor | None = None) -> Tensor:
        """What the lower layer receives, (B, …lower), added to ``onto``.

        ``trace`` is what :meth:`up` found for the present state of the lower layer.
        """

    def ways(self) -> "Ways | None":
        """Both ways as products with weights; none where they are no such."""
        return None

    @abstractmethod
    def contrast(self, change: Change) -> Tensor:
        """One value per sample, (B,), whose θ-gradient ÷ β is the local learning rule."""

    def contrast_gradients(self, change: Change, scale: float = 1.0) -> dict[str, Tensor]:
        """scale · ∂/∂θ of the batch mean of :meth:`contrast`, by parameter name.

        A lower end that is the same tensor before and after is the static input.
        """
        # Where autocast has rounded a weight without gradients, none would come back through it.
        torch.clear_autocast_cache()
        with torch.enable_grad():
            mean = self.contrast(change).mean() * scale
        return parameter_gradients(self, (mean,))

    def gradients_of(
        self, names: Collection[str], change: Change, scale: float = 1.0
    ) -> dict[str, Tensor]:
        """Those of :meth:`contrast_gradients` by these names: by autograd where its explicit rule
        does not know what a weight is made of. Absent where the contrast depends on none."""
        found = self.contrast_gradients(change, scale) if names else {}
        if not found.keys() >= set(names):
            found = Connection.contrast_gradients(self, change, scale) | found
        return {name: found[name] for name in names if name in found}

    def learn(self, change: Change, scale: float, rates: Mapping[str, float]) -> None:
        """θ ← θ + η · scale · ∂/∂θ of the batch mean of :meth:`contrast`, in place.

        Args:
            rates: η, by parameter name; the others stay.
        """
        parameters = dict(self.named_parameters())
        for name, gradient in self.gradients_of(rates.keys(), change, scale).items():
            parameters[name].add_(gradient, alpha=rates[name])

    def tangent_kernel(self, lower: Tensor, rates: Mapping[str, float]) -> Tensor | None:
        """K, (B, B): when θ moves by η ⊙ ∂/∂θ ⟨m, up(l)⟩ for any m, up(l) moves by K m.

        None where up is not linear in θ, or nobody has worked it out.

        Args:
            lower: l, what the lower layer sends.
            rates: η, by parameter name; 0 for those that are left out.
        """
        return None


class _Pruned(Connection):
    """A connection some of whose weights torch.nn.utils.prune has masked: mask ⊙ weight, as now."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            mask, weight = self._buffers.get(f"{name}_mask"), self._parameters.get(f"{name}_orig")
            if mask is None or weight is None:
                raise
            return mask * weight

    def __delattr__(self, name: str) -> None:
        # prune.remove deletes the product before it puts the weight there.
        if f"{name}_mask" not in self._buffers:
            super().__delattr__(name)

    def __reduce__(self) -> tuple[Any, ...]:
        # No module has a name for its class.
        return _unpacked, (type(self).__mro__[2],), self.__getstate__()


def _unpacked(kind: type[Connection]) -> Connection:
    pruned = _pruned(kind)
    return pruned.__new__(pruned)


@cache
def _pruned(kind: type[Connection]) -> type[Connection]:
    if issubclass(kind, _Pruned):
        return kind
    return type(f"Pruned{kind.__name__}", (_Pruned, kind), {})


class TiedConnection(Connection):
    """A connection whose ways up and down are the derivatives of one coupling: write it alone.

    Attributes:
        weight: what an untied connection has a second one of; others need none.
    """

    weight: nn.Parameter

    asks_moved = False

    @abstractmethod
    def coupling(self, ends: Ends) -> Tensor:
        """One value per sample, (B,), linear in what the upper layer sends."""

    def up(self, lower: Tensor) -> tuple[Tensor, Trace]:
        upper = lower.new_zeros((len(lower), *self.upper_shape))
        return derivative(self._checked, (lower, upper))[1], lower

    def trace(self, lower: Tensor) -> Trace:
        return lower

    def down(self, upper: Tensor, trace: Trace, onto: Tensor | None = None) -> Tensor:
        received = derivative(self._checked, (trace, upper))[0]
        return received if onto is None else onto + received

    def contrast(self, change: Change) -> Tensor:
        """coupling(after) − coupling(before)."""
        return self.coupling(change.after) - self.coupling(change.before)

    def transposed(
        self, weight: Tensor, upper: Tensor, trace: Trace, onto: Tensor | None = None
    ) -> Tensor:
        """The way down by another weight of the same shape."""
        with standing_in(self, {"weight": weight}):
            return self.down(upper, trace, onto)

    def _checked(self, lower: Tensor, upper: Tensor) -> Tensor:
        return require_per_sample("coupling", self.coupling((lower, upper)), len(lower))


class ExplicitConnection(TiedConnection):
    """A tied connection whose ways and rules are written out, for either weight of an untied one.

    Its way down depends on no parameter but the weight.
    """

    def coupling(self, ends: Ends) -> Tensor:
        """u · up(l)."""
        lower, upper = ends
        return product(upper, self.up(lower)[0])

    def down(self, upper: Tensor, trace: Trace, onto: Tensor | None = None) -> Tensor:
        return self.transposed(parameter_of(self, "weight"), upper, trace, onto)

    @final
    def ways(self) -> "Ways":
        weight = parameter_of(self, "weight").detach()
        return Ways(self, weight, weight)

    def raised(
        self, weight: Tensor, lower: Tensor, trace: Trace, onto: Tensor | None = None
    ) -> Tensor:
        """The way up by another weight of the same shape, without a bias: the transpose of
        :meth:`transposed`."""
        upper = lower.new_zeros((len(lower), *self.upper_shape))
        fall = partial(self.transposed, weight, trace=trace)
        (received,) = derivative(fall, (upper,), lower)
        return received if onto is None else onto + received

    @abstractmethod
    def transposed(
        self, weight: Tensor, upper: Tensor, trace: Trace, onto: Tensor | None = None
    ) -> Tensor: ...

    @abstractmethod
    def up_gradients(self, lower: Tensor, upper: Tensor) -> dict[str, Tensor]:
        """∂/∂θ of the batch sum of the coupling, by parameter name."""

    @abstractmethod
    def down_gradient(self, lower: Tensor, upper: Tensor, trace: Trace) -> Tensor:
        """∂/∂weight of the batch sum of ⟨transposed(weight, upper, trace), lower⟩."""


@final
@dataclass(frozen=True, eq=False)
class Ways:
    """Both ways of a connection near a state of its lower layer, and their transposes: linear.

    Attributes:
        through: whose products they are.
        weight: that of the way up.
        backward_weight: that of the way down.
    """

    through: ExplicitConnection
    weight: Tensor
    backward_weight: Tensor

    __repr__ = summary

    def up(self, lower: Tensor, trace: Trace, onto: Tensor | None = None) -> Tensor:
        """∂up/∂l · lower, added to ``onto``; the others likewise."""
        return self.through.raised(self.weight, lower, trace, onto)

    def down(self, upper: Tensor, trace: Trace, onto: Tensor | None = None) -> Tensor:
        return self.through.transposed(self.backward_weight, upper, trace, onto)

    def up_transposed(self, upper: Tensor, trace: Trace, onto: Tensor | None = None) -> Tensor:
        return self.through.transposed(self.weight, upper, trace, onto)

    def down_transposed(self, lower: Tensor, trace: Trace, onto: Tensor | None = None) -> Tensor:
        return self.through.raised(self.backward_weight, lower, trace, onto)


def parameter_of(connection: nn.Module, name: str) -> Tensor:
    """``getattr(connection, name)``, in a third of its time where that is a plain parameter: every
    step asks, and ``nn.Module`` looks there last."""
    found = connection._parameters.get(name)
    return getattr(connection, name) if found is None else found


def product(one: Tensor, other: Tensor) -> Tensor:
    """Their scalar product, per sample."""
    return (one * other).flatten(1).sum(1)
