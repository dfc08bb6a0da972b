"""Exact small cases computed with the published implementation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eqprop.estimators.continual import ContinualEP
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.networks.connections.chains import dense, untied
from eqprop.networks.connections.connection import Connection
from eqprop.networks.connections.conv_pool import ConvPool
from eqprop.networks.connections.dense import Dense
from eqprop.networks.prototypical import PrototypicalNetwork

GOLDEN = Path(__file__).parent / "golden"
ACTIVATIONS = {"sigm": "scaled-sigmoid", "tanh": "tanh", "hardsigm": "hard-sigmoid"}


NAMES = {"conv": ["conv0", "conv1", "fc0"]}


def connections(values: dict[str, torch.Tensor], names: list[str]) -> list[Connection]:
    """Connections of the shapes of the stored weights, input side first."""
    shape = tuple(values["x"].shape[1:])
    chain: list[Connection] = []
    for name in names:
        size, _, *kernel = values[f"{name}.weight"].shape
        chain.append(ConvPool(shape, size, kernel[0]) if kernel else Dense(shape, size))
        shape = chain[-1].upper_shape
    return chain


def load(case: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The stored tensors, and the arguments they were computed with."""
    with np.load(GOLDEN / f"{case}.npz", allow_pickle=False) as stored:
        values = {name: torch.from_numpy(stored[name]) for name in stored.files if name != "meta"}
        words = json.loads(str(stored["meta"]))["argv"].split()
    return values, {word: words[index + 1] for index, word in enumerate(words[:-1])}


@pytest.mark.parametrize("case", ["prototypical-1h", "prototypical-2h", "conv"])
def test_states_and_updates_are_those_of_the_published_code(case: str) -> None:
    values, option = load(case)
    layers = sum(name.startswith("free") for name in values)
    names = NAMES.get(case, [f"up{layer}" for layer in range(layers)])
    model = PrototypicalNetwork(
        connections(values, names), ACTIVATIONS[option["--activation-function"]]
    ).double()
    model.load_state_dict(
        {
            f"connections.{layer}.{kind}": values[f"{name}.{kind}"]
            for layer, name in enumerate(names)
            for kind in ("weight", "bias")
        }
    )
    estimator = EquilibriumPropagation(
        int(option["--T"]), int(option["--Kmax"]), float(option["--beta"])
    )

    estimate = estimator(model, values["x"], values["y"])

    def assert_equal(found: torch.Tensor, name: str) -> None:
        torch.testing.assert_close(found, values[name], rtol=0, atol=1e-12)

    for layer, name in enumerate(names):
        assert_equal(estimate.free.state[layer], f"free{layer}")
        assert_equal(estimate.nudged[0].state[layer], f"nudged{layer}")
        for kind in ("weight", "bias"):
            gradient = model.connections[layer].get_parameter(kind).grad
            assert gradient is not None
            assert_equal(-gradient, f"update.{name}.{kind}")


class StepByStep(torch.optim.SGD):
    """Gradient descent that is not known to be plain, so that every update is really made."""


@pytest.mark.parametrize("descent", [torch.optim.SGD, StepByStep])
@pytest.mark.parametrize("case", ["continual-1h", "continual-vf-1h"])
def test_continual_updates_end_at_the_weights_of_the_published_code(
    case: str, descent: type[torch.optim.SGD]
) -> None:
    values, option = load(case)
    chain: list[Connection] = list(tied := dense(6, 5, 3))
    parameters = {
        f"connections.{layer}.{kind}": f"up{layer}.{kind}"
        for layer in range(2)
        for kind in ("weight", "bias")
    }
    if case == "continual-vf-1h":
        chain = untied(tied)
        for kind in ("weight", "bias"):
            parameters[f"connections.1.upward.{kind}"] = parameters.pop(f"connections.1.{kind}")
        parameters["connections.1.backward_weight"] = "down1.weight"
        values |= {name: v.t() for name, v in values.items() if name.endswith("down1.weight")}
        # The published code never updates this bias in the case of vector fields.
        tied[0].get_parameter("bias").requires_grad_(False)
    model = PrototypicalNetwork(chain, "scaled-sigmoid").double()
    model.load_state_dict({name: values[theirs] for name, theirs in parameters.items()})
    estimator = ContinualEP(
        descent(model.parameter_groups([0.04, 0.02])),
        int(option["--T"]),
        int(option["--Kmax"]),
        float(option["--beta"]),
    )

    estimate = estimator(model, values["x"], values["y"])

    for layer, (free, nudged) in enumerate(
        zip(estimate.free.state, estimate.nudged[0].state, strict=True)
    ):
        torch.testing.assert_close(free, values[f"free{layer}"], rtol=0, atol=1e-12)
        torch.testing.assert_close(nudged, values[f"nudged{layer}"], rtol=0, atol=1e-12)
    for name, theirs in parameters.items():
        found = model.get_parameter(name).detach()
        torch.testing.assert_close(found, values[f"after.{theirs}"], rtol=0, atol=1e-12)
