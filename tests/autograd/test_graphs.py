"""Any topology: what a graph of layers does is what autograd of its Φ says."""

import copy
import pickle
from itertools import combinations
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eqprop.core.models import PrimitiveModel, State
from eqprop.core.phases import relax
from eqprop.estimators.continual import ContinualEP
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.networks.connections.chains import dense
from eqprop.networks.connections.connection import Change, Connection, TiedConnection
from eqprop.networks.connections.conv_pool import ConvPool
from eqprop.networks.connections.conv_transpose import ConvTranspose
from eqprop.networks.connections.dense import Dense
from eqprop.networks.connections.identity import Identity
from eqprop.networks.connections.pool import Pool
from eqprop.networks.connections.untied import Untied
from eqprop.networks.graph import Edge, Graph, graph_of
from eqprop.networks.layered import LayeredNetwork, Updates
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.networks.real_time import RealTimeNetwork
from zoo import Batch, lateral, residual


class Obvious(PrimitiveModel):
    """The same network, knowing nothing of it but Σ s of the upper layer · up(s of the lower)."""

    def __init__(self, edges: list[Edge], network: LayeredNetwork) -> None:
        super().__init__(
            network.shapes,
            outputs=network.output_layers,
            activation=network.activation,
            epsilon=network.epsilon,
        )
        self.edges = edges
        self.order = network.graph.names
        self.inner = [network]
        self.own = torch.nn.ModuleList(c for _, c, _ in edges)

    def phi(self, x: Tensor, state: State) -> Tensor:
        network = self.inner[0]
        names = [name for lower, _, upper in self.edges for name in (lower, upper)]
        rates = {name: network.rate(s) for name, s in zip(self.order, state, strict=True)}
        inputs = [name for name in dict.fromkeys(names) if name not in self.order]
        sizes = {lower: c.lower_shape[0] for lower, c, _ in self.edges}
        for name, part in zip(inputs, x.split([sizes[n] for n in inputs], 1), strict=True):
            rates[name] = network.rate(part)
        coupling = torch.stack(
            [
                cast("TiedConnection", c).coupling((rates[lower], rates[upper]))
                for lower, c, upper in self.edges
            ]
        ).sum(0)
        if isinstance(network, PrototypicalNetwork):
            return coupling
        half = 0.5 * torch.stack([s.square().sum(1) for s in state]).sum(0)
        return half - network.epsilon * (half - coupling)


@st.composite
def graphs(draw: st.DrawFn) -> list[Edge]:
    """Dense connections between 1 to 5 layers and 1 or 2 inputs, lateral and repeated ones too."""
    torch.manual_seed(draw(st.integers(0, 10**6)))
    layers = [f"s{i}" for i in range(draw(st.integers(1, 5)))]
    inputs = [f"x{i}" for i in range(draw(st.integers(1, 2)))]
    size = {name: draw(st.integers(1, 4)) for name in (*layers, *inputs)}
    pairs = [(name, draw(st.sampled_from(layers))) for name in inputs]
    # Something leads up to every layer, and each is connected with those before it.
    pairs += [
        (draw(st.sampled_from(layers[:i] if i else inputs)), layer)
        for i, layer in enumerate(layers)
    ]
    forward = [*combinations(layers, 2), *((layer, layer) for layer in layers)]
    forward += [(name, layer) for name in inputs for layer in layers]
    pairs += draw(st.lists(st.sampled_from(forward), max_size=6))
    order = draw(st.permutations(pairs))
    return [(low, Dense(size[low], size[high]).double(), high) for low, high in order]


def make(edges: list[Edge], kind: str, updates: Updates, seed: int) -> tuple[Any, ...]:
    network: LayeredNetwork
    if kind == "prototypical":
        network = PrototypicalNetwork(edges, "tanh", updates=updates)
    else:
        network = RealTimeNetwork(edges, "tanh", epsilon=0.3, updates=updates)
    network.double()
    torch.manual_seed(seed)
    lower = {low: c.lower_shape[0] for low, c, _ in edges if low not in network.graph.names}
    x = torch.randn(3, sum(lower.values()), dtype=torch.float64)
    one, other = (
        tuple(torch.randn(3, *n, dtype=torch.float64) for n in network.shapes) for _ in range(2)
    )
    return network, Obvious(edges, network), x, one, other


