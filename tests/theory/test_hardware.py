"""What devices do to a network, and what that does to what it learns by."""

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import eqprop
from eqprop.analysis.kind import model_kind
from eqprop.core.models import ConvergentModel, EnergyModel, State, half_square_norm
from fields import Nudging, T, both, gradient

K = 12
SPAN = 4.0


class Mine(EnergyModel):
    """An energy of one's own, with connections within its layers."""

    def __init__(self) -> None:
        super().__init__([5, 3], epsilon=0.2)
        self.drives = torch.nn.Linear(6, 5)
        self.all = torch.nn.Linear(8, 8)

    def energy(self, x: Tensor, state: State) -> Tensor:
        sent = torch.tanh(torch.cat(state, 1))
        received = (sent[:, :5] * self.drives(x)).sum(1) + (sent * self.all(sent)).sum(1)
        return half_square_norm(state) - received


def real_time() -> ConvergentModel:
    return eqprop.RealTimeNetwork(eqprop.dense(6, 5, 4, 3), "tanh", epsilon=0.3)


MODELS: dict[str, Any] = {"real time": real_time, "my energy": Mine}


def made(name: str = "real time") -> ConvergentModel:
    torch.manual_seed(0)
    model = MODELS[name]().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.6)
    return model


def prototypical(updates: Any = "synchronous") -> ConvergentModel:
    torch.manual_seed(0)
    chain = eqprop.dense(6, 5, 4, 3)
    return eqprop.PrototypicalNetwork(chain, "tanh", updates=updates).double()


def batch() -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(1)
    return (
        torch.rand(5, 6, generator=source).double(),
        torch.rand(5, 3, generator=source).double(),
    )


# Mismatch of the units


