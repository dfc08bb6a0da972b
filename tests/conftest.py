"""Small models whose theory is known, shared by the tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import Tensor, nn

from eqprop.connections import ConvPool, Dense, dense
from eqprop.models import EnergyModel, PrimitiveModel, State, VectorFieldModel
from eqprop.networks import LayeredNetwork, RealTimeNetwork

torch.set_num_threads(1)


class UserPhi(PrimitiveModel):
    """What a user would write: Φ = ½ (h·tanh(Ax) + o·tanh(Bh)), exact and contracting."""

    def __init__(self) -> None:
        super().__init__([5, 3])
        self.a = nn.Linear(4, 5)
        self.b = nn.Linear(5, 3)

    def phi(self, x: Tensor, state: State) -> Tensor:
        h, o = state
        return 0.5 * ((h * self.a(x).tanh()).sum(1) + (o * self.b(h).tanh()).sum(1))


class UserField(VectorFieldModel):
    """The field ∂Φ/∂s of UserPhi, written by hand."""

    def __init__(self) -> None:
        super().__init__([5, 3])
        self.a = nn.Linear(4, 5)
        self.b = nn.Linear(5, 3)

    def field(self, drive: Tensor, state: State) -> State:
        h, o = state
        t = self.b(h).tanh()
        return (
            0.5 * (self.a(drive).tanh() + (o * (1 - t.square())) @ self.b.weight),
            0.5 * t,
        )


class UserEnergy(EnergyModel):
    """All-to-all with lateral weights: E = ½‖s‖² − ½ ρ(s) W ρ(s) − ρ(s)·(V x + b)."""

    def __init__(self) -> None:
        super().__init__([5, 3], epsilon=0.4)
        self.v = nn.Linear(4, 8)
        self.w = nn.Parameter(torch.randn(8, 8) * 0.2)

    def energy(self, x: Tensor, state: State) -> Tensor:
        s = torch.cat(state, 1)
        r = s.tanh()
        w = (self.w + self.w.t()) / 2
        return (0.5 * s.square() - 0.5 * r * (r @ w) - r * self.v(x)).sum(1)


class Entangled(PrimitiveModel):
    """Φ = Σ log cosh z, z = ½ (h + Q o + A x): autograd makes ∂Φ/∂o = Qᵀ ∂Φ/∂h out of ∂Φ/∂h."""

    def __init__(self) -> None:
        super().__init__([6, 3])
        self.a = nn.Linear(4, 6)
        self.q = nn.Linear(3, 6, bias=False)

    def phi(self, x: Tensor, state: State) -> Tensor:
        h, o = state
        z = 0.5 * (h + self.q(o) + self.a(x))
        return z.cosh().log().sum(1)


def shared() -> LayeredNetwork:
    """One connection used twice."""
    first, middle, last = dense(4, 5, 5, 3)
    with torch.no_grad():
        middle.get_parameter("weight").mul_(0.5)  # so that it settles soon
    return RealTimeNetwork([first, middle, middle, last], "tanh", epsilon=0.8)


def real_time() -> LayeredNetwork:
    return RealTimeNetwork(dense(4, 6, 5, 3), "tanh", epsilon=0.8)


def alternating() -> LayeredNetwork:
    return RealTimeNetwork(dense(4, 6, 5, 3), "tanh", epsilon=0.8, updates="alternating")


def convolutional() -> LayeredNetwork:
    """Vectors of 4 as images of 2×2, two convolutions and a dense layer."""
    first = ConvPool((1, 2, 2), 4, kernel=2, padding=1, pool=1)
    second = ConvPool(first.upper_shape, 3, kernel=2, pool=2)
    # What is sent up is not negative: a negative weight on a maximum would chase it for ever.
    return RealTimeNetwork([first, second, Dense((3, 1, 1), 3)], "scaled-sigmoid", epsilon=0.5)


def averaging() -> LayeredNetwork:
    """The same with average pooling, and alternating updates."""
    first = ConvPool((1, 2, 2), 4, kernel=2, padding=1, pool=1)
    second = ConvPool(first.upper_shape, 3, kernel=2, pool=2, pooling="average")
    connections = [first, second, Dense((3, 1, 1), 3)]
    return RealTimeNetwork(connections, "tanh", epsilon=0.8, updates="alternating")


EXACT = {
    "layered": real_time,
    "alternating": alternating,
    "convolutional": convolutional,
    "averaging": averaging,
    "user's phi": UserPhi,
    "user's energy": UserEnergy,
    "entangled": Entangled,
    "shared": shared,
}


@pytest.fixture(params=EXACT, ids=lambda name: name.replace(" ", "-"))
def exact(request: pytest.FixtureRequest) -> PrimitiveModel:
    """A model whose transition is the gradient of Φ, in float64."""
    torch.manual_seed(1)
    return EXACT[request.param]().double()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Input (7, 4) and target (7, 3)."""
    source = torch.Generator().manual_seed(2)
    return (
        torch.randn(7, 4, generator=source, dtype=torch.float64),
        torch.rand(7, 3, generator=source, dtype=torch.float64),
    )
