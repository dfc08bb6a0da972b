"""What the numbers of an input are: how raw ones become what a network sees, and what classes mean.

    x = (raw / brightest − mean) · scale

with brightest = 255 for bytes, and mean and scale, one for each channel or column, where inputs are
normalised. Whoever has a trained network needs this to show it an image that it has not seen.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self, final

import torch
from torch import Tensor

from eqprop.summary import summary

__all__ = ["Inputs"]


@final
@dataclass(frozen=True)
class Inputs:
    """Of one data set.

    Attributes:
        shape: of one input: (C, H, W) of images, (features,) of a table.
        classes: how many there are; 0 of a regression.
        brightest: what becomes 1.
        mean: what is subtracted from each channel or column; nothing if inputs are not normalised.
        scale: what each is multiplied by then; likewise.
        names: of the classes; none if they have only their numbers.
        targets: of a regression, how many numbers a sample is to come to.
    """

    shape: tuple[int, ...]
    classes: int
    brightest: float = 1.0
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    targets: int = 0

    __repr__ = summary

    @property
    def units(self) -> int:
        """How many output units a network of them has: one for every class, or target."""
        return self.classes or self.targets

    def prepared(self, raw: Tensor) -> Tensor:
        """Raw inputs (B, …) as a network sees them; of the dtype that is the default one.

        Grey images may lack the axis of their only channel.

        Raises:
            ValueError: of another shape.

        Warns:
            UserWarning: no number is above 1, where raw ones go up to ``brightest``: these have
                probably been scaled already.
        """
        if self.shape[:1] == (1,) and raw.shape[1:] == self.shape[1:]:
            raw = raw.unsqueeze(1)
        if raw.shape[1:] != self.shape:
            alone = "one alone; make it a mini-batch of one: x[None]"
            raise ValueError(
                f"inputs: expected samples of shape {self.shape}, got "
                f"{alone if raw.shape == self.shape else tuple(raw.shape[1:])}"
            )
        if self.brightest > 1 and raw.is_floating_point() and raw.numel() and 0 < raw.max() <= 1:
            warnings.warn(
                f"inputs: expected raw numbers, which go up to {self.brightest:g}, got none above "
                "1; if they are scaled already, as those of a data set are, "
                f"multiply them by {self.brightest:g} or ask the network itself: "
                "eqprop.predict(run.network, images, T)",
                stacklevel=3,
            )
        return self.normalized(raw.to(torch.get_default_dtype()) / self.brightest)

    def normalized(self, x: Tensor) -> Tensor:
        """(x − mean) · scale, of inputs (B, …) that are scaled to the brightest already."""
        if not self.mean:
            return x
        each = (1, -1, *[1] * (len(self.shape) - 1))
        mean, scale = (x.new_tensor(values).view(each) for values in (self.mean, self.scale))
        return (x - mean) * scale

    def name(self, number: int) -> str:
        """What a class is called."""
        return self.names[number] if self.names else str(number)

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def stored(cls, found: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` has written.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """

        def floats(name: str) -> tuple[float, ...]:
            return tuple(map(float, _sequence(found[name])))

        return cls(
            tuple(map(int, _sequence(found["shape"]))),
            int(found["classes"]),
            float(found["brightest"]),
            floats("mean"),
            floats("scale"),
            tuple(map(str, _sequence(found["names"]))),
            int(found.get("targets", 0)),
        )


def _sequence(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"expected a list, got {type(value).__name__}")
    return value