@both
@pytest.mark.parametrize("name", MODELS)
def test_gains_and_offsets_leave_ep_exact(name: str, nudging: Nudging) -> None:
    model = eqprop.mismatched(made(name), gain=0.2, offset=0.1)
    x, y = batch()
    wanted = gradient(model, x, y, eqprop.BPTT(T, K))
    errors = []
    for beta in (1e-2, 1e-3):
        found = gradient(model, x, y, eqprop.EquilibriumPropagation(T, K, beta, nudging))
        errors.append(((found - wanted).norm() / wanted.norm()).item())
    order = 1 if nudging == "one-sided" else 2
    assert math.log10(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_they_change_what_the_network_does() -> None:
    """Otherwise that it stays exact says nothing."""
    x, _ = batch()
    plain = made()
    free = eqprop.relax(plain, x, T).state
    for gain, offset in ((0.2, 0.0), (0.0, 0.1)):
        other = eqprop.relax(eqprop.mismatched(plain, gain, offset), x, T).state
        apart = torch.cat(other, 1) - torch.cat(free, 1)
        assert apart.abs().mean() > 1e-3


@pytest.mark.parametrize("updates", ["synchronous", "alternating"])
def test_in_discrete_time_a_unit_gives_rho_of_its_gain_times_what_it_receives(updates: str) -> None:
    x, _ = batch()
    plain = prototypical(updates)
    model = eqprop.mismatched(plain, gain=0.3, offset=0.2, seed=3)
    state = tuple(torch.rand(5, n).double() for n in (5, 4, 3))
    drive, force = plain.drive(x), torch.rand(5, 3).double()
    field = plain.field(drive, state)
    after = model.step(drive, state, force)
    gains, offsets = (
        [model.get_buffer(f"{name}_{i}") for i in range(3)] for name in ("gain", "offset")
    )
    if updates == "alternating":
        # The second layer has moved before the others.
        torch.testing.assert_close(after[1], torch.tanh(gains[1] * field[1] + offsets[1]))
        field = plain.field(drive, (state[0], after[1], state[2]))
    torch.testing.assert_close(after[0], torch.tanh(gains[0] * field[0] + offsets[0]))
    last = torch.tanh(gains[2] * field[2] + offsets[2]) + gains[2] * force
    torch.testing.assert_close(after[2], last)
    apart = torch.cat([gain - 1 for gain in gains]).std(), torch.cat(offsets).std()
    assert 0.1 < apart[0] < 0.5
    assert 0.1 < apart[1] < 0.4


def test_in_real_time_the_leak_has_no_gain() -> None:
    """Of a unit that receives nothing only the offset is left: s → s + ε (o − s)."""
    model = eqprop.RealTimeNetwork(eqprop.dense(6, 5, 4, 3), "tanh", epsilon=0.3).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model = eqprop.mismatched(model, gain=0.5, offset=0.2)
    x, _ = batch()
    state = tuple(torch.rand(5, n).double() for n in (5, 4, 3))
    after = model.step(model.drive(x), state)
    for i, (s, found) in enumerate(zip(state, after, strict=True)):
        offset = model.get_buffer(f"offset_{i}")
        torch.testing.assert_close(found, s + 0.3 * (offset - s))


# Noise on the states


@pytest.mark.parametrize("updates", ["synchronous", "alternating"])
def test_every_state_of_every_step_has_noise_of_its_own(updates: str) -> None:
    x, _ = batch()
    plain, sigma = prototypical(updates), 0.05
    model = eqprop.noisy(plain, sigma)
    drive = plain.drive(x)
    state = tuple(torch.rand(5, n).double() for n in (5, 4, 3))
    with torch.no_grad():
        # The layer that moves first is what it would be, and noise.
        wanted = plain.step(drive, state)[1]
        xi = torch.stack([model.step(drive, state)[1] - wanted for _ in range(400)]) / sigma
    assert xi.mean().abs() < 0.05
    assert xi.std() == pytest.approx(1, abs=0.05)
    assert (xi[1:] * xi[:-1]).mean().abs() < 0.05
    assert (xi[:, 1:] * xi[:, :-1]).mean().abs() < 0.05


def test_layers_that_move_later_see_the_noise_of_those_before_them() -> None:
    x, _ = batch()
    model = prototypical("alternating")
    drive = model.drive(x)
    state = tuple(torch.rand(5, n).double() for n in (5, 4, 3))
    apart = []
    with torch.no_grad():
        for _ in range(200):
            after = eqprop.noisy(model, 0.5, seed=len(apart)).step(drive, state)
            seen = model.field(drive, (state[0], after[1], state[2]))
            apart.append(after[0] - torch.tanh(seen[0]))
    assert torch.stack(apart).std() == pytest.approx(0.5, rel=0.05)


def test_what_is_left_of_noise_in_an_estimate_is_divided_by_beta() -> None:
    x, y = batch()
    spreads = []
    for beta in (0.1, 0.01):
        model = eqprop.noisy(made(), 1e-3)
        estimator = eqprop.EquilibriumPropagation(60, 20, beta, "symmetric")
        found = torch.stack([gradient(model, x, y, estimator) for _ in range(60)])
        spreads.append(found.std(0).norm().item())
    assert math.log10(spreads[1] / spreads[0]) == pytest.approx(1, abs=0.1)


def test_the_diagnosis_says_that_noise_hides_the_theorem_as_beta_falls() -> None:
    found = model_kind(eqprop.noisy(made(), 0.1))
    assert found.expected() == "the error grows, as noise is divided by β"
    assert found.said.endswith(", with noise")
    assert model_kind(made()).expected() == "the error falls in proportion to β"


def test_noise_comes_from_its_seed_and_goes_on_where_it_was_left() -> None:
    x, _ = batch()
    drive = made().drive(x)
    state = made().initial_state(x)

    def drawn(model: ConvergentModel, steps: int) -> list[Tensor]:
        return [torch.cat(model.step(drive, state), 1) for _ in range(steps)]

    whole = drawn(eqprop.noisy(made(), 0.1, seed=5), 6)
    assert not torch.equal(drawn(eqprop.noisy(made(), 0.1, seed=6), 1)[0], whole[0])
    begun = eqprop.noisy(made(), 0.1, seed=5)
    assert all(map(torch.equal, drawn(begun, 3), whole[:3]))
    left = begun.state_dict()
    resumed = eqprop.noisy(made(), 0.1, seed=5)
    resumed.load_state_dict(left)
    for later in (resumed, copy.deepcopy(begun), pickle.loads(pickle.dumps(begun)), begun):
        assert all(map(torch.equal, drawn(later, 3), whole[3:]))


def test_a_checkpoint_of_a_noisy_network_goes_on_as_if_never_left(tmp_path: Path) -> None:
    digits = eqprop.load_dataset("digits")

    def learner() -> tuple[Any, ...]:
        torch.manual_seed(0)
        chain = eqprop.dense(64, 16, 10)
        model = eqprop.noisy(eqprop.mismatched(eqprop.PrototypicalNetwork(chain), 0.1, 0.1), 0.05)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        eqprop.DeviceWrites(bits=6).attach(optimizer)
        return model, optimizer, torch.Generator().manual_seed(0)

    def trained(model: Any, optimizer: Any, generator: Any, epochs: int, done: int = 0) -> Any:
        estimator = eqprop.EquilibriumPropagation(6, 3, 0.5, "symmetric")
        options: dict[str, Any] = {"batch_size": 300, "generator": generator, "done": done}
        list(eqprop.train(model, estimator, optimizer, digits, epochs=epochs, **options))
        return model.state_dict()

    whole = trained(*learner(), epochs=2)
    model, optimizer, generator = learner()
    trained(model, optimizer, generator, epochs=1)
    eqprop.Checkpoint.capture(model, optimizer, generator, [{}]).save(tmp_path / "left")
    model, optimizer, generator = learner()
    eqprop.Checkpoint.load(tmp_path / "left").restore(model, optimizer, generator)
    found = trained(model, optimizer, generator, epochs=2, done=1)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)


