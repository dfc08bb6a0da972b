"""A network inside of another class: its own, and what a device adds.

The wrapped network has the parameters of the network itself, the same tensors, and whatever else it
has: its step, its rules, its names. What differs is what the added class overrides, mostly
:meth:`~eqprop.core.models.ConvergentModel.move`, so that it can be any model, and whatever takes
a model takes it.
"""

from copy import copy
from functools import cache
from typing import Any, TypeVar

from eqprop.core.fitting import require_model
from eqprop.core.models import ConvergentModel

__all__ = ["Device", "wrapped"]


class Device(ConvergentModel):
    """What stands before the class of a network, in a class made of both."""

    def __reduce__(self) -> tuple[Any, ...]:
        # No module has a name for its class, nor for one within it.
        kind, added = type(self), []
        while issubclass(kind, Device):
            first, kind = kind.__bases__
            added.append(first)
        return _unpacked, (kind, *reversed(added)), self.__getstate__()


D = TypeVar("D", bound=Device)


def wrapped(network: ConvergentModel, added: type[D]) -> D:
    """The network, with what a device adds to its class; the parameters are shared.

    Raises:
        TypeError: no network. ValueError: one that has such a device already.
    """
    network = require_model(network)
    if isinstance(network, added):
        raise ValueError(
            f"network: expected one that is not {added.__name__.lower()} yet, got "
            f"{type(network).__name__}"
        )
    found = copy(network)
    # What is registered from now on is not the network's own.
    found._buffers, found._modules = dict(network._buffers), dict(network._modules)
    found.__class__ = _combined(added, type(network))
    assert isinstance(found, added)
    return found


def _unpacked(kind: type[ConvergentModel], *added: type[Device]) -> ConvergentModel:
    for one in added:
        kind = _combined(one, kind)
    return kind.__new__(kind)


@cache
def _combined(added: type[Device], kind: type[ConvergentModel]) -> type[Device]:
    named = {"__module__": __name__, "__doc__": kind.__doc__}
    return type(f"{added.__name__}{kind.__name__}", (added, kind), named)
