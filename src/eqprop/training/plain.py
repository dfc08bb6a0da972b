"""Nested plain values with tensors among them, as JSON and named tensors, and back.

What ``state_dict`` of optimizers and schedulers gives is made of dictionaries, lists, numbers and
tensors. JSON knows no tuple, no key but text and no tensor: these become dictionaries of one entry
whose key says what they are::

    {"$tensor": "optimizer/state/0/exp_avg"}   {"$tuple": […]}   {"$items": [[key, value], …]}

Nothing else is written and nothing else read: no value of it can carry code.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["from_plain", "to_plain"]


def to_plain(value: object, name: str, tensors: dict[str, Tensor]) -> Any:
    """What JSON can hold of a value; its tensors are added to ``tensors``, by names below ``name``.

    Raises:
        TypeError: a value of another kind, such as a function.
    """
    match value:
        case Tensor():
            while name in tensors:  # of another place whose keys read the same
                name += "'"
            tensors[name] = value
            return {"$tensor": name}
        case np.generic():
            return value.item()
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [to_plain(item, f"{name}/{index}", tensors) for index, item in enumerate(value)]
        case tuple():
            return {"$tuple": to_plain(list(value), name, tensors)}
        case Counter():
            return {"$counts": [[to_plain(key, name, tensors), of] for key, of in value.items()]}
        case Mapping():
            if all(isinstance(key, str) and not key.startswith("$") for key in value):
                return {key: to_plain(of, f"{name}/{key}", tensors) for key, of in value.items()}
            return {
                "$items": [
                    [to_plain(key, name, tensors), to_plain(of, f"{name}/{key}", tensors)]
                    for key, of in value.items()
                ]
            }
        case _:
            raise TypeError(
                f"{name}: expected numbers, text and tensors, got a {type(value).__name__}, which "
                "no checkpoint can hold"
            )


def from_plain(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value again.

    Raises:
        KeyError, TypeError, ValueError: it is nothing that :func:`to_plain` has made.
    """
    if isinstance(value, list):
        return [from_plain(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1 or not next(iter(value)).startswith("$"):
        return {key: from_plain(of, tensors) for key, of in value.items()}
    ((kind, of),) = value.items()
    match kind:
        case "$tensor":
            return tensors[of]
        case "$tuple":
            return tuple(from_plain(of, tensors))
        case "$items" | "$counts":
            pairs = {from_plain(key, tensors): from_plain(item, tensors) for key, item in of}
            return pairs if kind == "$items" else Counter(pairs)
        case _:
            raise ValueError(f"expected $tensor, $tuple, $items or $counts, found {kind}")