def test_holomorphic_and_symmetric_ep_learn_under_noise_where_a_small_nudge_does_not() -> None:
    digits = eqprop.load_dataset("digits")

    def error(estimator: Any) -> float:
        torch.manual_seed(0)
        model = eqprop.noisy(eqprop.PrototypicalNetwork(eqprop.dense(64, 64, 10)), 0.04)
        optimizer = torch.optim.SGD(model.parameter_groups([0.1, 0.05]))  # type: ignore[operator]
        found = eqprop.train(model, estimator, optimizer, digits, epochs=4)
        return [metrics.test_error for metrics in found][-1]

    assert error(eqprop.EquilibriumPropagation(20, 8, 0.1)) > 20
    assert error(eqprop.EquilibriumPropagation(20, 8, 0.5, "symmetric")) < 12
    assert error(eqprop.HolomorphicEP(20, 8, 0.5, points=4)) < 12


# What all that stands around a network has in common


@pytest.mark.parametrize("name", MODELS)
def test_a_device_shares_its_parameters_and_leaves_the_network_alone(name: str) -> None:
    model = made(name)
    names = [name for name, _ in model.named_parameters()]
    found = eqprop.noisy(eqprop.mismatched(model, 0.1), 0.1)
    assert [name for name, _ in found.named_parameters()] == names
    assert all(a is b for a, b in zip(found.parameters(), model.parameters(), strict=True))
    assert not dict(model.named_buffers())
    assert isinstance(found, type(model))
    assert "noise=0.1" in repr(found)
    assert "gain ±0.1" in repr(found)


def test_a_device_within_a_device_is_stored_and_copied() -> None:
    x, _ = batch()
    found = eqprop.noisy(eqprop.mismatched(made(), 0.1, 0.1), 0.1)
    wanted = [kind.__name__ for kind in type(found).__mro__]
    for other in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert [kind.__name__ for kind in type(other).__mro__] == wanted
        states = [
            torch.cat(one.step(one.drive(x), one.initial_state(x)), 1)
            for one in (pickle.loads(pickle.dumps(found)), other)
        ]
        assert torch.equal(*states)


def test_devices_without_faults_change_nothing() -> None:
    x, _ = batch()
    model = made()
    drive, state = model.drive(x), tuple(torch.rand(5, n).double() for n in (5, 4, 3))
    found = eqprop.noisy(eqprop.mismatched(model), 0.0)
    wanted = torch.cat(model.step(drive, state), 1)
    torch.testing.assert_close(torch.cat(found.step(drive, state), 1), wanted)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: eqprop.noisy(made(), -0.1), "std: expected a finite number >= 0, got -0.1"),
        (lambda: eqprop.noisy(made(), math.nan), "std: expected a finite number >= 0"),
        (lambda: eqprop.mismatched(made(), gain=math.inf), "gain: expected a finite number >= 0"),
        (lambda: eqprop.mismatched(made(), offset=-1.0), "offset: expected a finite number >= 0"),
        (lambda: eqprop.DeviceWrites(bits=1), "bits: expected 2 to 16, or none, got 1"),
        (lambda: eqprop.DeviceWrites(span=0.0), "span: expected a number > 0, got 0.0"),
        (lambda: eqprop.DeviceWrites(nonlinearity=-1.0), "nonlinearity: expected a finite"),
        (lambda: eqprop.DeviceWrites(bits=4, span=math.inf), "span: expected a finite one with"),
        (lambda: eqprop.DeviceWrites().values(torch.ones(2, 2)), "values: expected bits"),
        (lambda: eqprop.BinaryWeights(-1.0), "threshold: expected a finite number >= 0"),
        (lambda: eqprop.BinaryWeights(0.1, rate=0.0), "rate: expected a number above 0, up to 1"),
    ],
)
def test_bad_numbers_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_a_network_is_not_given_the_same_device_twice() -> None:
    """Each has one σ, and one gain of every unit: the second would stand for both."""
    with pytest.raises(ValueError, match="expected one that is not noisy yet, got Mismatched"):
        eqprop.noisy(eqprop.mismatched(eqprop.noisy(made(), 0.1)), 0.2)
    with pytest.raises(ValueError, match="expected one that is not mismatched yet"):
        eqprop.mismatched(eqprop.mismatched(made(), 0.1), 0.1)


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(TypeError, match="model"):
        eqprop.noisy(torch.nn.Linear(3, 2), 0.1)  # type: ignore[arg-type]