KINDS = st.sampled_from(["prototypical", "real-time"])


@given(graphs(), KINDS, st.integers(0, 10**6))
@settings(max_examples=120)
def test_the_step_of_a_graph_is_the_one_of_autograd(
    edges: list[Edge], kind: str, seed: int
) -> None:
    network, obvious, x, state, _ = make(edges, kind, "synchronous", seed)
    force = torch.randn(3, *network.output_shape, dtype=torch.float64)
    with torch.no_grad():
        for pull in (None, force):
            fast = network.step(network.drive(x), state, pull)
            for a, b in zip(fast, obvious.step(x, state, pull), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@given(graphs(), KINDS, st.integers(0, 10**6))
@settings(max_examples=80)
def test_alternating_updates_move_one_class_of_a_graph_after_the_other(
    edges: list[Edge], kind: str, seed: int
) -> None:
    network, obvious, x, state, _ = make(edges, kind, "alternating", seed)
    force = torch.randn(3, *network.output_shape, dtype=torch.float64)
    expected = list(state)
    with torch.no_grad():
        for members in network.graph.classes:
            after = obvious.step(x, tuple(expected), force)
            for layer in members:
                expected[layer] = after[layer]
        found = network.step(network.drive(x), state, force)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@given(graphs())
def test_no_two_layers_of_a_class_are_connected_and_every_layer_is_in_one(
    edges: list[Edge],
) -> None:
    graph, _ = graph_of(edges)
    of = {layer: number for number, its in enumerate(graph.classes) for layer in its}
    assert sorted(layer for its in graph.classes for layer in its) == list(range(graph.layers))
    for lower, upper in graph.ends:
        assert lower < 0 or lower == upper or of[lower] != of[upper]


@given(graphs(), KINDS, st.integers(0, 10**6))
@settings(max_examples=80)
def test_the_learning_rule_of_a_graph_is_the_one_of_autograd(
    edges: list[Edge], kind: str, seed: int
) -> None:
    network, obvious, x, before, after = make(edges, kind, "synchronous", seed)
    fast = network.contrast_gradients(x, before, after, before, scale=-2.5)
    slow = obvious.contrast_gradients(x, before, after, before, scale=-2.5)
    numbers = {name: f"own.{name.removeprefix('connections.')}" for name in fast}
    assert set(numbers.values()) == set(slow)
    for name, gradient in fast.items():
        torch.testing.assert_close(gradient, slow[numbers[name]], rtol=0, atol=1e-10)


@given(graphs())
@settings(max_examples=60)
def test_inputs_are_what_nothing_leads_up_to_and_outputs_what_leads_nowhere(
    edges: list[Edge],
) -> None:
    graph, _ = graph_of(edges)
    reached = {upper for _, _, upper in edges}
    leading = {lower for lower, _, upper in edges if lower != upper}
    assert set(graph.names) == reached
    assert set(graph.input_names) == leading - reached
    assert set(graph.names[-graph.outputs :]) == reached - leading


@pytest.mark.parametrize("updates", ["synchronous", "alternating"])
@pytest.mark.parametrize("kind", [PrototypicalNetwork, RealTimeNetwork])
def test_a_chain_written_as_a_graph_is_the_same_network(kind: Any, updates: Updates) -> None:
    torch.manual_seed(0)
    chain = dense(5, 7, 6, 3)
    named = [(f"{i}", connection, f"{i + 1}") for i, connection in enumerate(chain)]
    one, other = kind(chain, updates=updates), kind(copy.deepcopy(named), updates=updates)
    x, y = torch.rand(4, 5), torch.rand(4, 3)
    estimator = EquilibriumPropagation(20, 8, 0.3, "symmetric", 0.01)
    free, same = (estimator(network, x, y).free for network in (one, other))
    for a, b in zip(free.state, same.state, strict=True):
        assert torch.equal(a, b)
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert torch.equal(p.grad, q.grad)


def test_several_outputs_are_nudged_each_to_its_part_of_the_target(batch: Batch) -> None:
    x, y = batch
    network = lateral().double()
    state = relax(network, x, 50).state
    assert network.output_shape == (3,)
    assert torch.equal(network.prediction(state), torch.cat(state[1:], 1))
    force = torch.randn_like(y)
    with torch.no_grad():
        drive = network.drive(x)
        freely, pulled = network.step(drive, state), network.step(drive, state, force)
    assert torch.equal(freely[0], pulled[0])
    moved = torch.cat([b - a for a, b in zip(freely[1:], pulled[1:], strict=True)], 1)
    torch.testing.assert_close(moved, network.epsilon * force)


def test_continual_updates_of_a_graph_with_frozen_weights_are_those_of_ep(batch: Batch) -> None:
    """Σ_t (1/β) ∂/∂θ (Φ(s_{t+1}) − Φ(s_t)) telescopes, whatever the topology."""
    for make_one in (residual, lateral):
        torch.manual_seed(0)
        network = make_one().double()
        continual = copy.deepcopy(network)
        EquilibriumPropagation(60, 15, 0.3)(network, *batch)
        eta = 1e-9
        before = [p.detach().clone() for p in continual.parameters()]
        ContinualEP(torch.optim.SGD(continual.parameters(), eta), 60, 15, 0.3)(continual, *batch)
        for p, old, q in zip(continual.parameters(), before, network.parameters(), strict=True):
            assert q.grad is not None
            torch.testing.assert_close((old - p) / eta, q.grad, rtol=1e-3, atol=1e-5)


def test_images_may_go_to_a_convolution_and_to_dense_weights_at_once() -> None:
    """An input is an image to one connection and a vector to another."""
    torch.manual_seed(0)
    conv = ConvPool((1, 8, 8), 3, kernel=3, padding=1)
    network = PrototypicalNetwork(
        [
            ("x", conv, "image"),
            ("x", Dense(64, 10), "y"),
            ("image", Dense(conv.upper_shape, 10), "y"),
        ]
    )
    x = torch.rand(2, 1, 8, 8)
    for given_x in (x, x.flatten(1)):
        state = relax(network, given_x, 3).state
        assert [tuple(s.shape) for s in state] == [(2, 3, 4, 4), (2, 10)]
    EquilibriumPropagation(5, 2, 0.5)(network, x, torch.rand(2, 10))
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_a_graph_says_which_layers_it_connects() -> None:
    network = residual()
    assert network.layer_name(0) == "layer a"
    assert network.parameter_label("connections.0.weight") == "weight from x to a"
    assert network.parameter_label("connections.3.bias") == "bias from a to b (2)"
    assert network.architecture["connections"][4].startswith("a → y: ")
    chain = PrototypicalNetwork(dense(4, 5, 3))
    assert chain.layer_name(0) == "hidden layer 1"
    assert chain.parameter_label("connections.0.weight") == "weight of hidden layer 1"


def test_a_graph_can_be_copied_and_pickled(batch: Batch) -> None:
    network = residual().double()
    expected = relax(network, batch[0], 30).state
    for same in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        for a, b in zip(relax(same, batch[0], 30).state, expected, strict=True):
            assert torch.equal(a, b)


def edge(low: str, high: str, lower: int = 3, upper: int = 3) -> Edge:
    return low, Dense(lower, upper), high


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([edge("a", "b"), edge("b", "a")], "expected an input, .* got none among a, b"),
        (
            [edge("x", "a"), edge("a", "b"), edge("b", "a")],
            "expected an output, .* got none among x, a, b",
        ),
        (
            [edge("x", "a", 3, 4), edge("a", "y", 3, 2)],
            r"layer a has shape \(4,\), but the connection from a to y expected \(3,\)",
        ),
        (
            [edge("x", "a"), ("x", Untied(Dense(3, 3)), "a")],
            "expected a tied one from the input x to a",
        ),
        ([edge("x", "a"), edge("x", "a", 4, 3)], r"layer x has shape \(3,\)"),
        (
            [edge("x", "y"), edge("a", "b"), edge("b", "a")],
            "expected a way from every layer to an output",
        ),
    ],
)
def test_a_graph_that_cannot_be_is_refused_with_its_layers(edges: list[Edge], message: str) -> None:
    with pytest.raises(ValueError, match=f"connections: .*{message}"):
        PrototypicalNetwork(edges)


