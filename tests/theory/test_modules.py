"""Convergent models among PyTorch's modules: what others do to a module works, or is refused."""

import copy
import io
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from eqprop.core.activations import Activation
from eqprop.core.costs import Cost, SquaredError
from eqprop.core.models import ConvergentModel, PrimitiveModel, State, VectorFieldModel
from eqprop.core.phases import relax
from eqprop.core.stepping import NonFiniteError
from eqprop.data.dataset import Split
from eqprop.estimators.bptt import BPTT
from eqprop.estimators.continual import ContinualEP
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.estimators.estimator import Estimate, Estimator
from eqprop.estimators.recurrent_backprop import RecurrentBackprop
from eqprop.networks.connections.chains import dense, untied
from eqprop.networks.connections.conv_pool import ConvPool
from eqprop.networks.connections.dense import Dense
from eqprop.networks.layered import LayeredNetwork
from eqprop.networks.prototypical import PrototypicalNetwork
from eqprop.networks.real_time import RealTimeNetwork
from eqprop.training.evaluation import evaluate
from module_operations import ESTIMATORS as OPERATED
from module_operations import NETWORKS, OPERATIONS, PAGE, cell, outcome, table
from zoo import EXACT, Batch, UserPhi

Makes = Callable[[nn.Module], Estimator]

ESTIMATORS: dict[str, Makes] = {
    "ep": lambda _: EquilibriumPropagation(40, 10, beta=0.3, nudging="symmetric"),
    "bptt": lambda _: BPTT(40, 10),
    # Eight bits cannot tell less than 1 % of an adjoint.
    "rbp": lambda _: RecurrentBackprop(200, adjoint_tolerance=0.01),
    "c-ep": lambda model: ContinualEP(torch.optim.SGD(model.parameters(), lr=0.1), 40, 10, 0.3),
}


def drawn(name: str) -> ConvergentModel:
    torch.manual_seed(1)
    return EXACT[name]().float()


def learnt(model: nn.Module, makes: Makes, batch: Batch) -> list[Tensor]:
    """What one mini-batch does to every parameter: its gradient, or its change in C-EP."""
    before = [p.detach().clone() for p in model.parameters()]
    x, target = batch
    makes(model)(model, x.float(), target.float())  # pyright: ignore[reportArgumentType]
    return [
        p.detach() - old if p.grad is None else p.grad
        for p, old in zip(model.parameters(), before, strict=True)
    ]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", EXACT)
def test_a_compiled_model_learns_what_the_model_does(
    name: str, estimator: str, batch: Batch
) -> None:
    makes = ESTIMATORS[estimator]
    expected = learnt(drawn(name), makes, batch)
    found = learnt(torch.compile(drawn(name), backend="eager"), makes, batch)  # pyright: ignore[reportArgumentType]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", EXACT)