# How weights are written


def weight_of(values: Tensor | float, shape: tuple[int, int] = (50, 16)) -> torch.nn.Parameter:
    return torch.nn.Parameter((torch.ones(shape) * values).double())


def written(weight: torch.nn.Parameter, asked: Tensor | float, writes: Any) -> Tensor:
    """What a step of plain descent makes of it that asks for so much."""
    optimizer = torch.optim.SGD([weight], lr=1.0)
    writes.attach(optimizer)
    before = weight.detach().clone()
    weight.grad = -(asked * torch.ones_like(weight))
    optimizer.step()
    return weight.detach() - before


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_a_weight_of_b_bits_has_one_of_2_to_the_b_less_1_values(bits: int) -> None:
    writes = eqprop.DeviceWrites(bits, SPAN)
    weight = weight_of(torch.linspace(-2, 2, 16))
    written(weight, torch.rand(50, 16).double(), writes)
    values = writes.values(weight)
    assert len(values) == 2**bits - 1
    bound = SPAN / math.sqrt(16)
    assert values[0].item() == pytest.approx(-bound)
    assert values[-1].item() == pytest.approx(bound)
    apart = (weight.detach().flatten()[:, None] - values).abs().amin(1)
    assert apart.max() < 1e-12


def test_an_update_smaller_than_the_distance_of_two_values_is_done_as_often_as_it_should() -> None:
    weight = weight_of(0.0, (400, 16))
    asked = 0.05  # of values that lie 1/3 apart
    moved = written(weight, asked, eqprop.DeviceWrites(3, SPAN))
    assert moved.unique().tolist() == pytest.approx([0, 1 / 3])
    assert moved.mean().item() == pytest.approx(asked, rel=0.15)


def test_rounding_is_drawn_anew_at_every_step_and_for_every_weight() -> None:
    weights = [weight_of(0.0), weight_of(0.0)]
    optimizer = torch.optim.SGD(weights, lr=1.0)
    eqprop.DeviceWrites(3, SPAN).attach(optimizer)
    moved = []
    for _ in range(2):
        before = [weight.detach().clone() for weight in weights]
        for weight in weights:
            weight.grad = torch.full_like(weight, -0.1)
        optimizer.step()
        moved += [w.detach() - b for w, b in zip(weights, before, strict=True)]
    for i in range(4):
        for j in range(i):
            assert not torch.equal(moved[i] > 0.1, moved[j] > 0.1)


@pytest.mark.parametrize("nu", [1.0, 2.5])
def test_a_write_does_the_less_the_nearer_the_bound_it_leads_to(nu: float) -> None:
    bound = SPAN / math.sqrt(16)
    start = torch.linspace(-0.8, 0.8, 16).double()
    asked = 1e-3
    for sign in (1, -1):
        moved = written(
            weight_of(start), sign * asked, eqprop.DeviceWrites(None, SPAN, nonlinearity=nu)
        )
        wanted = sign * asked * (1 - sign * start / bound) ** nu
        torch.testing.assert_close(moved, wanted.expand_as(moved))


def test_nothing_is_written_beyond_the_bound() -> None:
    weight = weight_of(torch.linspace(-9, 9, 16))
    written(weight, torch.randn(50, 16).double(), eqprop.DeviceWrites(span=SPAN))
    assert weight.abs().max() == SPAN / math.sqrt(16)