@pytest.mark.parametrize(
    "edges",
    [
        [edge("x", "y"), Dense(3, 3)],
        [("x", "y", Dense(3, 3))],
        [("x", Dense(3, 3))],
        [("x", torch.nn.Linear(3, 3), "y")],
        [(1, Dense(3, 3), 2)],
    ],
)
def test_what_is_no_edge_is_refused_with_an_example(edges: Any) -> None:
    with pytest.raises(TypeError, match=r'connections: expected edges .*\("x", Dense\(784, 256\)'):
        PrototypicalNetwork(edges)


def test_a_part_from_which_nothing_leads_to_an_output_does_not_exist() -> None:
    """Whatever leads nowhere is an output itself, so that the cost looks at it."""
    graph, _ = graph_of([edge("x", "y"), edge("x", "apart")])
    assert (graph.names, graph.outputs) == (("y", "apart"), 2)


def test_a_nudge_comes_to_every_layer_in_as_many_steps_as_the_graph_is_deep() -> None:
    assert residual().graph.reach == 1
    assert Graph(tuple((i - 1, i) for i in range(5))).reach == 4


@pytest.mark.parametrize(
    "connection",
    [
        Identity((2, 5, 4)),
        Pool((2, 5, 4), 2),
        Pool((2, 5, 4), 3, "average"),
        ConvTranspose((2, 5, 4), 3, 3, stride=2, padding=1),
        ConvTranspose((2, 5, 4), 1, 2),
    ],
    ids=lambda connection: f"{type(connection).__name__}{connection.upper_shape}",
)
def test_connections_without_a_convolution_up_are_what_their_coupling_makes_of_them(
    connection: Any,
) -> None:
    connection = copy.deepcopy(connection).double()
    source = torch.Generator().manual_seed(0)
    lower, upper, *others = (
        torch.randn(3, *shape, generator=source, dtype=torch.float64)
        for shape in (connection.lower_shape, connection.upper_shape) * 2
    )
    received, trace = connection.up(lower)
    torch.testing.assert_close(received, TiedConnection.up(connection, lower)[0])
    slow = TiedConnection.down(connection, upper, lower)
    torch.testing.assert_close(connection.down(upper, trace), slow)
    torch.testing.assert_close(connection.down(upper, trace, others[0]), others[0] + slow)
    change = Change((lower, upper), (others[0], others[1]), (lower, upper))
    torch.testing.assert_close(
        connection.contrast_gradients(change, 0.7),
        Connection.contrast_gradients(connection, change, 0.7),
    )


