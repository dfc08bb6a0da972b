"""Other tensors in the places of a model's parameters, for as long as one looks at it with them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["standing_in"]


@contextmanager
def standing_in(module: nn.Module, parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it, the module computes with these tensors, which autograd may lead to or from.

    A parameter that is shared has one name, the first, and is replaced wherever it is used.

    Args:
        parameters: by the names of ``module.named_parameters()``; the others stay.

    Raises:
        ValueError: a name of none of them.
    """
    names = {name: id(p) for name, p in module.named_parameters()}
    if unknown := sorted(parameters.keys() - names.keys()):
        raise ValueError(f"parameters: expected names among {', '.join(names)}, got {unknown[0]}")
    named = {identity: parameters.get(name) for name, identity in names.items()}
    places: list[tuple[Any, str, Tensor]] = [
        (part._parameters, name, p)
        for part in module.modules()
        for name, p in part._parameters.items()
        if p is not None and named[id(p)] is not None
    ]
    try:
        for of, name, p in places:
            of[name] = named[id(p)]
        yield
    finally:
        for of, name, p in places:
            of[name] = p
