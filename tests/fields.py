"""Models of every kind that come to rest, with and without a Φ, in float64."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import eqprop
from eqprop.core.models import ConvergentModel, State, VectorFieldModel

T, K = 1000, 12
ANGLES = (0, 45, 90, 135, 180)


class Field(VectorFieldModel):
    """Random connections between all layers and within them, and a slope outside."""

    def __init__(self) -> None:
        super().__init__([5, 4, 3], activation="tanh")
        self.drives = nn.Linear(6, 5)
        self.all = nn.Linear(12, 12)

    def field(self, drive: Tensor, state: State) -> State:
        a, b, c = self.all(torch.cat(state, 1)).split([5, 4, 3], 1)
        return a + self.drives(drive), b, c


def real_time(psi: float) -> ConvergentModel:
    chain = eqprop.untied(eqprop.dense(6, 5, 4, 3), angle=psi)
    return eqprop.RealTimeNetwork(chain, "tanh", epsilon=0.3)


def prototypical(psi: float) -> ConvergentModel:
    return eqprop.PrototypicalNetwork(eqprop.untied(eqprop.dense(6, 5, 4, 3), angle=psi), "tanh")


MODELS: dict[str, Callable[[], ConvergentModel]] = {
    "field": Field,
    "inside": lambda: eqprop.PrototypicalNetwork(eqprop.dense(6, 5, 4, 3), "tanh", nudge="inside"),
    "in turn": lambda: eqprop.PrototypicalNetwork(
        eqprop.untied(eqprop.dense(6, 5, 4, 3), angle=90), "tanh", updates="alternating"
    ),
    "clipped": lambda: eqprop.RealTimeNetwork(
        eqprop.dense(6, 5, 4, 3), "tanh", epsilon=0.3, clip=(-0.1, 0.1)
    ),
    "tied": lambda: eqprop.PrototypicalNetwork(eqprop.dense(6, 5, 4, 3), "scaled-sigmoid"),
    **{f"real time, {psi}°": lambda psi=psi: real_time(psi) for psi in ANGLES},
    **{f"prototypical, {psi}°": lambda psi=psi: prototypical(psi) for psi in ANGLES},
}

Nudging = Literal["one-sided", "symmetric"]
both = pytest.mark.parametrize("nudging", ["one-sided", "symmetric"])
every_model = pytest.mark.parametrize("name", MODELS)


def made(name: str) -> tuple[ConvergentModel, Tensor, Tensor]:
    torch.manual_seed(0)
    model = MODELS[name]().double()
    with torch.no_grad():
        # So that all of them come to rest.
        for parameter in model.parameters():
            parameter.mul_(0.7)
    return model, torch.rand(5, 6).double(), torch.rand(5, 3).double()


def gradient(model: ConvergentModel, x: Tensor, y: Tensor, estimator: Any) -> Tensor:
    model.zero_grad()
    estimator(model, x, y)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