def test_a_transposed_convolution_is_that_of_torch_and_can_be_untied() -> None:
    connection = ConvTranspose((2, 4, 4), 3, 4, stride=2, padding=1)
    torch_one = torch.nn.ConvTranspose2d(2, 3, 4, 2, 1)
    with torch.no_grad():
        torch_one.weight.copy_(connection.weight)
        torch_one.bias.copy_(connection.bias)  # pyright: ignore[reportOptionalMemberAccess]
    images = torch.rand(2, 2, 4, 4)
    torch.testing.assert_close(connection.up(images)[0], torch_one(images))
    assert connection.upper_shape == (3, 8, 8)
    free = Untied(connection, 180.0)
    upper = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(free.down(upper, None), -connection.down(upper, None))


@pytest.mark.parametrize(
    ("make_one", "message"),
    [
        (lambda: Identity(0), "Identity: expected sizes of at least 1, got 0"),
        (lambda: Pool((3, 4), 2), "Pool: expected a lower layer"),
        (lambda: Pool((1, 4, 4), 5), "windows that fit into it"),
        (lambda: Pool((1, 4, 4), 2, cast("Any", "mean")), "pooling: expected one of max, average"),
        (lambda: ConvTranspose((1, 4), 2), "ConvTranspose: expected a lower layer"),
        (lambda: ConvTranspose((1, 1, 1), 2, 2, padding=1), "expected less padding"),
    ],
)
def test_a_connection_that_cannot_be_is_refused(make_one: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_one()
