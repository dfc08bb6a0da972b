"""A connection of one's own, held against its coupling.

Ways up and down and learning rules are derivatives of one coupling::

    up(l) = ∂ coupling/∂u        ⟨u, up(l)⟩ = coupling(l, u), as it is linear in u
    down(u) = ∂ coupling/∂l      gradients: ∂ (coupling(after) − coupling(before))/∂θ

Whoever writes a coupling that is not linear in u, or an explicit formula with a slip in it, would
train by updates that follow no gradient, and nothing would say so. A network looks once, when it is
made, at random ends of two samples; the connections of this library are left to its tests.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from eqprop.core.derivative import derivative
from eqprop.networks.connections.connection import (
    Change,
    Connection,
    TiedConnection,
    product,
)
from eqprop.networks.connections.conv_pool import ConvPool
from eqprop.networks.connections.dense import Dense
from eqprop.networks.connections.feedback import Feedback
from eqprop.networks.connections.untied import Untied

__all__ = ["require_consistent"]


def require_consistent(connection: Connection) -> None:
    """Refuse a connection that is not what its coupling makes of it.

    Two of its formulas are the same if they differ by less than the square root of the precision of
    its numbers, relative to the larger one.

    Raises:
        ValueError: the coupling is not linear in what the upper layer sends; or a formula of one's
            own is not its derivative; names the formula.
    """
    if isinstance(connection, Untied | Feedback):
        connection = connection.upward
    if not isinstance(connection, TiedConnection) or isinstance(connection, Dense | ConvPool):
        return
    like = next((p for p in connection.parameters() if p.is_floating_point()), torch.empty(0))
    if not like.is_meta:
        with _evaluating(connection):
            _compare(connection, like)


def _compare(connection: TiedConnection, like: Tensor) -> None:
    source = torch.Generator().manual_seed(0)
    lower, upper, lower_after, upper_after = (
        torch.rand(2, *shape, generator=source).to(like)
        for shape in (connection.lower_shape, connection.upper_shape) * 2
    )
    kind = type(connection).__name__
    with torch.no_grad():
        received, trace = connection.up(lower)
        if not _same(product(upper, received), connection.coupling((lower, upper))):
            raise ValueError(
                f"{kind}.coupling: expected one that is linear in what the upper layer sends, "
                "⟨upper, up(lower)⟩, got another value"
            )
        (slow,) = derivative(lambda end: connection.coupling((end, upper)), (lower,))
        if not _same(connection.down(upper, trace), slow):
            raise ValueError(
                f"{kind}.down: expected the derivative of the coupling with respect to what the "
                "lower layer sends, got another value; one whose ways are not those of a coupling "
                "is a Connection, not a TiedConnection, and learns by a contrast of its own"
            )
    ends = (lower, upper), (lower_after, upper_after)
    change = Change(*ends, ends[0])
    slow_gradients = Connection.contrast_gradients(connection, change)
    for name, gradient in connection.contrast_gradients(change).items():
        if name in slow_gradients and not _same(gradient, slow_gradients[name]):
            raise ValueError(
                f"{kind}.contrast_gradients: expected the derivatives of the contrast, got another "
                f"value for {name}"
            )


@contextmanager
def _evaluating(connection: Connection) -> Iterator[None]:
    """Without dropout, which a connection may hold as long as it is off when used."""
    training = [module for module in connection.modules() if module.training]
    connection.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _same(one: Tensor, other: Tensor) -> bool:
    # What is not finite is for those to find who see it during training.
    if one.shape != other.shape:
        return False
    tolerance = torch.finfo(one.dtype).eps ** 0.5
    apart = (one - other).norm()
    return not apart > tolerance * torch.maximum(one.norm(), other.norm())
