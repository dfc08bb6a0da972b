"""The zoo: small models whose theory is known, and strategies that draw others."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, get_args

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from eqprop.core.activations import Rho
from eqprop.core.models import ConvergentModel, EnergyModel, PrimitiveModel, State, VectorFieldModel
from eqprop.networks.connections.chains import dense
from eqprop.networks.connections.connection import Connection
from eqprop.networks.connections.conv_pool import ConvPool, Pooling
from eqprop.networks.connections.dense import Dense
from eqprop.networks.layered import LayeredNetwork, Updates
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.networks.real_time import RealTimeNetwork
from eqprop.registries import ACTIVATIONS

Batch = tuple[Tensor, Tensor]
"""Input and target."""


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


def newton() -> LayeredNetwork:
    return RealTimeNetwork(dense(4, 6, 5, 3), "tanh", updates="newton")


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


def residual() -> LayeredNetwork:
    """Connections that skip a layer, two of them between the same layers, and three classes."""
    edges = [
        ("x", Dense(4, 6), "a"),
        ("a", Dense(6, 6), "b"),
        ("x", Dense(4, 6), "b"),
        ("a", Dense(6, 6), "b"),
        ("a", Dense(6, 3), "y"),
        ("b", Dense(6, 3), "y"),
    ]
    with torch.no_grad():
        for index in (1, 3, 4, 5):
            edges[index][1].get_parameter("weight").mul_(0.4)  # so that it settles soon
    return RealTimeNetwork(edges, "tanh", epsilon=0.8, updates="alternating")


def lateral() -> LayeredNetwork:
    """A layer that is connected with itself, two inputs, and two outputs."""
    edges = [
        ("left", Dense(1, 5), "h"),
        ("right", Dense(3, 5), "h"),
        ("h", Dense(5, 5), "h"),
        ("h", Dense(5, 2), "one"),
        ("h", Dense(5, 1), "other"),
    ]
    with torch.no_grad():
        edges[2][1].get_parameter("weight").mul_(0.3)  # so that it settles soon
    return RealTimeNetwork(edges, "tanh", epsilon=0.8)


def read_out() -> LayeredNetwork:
    """What the network says is read off its last layer, outside of the dynamics."""
    return RealTimeNetwork(dense(4, 6, 5), "tanh", epsilon=0.8, readout=nn.Linear(5, 3))


class Exact(ConvergentModel):
    """What the models below have in common besides: Φ."""

    @abstractmethod
    def phi(self, x: Tensor, state: State) -> Tensor: ...


EXACT: dict[str, Callable[[], Any]] = {
    "layered": real_time,
    "alternating": alternating,
    "newton": newton,
    "convolutional": convolutional,
    "averaging": averaging,
    "user's phi": UserPhi,
    "user's energy": UserEnergy,
    "entangled": Entangled,
    "shared": shared,
    "residual": residual,
    "lateral": lateral,
    "readout": read_out,
}
"""Models whose transition is the gradient of Φ, by name."""


class Contracting(VectorFieldModel):
    """s ← a + λ (s − a): every sample at a rate of its own to a state of its own, x = (λ, a).

    After t steps λᵗ of the way to it is left. Step t moves by |1 − λ| |λ|ᵗ⁻¹ of it.
    """

    def __init__(self) -> None:
        super().__init__([2, 1])

    def field(self, drive: Tensor, state: State) -> State:
        rate, hidden, output = drive.split([1, 2, 1], 1)
        return hidden + rate * (state[0] - hidden), output + rate * (state[1] - output)


def to_and_fro(updates: Updates = "synchronous") -> PrototypicalNetwork:
    """h ← clip(1 − 2 o), o ← clip(1 − 2 h): at once, from (0, 0) to (1, 1) and back for ever.

    In turn o goes first, and (0, 1) is steady. x is (B, 1), and plays no part.
    """
    model = PrototypicalNetwork(dense(1, 1, 1), "hard-sigmoid", updates=updates).double()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), (0.0, 1.0, -2.0, 1.0), strict=True):
            parameter.fill_(value)
    return model


def softened(s: Tensor) -> Tensor:
    return s / (1 + s.square())


RHOS: list[Rho] = [*ACTIVATIONS, softened]


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Connection]]:
    """The shape of an input, and connections on it: convolutions, then dense ones, any number."""
    connections: list[Connection] = []
    torch.manual_seed(draw(st.integers(0, 10**6)))
    shape: tuple[int, ...] = (draw(st.integers(1, 6)),)
    if draw(st.booleans()):
        shape = draw(st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9)))
    start = shape
    for _ in range(draw(st.integers(0, 3)) if len(shape) > 1 else 0):
        side = min(shape[1:])
        kernel = draw(st.integers(1, min(3, side)))
        stride, padding = draw(st.integers(1, 2)), draw(st.integers(0, 1))
        pool = draw(st.integers(1, min(3, (side + 2 * padding - kernel) // stride + 1)))
        pooling = draw(st.sampled_from(get_args(Pooling)))
        connections.append(
            ConvPool(
                shape,
                draw(st.integers(1, 3)),
                kernel,
                stride=stride,
                padding=padding,
                pool=pool,
                pooling=pooling,
            )
        )
        shape = connections[-1].upper_shape
    for size in draw(st.lists(st.integers(1, 6), min_size=0 if connections else 1, max_size=4)):
        connections.append(Dense(shape, size))
        shape = (size,)
    return start, connections