def test_biases_are_written_as_they_are() -> None:
    bias = torch.nn.Parameter(torch.zeros(5).double())
    moved = written(bias, 0.123, eqprop.DeviceWrites(2, 0.1))
    assert moved.tolist() == pytest.approx([0.123] * 5)


def test_binary_weights_flip_where_the_filtered_gradient_says_so_clearly_enough() -> None:
    torch.manual_seed(0)
    weight = weight_of(torch.randn(20, 16).double(), (20, 16))
    bias = torch.nn.Parameter(torch.zeros(20).double())
    alpha = weight.detach().abs().mean()
    signs, filtered = weight.detach().sign(), torch.zeros(20, 16).double()
    optimizer = torch.optim.SGD([weight, bias], lr=0.5)
    eqprop.BinaryWeights(threshold=0.2, rate=0.3).attach(optimizer)
    flips = 0
    for _ in range(12):
        torch.testing.assert_close(weight.detach(), alpha * signs)
        weight.grad, bias.grad = torch.randn(20, 16).double(), torch.ones(20).double()
        filtered = 0.7 * filtered + 0.3 * weight.grad
        turned = (filtered.abs() > 0.2) & (filtered.sign() == signs)
        flips += int(turned.sum())
        signs = torch.where(turned, -signs, signs)
        optimizer.step()
    assert flips > 100
    assert bias.tolist() == pytest.approx([-6.0] * 20)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_writes_and_flips_go_on_from_the_state_of_an_optimizer(kind: Any) -> None:
    """All that they remember is stored with it."""

    def begun(memory: Any) -> tuple[torch.nn.Parameter, Any]:
        weight = weight_of(torch.linspace(-0.5, 0.5, 16))
        optimizer = kind([weight], lr=0.01)
        memory.attach(optimizer)
        return weight, optimizer

    def stepped(weight: torch.nn.Parameter, optimizer: Any, steps: range) -> Tensor:
        for step in steps:
            source = torch.Generator().manual_seed(step)
            weight.grad = torch.randn(50, 16, generator=source).double()
            optimizer.step()
        return weight.detach()

    memories: list[Any] = [
        eqprop.DeviceWrites(4, SPAN, nonlinearity=1.0),
        eqprop.BinaryWeights(0.1, rate=0.1),
    ]
    for memory in memories:
        whole = stepped(*begun(memory), range(8))
        weight, optimizer = begun(memory)
        stepped(weight, optimizer, range(4))
        later, restored = begun(memory)
        restored.load_state_dict(optimizer.state_dict())
        with torch.no_grad():
            later.copy_(weight)
        assert torch.equal(stepped(later, restored, range(4, 8)), whole)


def test_continual_updates_are_written_in_every_step_of_the_nudged_phase() -> None:
    x, y = batch()
    model = prototypical()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    writes = eqprop.DeviceWrites(5, SPAN)
    writes.attach(optimizer)
    eqprop.ContinualEP(optimizer, 20, 7, 0.5)(model, x, y)
    assert optimizer.param_groups[0]["writes"] == 7
    for weight in model.parameters():
        if weight.dim() > 1:
            apart = (weight.detach().flatten()[:, None] - writes.values(weight)).abs().amin(1)
            assert apart.max() < 1e-12


@pytest.mark.parametrize(
    "writes", [eqprop.DeviceWrites(4), eqprop.DeviceWrites(nonlinearity=1.0)], ids=["bits", "soft"]
)
def test_digits_are_learnt_by_weights_that_are_written_so(writes: Any) -> None:
    assert learnt(writes) < 12


def test_digits_are_learnt_by_binary_weights() -> None:
    assert learnt(eqprop.BinaryWeights(1e-3, rate=0.01)) < 25


def learnt(memory: Any) -> float:
    digits = eqprop.load_dataset("digits")
    torch.manual_seed(0)
    model = eqprop.PrototypicalNetwork(eqprop.dense(64, 64, 10))
    optimizer = torch.optim.SGD(model.parameter_groups([0.1, 0.05]))
    memory.attach(optimizer)
    estimator = eqprop.EquilibriumPropagation(20, 8, 0.5, "symmetric")
    found = eqprop.train(model, estimator, optimizer, digits, epochs=4)
    return [metrics.test_error for metrics in found][-1]