def test_under_autocast_products_are_rough_and_gradients_point_the_same_way(
    name: str, estimator: str, batch: Batch
) -> None:
    makes = ESTIMATORS[estimator]
    expected = torch.cat([g.flatten() for g in learnt(drawn(name), makes, batch)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gradients = learnt(drawn(name), makes, batch)
    assert {g.dtype for g in gradients} == {torch.float32}
    found = torch.cat([g.flatten() for g in gradients])
    # Within 26°: that is what is left of differences where products have eight bits.
    assert torch.cosine_similarity(found, expected, dim=0) > 0.9
    # bfloat16 has eight bits: were it exact, nothing would have been tested.
    assert not torch.equal(found, expected)


def test_states_are_exact_numbers_under_autocast(batch: Batch) -> None:
    """Under a weak nudge they move by less than bfloat16 tells apart."""
    model = PrototypicalNetwork(dense(4, 5, 3))
    for x, dtype in ((batch[0].float(), torch.float32), (batch[0], torch.float64)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            free = relax(model.to(dtype), x, 5)
        assert {layer.dtype for layer in free.state} == {dtype}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_is_no_convergent_model_is_refused_in_words(estimator: str, batch: Batch) -> None:
    model = drawn("layered")
    wrapped = nn.DataParallel(model)
    with pytest.raises(TypeError, match=r"got DataParallel \(its \.module is one\)"):
        learnt(wrapped, ESTIMATORS[estimator], batch)
    with pytest.raises(TypeError, match="model: expected a ConvergentModel, got Linear"):
        learnt(nn.Linear(4, 3), ESTIMATORS[estimator], batch)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_mini_batch_that_does_not_fit_is_refused_in_words(estimator: str, batch: Batch) -> None:
    model = drawn("layered")
    learn = ESTIMATORS[estimator](model)
    x, target = batch[0].float(), batch[1].float()
    labels = target.argmax(1)
    for error, said, inputs, wanted in (
        (ValueError, r"\(7, 3\), got labels, \(7,\); use eqprop.one_hot\(labels, 3\)", x, labels),
        (ValueError, "as many samples, at least one, got 7 and 5", x, target[:5]),
        (ValueError, "as many samples, at least one, got 0 and 0", x[:0], target[:0]),
        (TypeError, "x: expected torch.float32, as the parameters are, got", x.double(), target),
        (TypeError, "target: expected torch.float32, as the para", x, target.double()),
    ):
        with pytest.raises(error, match=said):
            learn(model, inputs, wanted)


class NotSetUp(VectorFieldModel):
    """A model of one's own that forgets its base."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def field(self, drive: Tensor, state: State) -> State:
        return (drive[:, :3],)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_network_that_was_taken_apart_is_refused_in_words(estimator: str, batch: Batch) -> None:
    x, target = batch[0].float(), batch[1].float()

    def refused(model: ConvergentModel, said: str, error: type[Exception] = ValueError) -> None:
        with pytest.raises(error, match=said):
            ESTIMATORS[estimator](model)(model, x, target)
        with pytest.raises(error, match=said):
            relax(model, x, 3)

    others: list[nn.Module] = [Dense(5, 4), Dense(6, 3), nn.Linear(5, 3)]
    for other in others:
        model = PrototypicalNetwork(dense(4, 5, 3))
        model.connections[1] = other
        refused(model, r"connections\.1: expected a connection from \(5,\) to \(3,\), as when")
    model = PrototypicalNetwork(dense(4, 5, 3))
    model.connections.append(Dense(3, 3))
    refused(model, "connections: expected 2, as when the network was made, got 3")
    model = PrototypicalNetwork(dense(4, 5, 3))
    del model.connections[1]
    refused(model, "connections: expected 2, as when the network was made, got 1")
    # One that fits is as good as the first.
    model = PrototypicalNetwork(dense(4, 5, 3))
    model.connections[1] = Dense(5, 3)
    ESTIMATORS[estimator](model)(model, x, target)


def test_a_model_whose_base_was_not_set_up_is_refused_in_words(batch: Batch) -> None:
    with pytest.raises(TypeError, match=r"NotSetUp: .* does not call super\(\)\.__init__\(shapes"):
        EquilibriumPropagation(3, 2, 0.5)(NotSetUp(), batch[0], batch[1])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_complex_parameters_are_refused_in_words(estimator: str, batch: Batch) -> None:
    model = PrototypicalNetwork(dense(4, 5, 3))
    learn = ESTIMATORS[estimator](model)
    model.connections[1].weight = nn.Parameter(torch.rand(3, 5, dtype=torch.complex64))
    with pytest.raises(
        TypeError, match=r"connections\.1\.weight.*: expected real numbers, got torch"
    ):
        learn(model, batch[0].float(), batch[1].float())


def test_a_connection_refuses_the_hooks_that_nothing_would_call() -> None:
    connection = Dense(3, 2)
    for register in (connection.register_forward_pre_hook, connection.register_forward_hook):
        with pytest.raises(TypeError, match="Dense: expected no hook .* torch.nn.utils.parametriz"):
            register(lambda *_: None)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_a_refused_norm_leaves_the_connection_as_it_was(norm: Callable[..., Any]) -> None:
    connection = Dense(3, 2)
    x, names = torch.rand(4, 3), list(dict(connection.named_parameters()))
    with torch.no_grad():
        before = connection.up(x)[0]
        with pytest.raises(TypeError, match=r"Dense: expected no hook"):
            norm(connection)
        assert sorted(dict(connection.named_parameters())) == sorted(names)
        assert not dict(connection.named_buffers())
        torch.testing.assert_close(connection.up(x)[0], before)


def pruned_dense() -> LayeredNetwork:
    network = PrototypicalNetwork(dense(4, 6, 3))
    prune.l1_unstructured(network.connections[0], "weight", 0.5)
    prune.random_unstructured(network.connections[1], "weight", 0.3)
    # Once more: what is pruned already stays so.
    prune.random_unstructured(network.connections[0], "weight", 0.3)
    return network


def pruned_convolution() -> LayeredNetwork:
    first = ConvPool((1, 2, 2), 4, kernel=2, padding=1, pool=1)
    prune.ln_structured(first, "weight", 0.5, n=2, dim=0)
    return RealTimeNetwork([first, Dense(first.upper_shape, 3)], "tanh")


def pruned_untied() -> LayeredNetwork:
    network = RealTimeNetwork(untied(dense(4, 6, 3), 45), "tanh")
    prune.l1_unstructured(network.connections[1], "backward_weight", 0.5)
    prune.l1_unstructured(network.connections[1].upward, "weight", 0.5)
    return network


PRUNED = {"dense": pruned_dense, "convolution": pruned_convolution, "untied": pruned_untied}


@pytest.mark.parametrize("kind", PRUNED)
def test_a_pruned_network_learns_by_autograd_of_its_contrast_with_the_masked_weights(
    kind: str, batch: Batch
) -> None:
    torch.manual_seed(1)
    network = PRUNED[kind]().double()
    x = batch[0]
    generator = torch.Generator().manual_seed(0)
    before, after = (
        tuple(torch.rand(len(x), *shape, generator=generator).double() for shape in network.shapes)
        for _ in range(2)
    )
    found = network.contrast_gradients(x, before, after, before)
    # The same network, its weights masked once and for all.
    plain = copy.deepcopy(network)
    masks = {name: of for name, of in plain.named_buffers() if name.endswith("_mask")}
    assert masks
    for module in plain.modules():
        for weight in ("weight", "backward_weight"):
            if f"{weight}_mask" in module._buffers:
                prune.remove(module, weight)
    assert not dict(plain.named_buffers())
    mean = plain.contrast(x, before, after, before).mean()
    names = [name for name, _ in plain.named_parameters()]
    gradients = torch.autograd.grad(mean, list(plain.parameters()))
    for name, gradient in zip(names, gradients, strict=True):
        mask = masks.get(f"{name}_mask")
        if mask is None:
            torch.testing.assert_close(found[name], gradient)
        else:
            assert 0 < (mask == 0).double().mean() < 1
            torch.testing.assert_close(found[f"{name}_orig"], gradient * mask)
    states = (relax(model, x, 20).state for model in (network, plain))
    for one, other in zip(*states, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_is_pruned_stays_zero_while_the_rest_learns(estimator: str, batch: Batch) -> None:
    torch.manual_seed(1)
    network = pruned_dense()
    connection: Dense = network.connections[0]  # pyright: ignore[reportAssignmentType]
    start = connection.weight.detach().clone()
    assert 0.5 < (start == 0).double().mean() < 0.8
    learn = ESTIMATORS[estimator](network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    learn(network, batch[0].float(), batch[1].float())
    optimizer.step()
    moved = connection.weight.detach() != start
    assert moved.any()
    assert not moved[start == 0].any()
    copied = copy.deepcopy(network)
    assert torch.equal(copied(batch[0].float()), network(batch[0].float()))
    assert prune.is_pruned(network)
    prune.remove(connection, "weight")
    assert connection.weight.is_leaf
    assert not hasattr(connection, "weight_mask")
    with pytest.raises(AttributeError, match="no attribute 'weight_mask'"):
        _ = connection.weight_mask


def test_what_is_no_connection_is_refused_in_words() -> None:
    with pytest.raises(TypeError, match=r"such as Dense\(784, 512\), got Linear as number 2"):
        PrototypicalNetwork([Dense(3, 2), nn.Linear(2, 2)])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", EXACT)
def test_a_model_that_is_called_settles_and_gives_its_output(name: str, batch: Batch) -> None:
    model = EXACT[name]().double()
    expected = model.prediction(relax(model, batch[0], 3000, tolerance=1e-12).state)
    seen: list[Tensor] = []
    model.register_forward_hook(lambda _, __, output: seen.append(output))
    torch.testing.assert_close(model(batch[0], 3000, 1e-12), expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(model(batch[0]), expected, rtol=0.01, atol=0.01)
    assert len(seen) == 2
    with pytest.warns(UserWarning, match="7 of 7 samples did not come to rest within 1 steps"):
        model(batch[0], 1, 0.0)


@pytest.mark.parametrize(
    "rho",
    [torch.relu, partial(nn.functional.hardtanh, min_val=0.0), torch.square],
    ids=["relu", "hardtanh", "square"],
)
def test_a_rho_from_whose_start_no_unit_moves_is_refused_in_real_time(
    rho: Callable[[Tensor], Tensor],
) -> None:
    with pytest.raises(
        ValueError, match=r"rho: expected a function with a slope at 0.* ρ′\(0\) = 0"
    ):
        RealTimeNetwork(dense(4, 5, 3), rho)
    # Discrete time multiplies by no slope.
    assert PrototypicalNetwork(dense(4, 5, 3), rho)(torch.ones(1, 4), 2, None).shape == (1, 3)
    counted = Activation("counted", rho, lambda s, _: (s >= 0).to(s.dtype))
    assert RealTimeNetwork(dense(4, 5, 3), counted)(torch.ones(1, 4), 2, None).any()


@pytest.mark.parametrize("network", [PrototypicalNetwork, RealTimeNetwork])
def test_a_network_with_a_rho_of_ones_own_can_be_saved_whole(network: type, batch: Batch) -> None:
    torch.manual_seed(1)
    model = network(dense(4, 5, 3), torch.sigmoid)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for makes in ESTIMATORS.values():
        expected, found = (learnt(m, makes, batch) for m in (copy.deepcopy(model), loaded))
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)
        loaded = copy.deepcopy(model)


class Feedforward(VectorFieldModel):
    """Layers that see what is below them alone; the first of them no state at all."""

    def __init__(self) -> None:
        super().__init__([5, 3], activation="tanh")
        self.first = nn.Linear(4, 5)
        self.second = nn.Linear(5, 3)

    def field(self, drive: Tensor, state: State) -> State:
        return self.first(drive), self.second(state[0])


@pytest.mark.parametrize("frozen", ["", "first", "second", "first second"])
def test_the_implicit_gradient_has_nothing_to_invert_where_no_layer_comes_back(
    frozen: str, batch: Batch
) -> None:
    torch.manual_seed(1)
    model = Feedforward().double()
    for name in frozen.split():
        model.get_submodule(name).requires_grad_(False)
    expected, found = (
        {name: p.grad for name, p in model.named_parameters()}
        for estimator in (BPTT(5), RecurrentBackprop(5, adjoint_tolerance=1e-12))
        if model.zero_grad() or estimator(model, *batch)
    )
    for name, gradient in expected.items():
        assert (gradient is None) is (name.split(".")[0] in frozen)
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_one_may_do_with_a_module_is_what_the_page_says(operation: str) -> None:
    """It learns what autograd of Φ says, or is refused; the whole table is tried elsewhere."""
    for number, network in enumerate(NETWORKS):
        estimator = list(OPERATED)[number % len(OPERATED)]
        try:
            found = outcome(operation, network, estimator)
        except LookupError:
            found = "–"
        assert cell(operation, network, estimator) == found


@pytest.mark.exhaustive
def test_the_page_of_what_one_may_do_with_a_module_is_true() -> None:
    assert PAGE.read_text(encoding="utf-8") == table()


class Constant(VectorFieldModel):
    """Where it goes is its drive, which depends on a parameter."""

    def __init__(self) -> None:
        super().__init__([3])
        self.weight = nn.Parameter(torch.rand(4, 3))

    def drive(self, x: Tensor) -> Tensor:
        return x @ self.weight

    def field(self, drive: Tensor, state: State) -> State:
        return (drive,)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("makes", [lambda: drawn("layered"), Constant], ids=["layered", "constant"])
def test_what_an_estimator_gives_back_can_be_looked_at_with_numpy(
    makes: Callable[[], ConvergentModel], estimator: str, batch: Batch
) -> None:
    model = makes()
    estimate = ESTIMATORS[estimator](model)(model, batch[0].float(), batch[1].float())
    for phase in (estimate.free, *estimate.nudged):
        for of in (*phase.state, phase.steps, phase.moved):
            assert of.numpy().shape == of.shape


def test_without_gradients_every_state_can_be_looked_at_with_numpy(batch: Batch) -> None:
    model = Constant()
    for tolerance in (None, 0.1):
        with torch.no_grad():
            assert relax(model, batch[0].float(), 3, tolerance=tolerance).state[0].numpy().any()


def test_an_input_that_is_no_tensor_or_of_another_type_is_refused_in_words(batch: Batch) -> None:
    model = drawn("layered")
    wrong = {
        r"x: expected a tensor, got ndarray; .* torch.tensor\(x": batch[0].numpy(),
        r"x: expected torch.float32, .* x.to\(torch.float32\)": batch[0],
        "x: expected floating point numbers, got torch.uint8; .* x / 255": batch[0].byte(),
    }
    for said, x in wrong.items():
        for look in (model, partial(relax, model, steps=3)):
            with pytest.raises(TypeError, match=said):
                look(x)
    with pytest.raises(TypeError, match="x: expected it on cpu, as the parameters are, got it on"):
        relax(model, batch[0].float().to("meta"), 3)
    with pytest.raises(TypeError, match="model: expected a ConvergentModel, got Tensor"):
        relax(batch[0], model, 3)  # pyright: ignore[reportArgumentType]


class Own(PrimitiveModel):
    """With a Φ that somebody has written."""

    def __init__(self, phi: Callable[[Tensor, State], Any]) -> None:
        super().__init__([5, 3])
        self.a, self._phi = nn.Linear(4, 5), phi

    def phi(self, x: Tensor, state: State) -> Any:
        return self._phi(self.a(x), state)


class OwnField(VectorFieldModel):
    def __init__(self, field: Callable[[Tensor, State], Any]) -> None:
        super().__init__([5, 3])
        self.a, self._field = nn.Linear(4, 5), field

    def field(self, drive: Tensor, state: State) -> Any:
        return self._field(self.a(drive), state)


def _one_more_sample(x: Tensor, s: State) -> Tensor:
    return torch.cat([(x * s[0]).sum(1), x.new_zeros(1)])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: Own(lambda x, s: None), "phi: expected one value per sample, .* got NoneType"),
        (lambda: Own(lambda x, s: (x * s[0]).sum()), r"phi: .* shape \(7,\), got \(\)"),
        (lambda: Own(_one_more_sample), r"phi: .* shape \(7,\), got \(8,\)"),
        (lambda: Own(lambda x, s: (x * s[0]).sum(1).detach()), "that autograd can follow back"),
        (lambda: OwnField(lambda x, s: None), r"OwnField.field: .* every layer, got NoneType"),
        (lambda: OwnField(lambda x, s: (x, None)), r"OwnField.field: .* got Tensor, NoneType"),
        (lambda: OwnField(lambda x, s: {"a": x}), r"OwnField.field: .* every layer, got dict"),
        (lambda: OwnField(lambda x, s: (x,)), r"step: expected a state of 2 layers"),
        (lambda: OwnField(lambda x, s: (x[:1], s[1])), r"got 2, of \(1, 5\), \(7, 3\)"),
        (lambda: OwnField(lambda x, s: (x[:, :1], s[1])), r"got 2, of \(7, 1\), \(7, 3\)"),
    ],
    ids=[
        "none",
        "sum",
        "more",
        "detached",
        "no field",
        "half a field",
        "a dict",
        "one layer",
        "one sample",
        "one unit",
    ],
)
def test_what_a_model_of_ones_own_gives_is_refused_in_words_if_it_does_not_fit(
    model: Callable[[], ConvergentModel], said: str, batch: Batch
) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        relax(model(), batch[0].float(), 3)


@pytest.mark.parametrize(
    "rho",
    [
        lambda s: s.sum(1, keepdim=True),
        lambda s: s.double(),
        lambda s: s > 0,
        lambda s: None,
        lambda s: s.numpy(),
        lambda s: s[:1],
        lambda s: s.softmax(1),
        lambda s: s - s.mean(),
        lambda s: s.sort(1).values,
    ],
    ids=["sum", "double", "bool", "none", "numpy", "one row", "softmax", "centred", "sorted"],
)
def test_a_rho_that_is_no_function_of_every_element_is_refused_in_words(rho: Any) -> None:
    for network in (PrototypicalNetwork, RealTimeNetwork):
        with pytest.raises(ValueError, match="activation: expected a function of every element"):
            network(dense(4, 5, 3), rho)


@pytest.mark.parametrize(
    ("rho", "said"),
    [
        (lambda s: torch.tanh(s.detach()), "that autograd can differentiate"),
        (lambda s: s.mul_(0.5), "that autograd can differentiate"),
        (
            Activation("mine", torch.tanh, lambda s, _: cast("Any", 1.0)),
            "every element, got that of mine",
        ),
    ],
    ids=["detached", "in place", "a number"],
)
def test_a_rho_without_a_slope_is_refused_in_words_in_real_time(rho: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RealTimeNetwork(dense(4, 5, 3), rho)


def test_a_rho_may_draw_noise_for_every_element() -> None:
    PrototypicalNetwork(dense(4, 5, 3), lambda s: torch.tanh(s + 0.1 * torch.randn_like(s)))


def test_the_parts_of_an_activation_in_another_order_are_refused() -> None:
    swapped: Any = (torch.tanh, "mine", lambda s, rho: 1 - rho * rho)
    with pytest.raises(TypeError, match="expected a name, a function and its derivative, in this"):
        Activation(*swapped)


class Careless(Estimator):
    """Gives back what somebody has written."""

    free_steps = 3

    def __init__(self, gives: Any) -> None:
        self.gives = gives

    def estimate(self, model: Any, x: Any, target: Any, generator: Any) -> Any:
        return self.gives


def test_what_is_no_estimate_no_cost_and_no_generator_is_refused_in_words(batch: Batch) -> None:
    model, x, target = drawn("layered"), batch[0].float(), batch[1].float()
    with pytest.raises(
        TypeError, match=r"Careless.estimate: expected an Estimate, .* got NoneType"
    ):
        Careless(None)(model, x, target)
    for wrong, got in (
        (nn.MSELoss(), "MSELoss"),
        (SquaredError, "the class SquaredError"),
        ("mse", "str 'mse'"),
    ):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for made in (
            partial(EquilibriumPropagation, 3, 3, 0.1),
            partial(ContinualEP, optimizer, 3, 3, 0.1),
            partial(BPTT, 3),
            partial(RecurrentBackprop, 3),
        ):
            with pytest.raises(TypeError, match=f"cost: expected a Cost, .* got {got}$"):
                made(cost=cast("Any", wrong))
        careless = Careless(None)
        careless.cost = cast("Any", wrong)
        with pytest.raises(TypeError, match=f"cost: expected a Cost, .* got {got}$"):
            careless(model, x, target)
        with pytest.raises(TypeError, match=f"cost: expected a Cost, .* got {got}$"):
            evaluate(model, Split(x, [0] * len(x)), 3, cost=cast("Any", wrong))
    with pytest.raises(TypeError, match=r"target: expected real numbers, got torch.bool; convert"):
        EquilibriumPropagation(3, 3, 0.1)(model, x, target > 0)
    seed: Any = 0
    with pytest.raises(TypeError, match="generator: expected a torch.Generator, .* got int"):
        EquilibriumPropagation(3, 3, 0.1)(model, x, target, seed)


def test_what_a_cache_of_parametrizations_keeps_is_not_learnt_from(batch: Batch) -> None:
    """It would be what the weights were, whatever they have learnt."""
    model, x, target = drawn("layered"), batch[0].float(), batch[1].float()
    with parametrize.cached(), pytest.raises(TypeError, match="expected to be called outside of"):
        EquilibriumPropagation(3, 3, 0.1)(model, x, target)


def test_a_nudge_that_rounding_hides_is_refused(batch: Batch) -> None:
    model, (x, target) = drawn("layered"), batch
    with pytest.raises(ValueError, match=r"beta: expected at least 1.2e-07, .* in torch.float32"):
        EquilibriumPropagation(3, 3, -1e-8)(model, x.float(), target.float())
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(ValueError, match=r"beta: expected at least 7.8e-03, .* in torch.bfloat16"),
    ):
        EquilibriumPropagation(3, 3, 1e-3)(model, x.float(), target.float())
    # Which leaves double precision as it is.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        EquilibriumPropagation(3, 3, -1e-8)(model.double(), x, target)


class Regularised(VectorFieldModel):
    """With a module in its drive that does otherwise in training than in evaluation."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__([3])
        self.a, self.inside = nn.Linear(4, 3), inside

    def field(self, drive: Tensor, state: State) -> State:
        return (0.5 * torch.tanh(self.inside(self.a(drive))) + 0.1 * state[0],)


CHANGING = {
    "dropout": lambda: Regularised(nn.Dropout(0.5)),
    "within": lambda: Regularised(nn.Sequential(nn.Identity(), nn.AlphaDropout(0.5))),
    "batch norm": lambda: Regularised(nn.BatchNorm1d(3)),
    "as rho": lambda: PrototypicalNetwork(dense(4, 5, 3), nn.RReLU(0.1, 0.3)),
    "as rho in real time": lambda: RealTimeNetwork(dense(4, 5, 3), nn.RReLU(0.1, 0.3)),
}


@pytest.mark.parametrize("make", CHANGING.values(), ids=CHANGING)
def test_a_transition_that_is_another_one_every_time_is_refused_in_words(
    make: Callable[[], ConvergentModel], batch: Batch
) -> None:
    """EP would take what has changed for an effect of the nudge, and divide it by beta."""
    torch.manual_seed(0)
    model = make().double()
    split = Split(batch[0], torch.zeros(7, dtype=torch.int64))
    looks: list[Callable[[], Any]] = [
        lambda: EquilibriumPropagation(9, 5, 0.1)(model, *batch),
        lambda: BPTT(9)(model, *batch),
        lambda: relax(model, batch[0], 9),
        lambda: model(batch[0]),
        lambda: evaluate(model, split, 9),
    ]
    for look in looks:
        with pytest.raises(ValueError, match=r"stays the same, got .* in training mode, .*\.eval"):
            look()
    for name in ("activation", "rho"):
        rho = getattr(getattr(model, name, None), "function", None)
        if isinstance(rho, nn.Module):
            rho.eval()
    model.eval()
    for look in looks:
        look()


class Costly(Cost):
    """½‖ŷ − y‖², with a gradient that somebody has written."""

    def __init__(self, gives: Callable[[Tensor], Any]) -> None:
        self.gives = gives

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (output - target).square().sum(1)

    def gradient(self, output: Tensor, target: Tensor) -> Any:
        return self.gives(output - target)


@pytest.mark.parametrize(
    "gives",
    [
        lambda d: d.sum(1, keepdim=True),
        lambda d: d[:1],
        lambda d: d.sum(),
        lambda d: d.sum(1),
        lambda d: None,
        lambda d: 1.0,
        lambda d: d.numpy(),
    ],
    ids=["a column", "a row", "a sum", "of samples", "none", "a number", "numpy"],
)
def test_the_gradient_of_a_cost_has_a_value_for_every_output_unit(
    gives: Callable[[Tensor], Any], batch: Batch
) -> None:
    """What broadcasts would be learnt from without a word."""
    model, cost = UserPhi().double(), Costly(gives)
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    for estimator in (
        EquilibriumPropagation(9, 5, 0.1, cost=cost),
        ContinualEP(still, 9, 5, 0.1, cost=cost),
        RecurrentBackprop(9, cost=cost),
    ):
        with pytest.raises(ValueError, match=r"Costly.gradient: expected one value for every outp"):
            estimator(model, *batch)


class Errors(Cost):
    """How many answers are wrong: no slope anywhere."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(1) != target.argmax(1)).to(output)


def test_a_cost_that_cannot_be_followed_back_is_refused_in_words(batch: Batch) -> None:
    model = UserPhi().double()
    for estimator in (
        EquilibriumPropagation(9, 5, 0.1, cost=Errors()),
        BPTT(9, cost=Errors()),
        RecurrentBackprop(9, cost=Errors()),
    ):
        with pytest.raises(ValueError, match="cost: expected one that autograd can follow back"):
            estimator(model, *batch)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_a_target_that_is_not_finite_is_named(wrong: float, batch: Batch) -> None:
    model, target = UserPhi().double(), batch[1].clone()
    target[4, 1] = wrong
    for estimator in (EquilibriumPropagation(9, 5, 0.1), BPTT(9), RecurrentBackprop(9)):
        with pytest.raises(ValueError, match="target: expected finite .* in sample 4"):
            estimator(model, batch[0], target)
    # Numbers the sum of which is not finite are.
    huge = torch.full_like(target, 1e308)
    with pytest.raises(NonFiniteError):
        EquilibriumPropagation(9, 500, 5.0)(model, batch[0], huge)


@pytest.mark.parametrize("wrong", [None, 10**30])
@pytest.mark.parametrize("name", ["free_steps", "nudged_steps"])
def test_steps_without_an_end_are_refused(name: str, wrong: Any, batch: Batch) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected "):
        EquilibriumPropagation(**{"free_steps": 3, "nudged_steps": 3, name: wrong}, beta=0.1)
    with pytest.raises(ValueError, match="steps: expected "):
        relax(UserPhi().double(), batch[0], wrong)


def test_phases_that_are_none_are_refused_where_they_are_given(batch: Batch) -> None:
    free = relax(UserPhi().double(), batch[0], 3)
    for phases in ((free.state,), (free, (free.state,)), (None,)):
        with pytest.raises(TypeError, match="Estimate: expected phases .* each a Relaxation, got"):
            Estimate(*phases)  # type: ignore[arg-type]


def test_the_derivative_of_an_activation_is_one_number_for_every_element() -> None:
    rho = Activation("mine", torch.tanh, lambda s, rho: (1 - rho * rho)[:1])
    with pytest.raises(ValueError, match="for every element, got that of mine, which gives shape"):
        RealTimeNetwork(dense(4, 5, 3), rho)
