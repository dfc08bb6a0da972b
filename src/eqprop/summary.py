"""What an object holds, said in a few lines: of a tensor its shape, not its numbers.

A dataclass takes it by one line in its body::

    __repr__ = summary

A field that is not worth a line is declared by ``field(repr=False)``, as for any dataclass.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["summary"]

_WIDE = 96
"""The longest line in which several things are said."""

_MANY = 12
"""The most fields, entries of a mapping, or numbers, that are said one by one within an object."""


def summary(self: Any) -> str:
    """The fields of a dataclass, a line each, or a few where one holds several things.

    Of a tensor it says dtype, shape, device, and between which numbers it lies. What lies two
    objects deep is named only, where it takes more than a line.
    """
    return "\n".join([type(self).__name__, *_lines(_fields(self, 0))])


def _fields(of: Any, depth: int) -> list[tuple[str, list[str]]]:
    return [(at.name, _said(getattr(of, at.name), depth)) for at in fields(of) if at.repr]


def _lines(parts: Iterable[tuple[str, list[str]]]) -> list[str]:
    """A line for each part, and further ones below it where it has more to say."""
    return [
        line
        for name, (first, *more) in parts
        for line in (f"  {name}: {first}".rstrip(), *(f"  {line}" for line in more))
    ]


def _said(value: Any, depth: int = 0) -> list[str]:
    """What is said of a value: a line, and perhaps further ones below it."""
    if isinstance(value, Tensor):
        return [_tensor(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return _object(value, depth + 1)
    if isinstance(value, Mapping):
        parts = [(str(key), _said(value[key], depth)) for key in list(value)[:_MANY]]
        left = [f"  … and {len(value) - _MANY} more"] if len(value) > _MANY else []
        return ["", *_lines(parts), *left] if value else ["none"]
    if isinstance(value, list | tuple):
        return _several(value)
    if isinstance(value, float):
        return [f"{value:.4g}"]
    if isinstance(value, np.ndarray):
        return [f"{value.dtype} {tuple(value.shape)}"]
    said = "none" if value is None else value if isinstance(value, str) else repr(value)
    # What says a lot of itself, such as a network, can be asked.
    return [said if len(said) <= _WIDE and "\n" not in said else type(value).__name__]


def _object(of: Any, depth: int) -> list[str]:
    """A dataclass within another one."""
    name = type(of).__name__
    if len(fields(of)) > _MANY:
        return [name]
    parts = _fields(of, depth)
    if len(parts) == 1:
        return parts[0][1]
    return _short(parts) or [name, *(_lines(parts) if depth == 1 else [])]


def _short(parts: Sequence[tuple[str, list[str]]]) -> list[str]:
    """All in one line, if there is room for it."""
    line = "; ".join(f"{name} {first}" for name, (first, *_) in parts)
    fits = len(line) <= _WIDE and all(len(said) == 1 for _, said in parts)
    return [line] if fits and parts else []


def _several(values: Sequence[Any]) -> list[str]:
    if not values:
        return ["none"]
    if all(isinstance(value, Tensor) for value in values):
        said = [_tensor(value) for value in values]
        line = "; ".join(said)
        return [line] if len(line) <= _WIDE else ["", *(f"  {one}" for one in said)]
    numbers = all(isinstance(value, int | float) for value in values)
    if len(values) <= _MANY and (numbers or all(isinstance(value, str) for value in values)):
        return [", ".join(_said(value)[0] for value in values)]
    if numbers:
        return [f"{len(values)} numbers, {_said(min(values))[0]} to {_said(max(values))[0]}"]
    kinds = sorted({type(value).__name__ for value in values})
    return [f"{len(values)} × {' or '.join(kinds)}"]


def _tensor(value: Tensor) -> str:
    said = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)} on {value.device}"
    if value.is_meta or not value.numel() or value.is_complex() or value.dtype == torch.bool:
        return said
    low, high = (_said(end.item())[0] for end in value.detach().aminmax())
    return f"{said}, {low if low == high else f'{low} to {high}'}"
