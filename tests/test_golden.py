"""Exact small cases computed with the published implementation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eqprop.connections import Connection, ConvPool, Dense
from eqprop.estimators import EquilibriumPropagation
from eqprop.networks import PrototypicalNetwork

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


@pytest.mark.parametrize("case", ["prototypical-1h", "prototypical-2h", "conv"])
def test_states_and_updates_are_those_of_the_published_code(case: str) -> None:
    with np.load(GOLDEN / f"{case}.npz", allow_pickle=False) as stored:
        values = {name: torch.from_numpy(stored[name]) for name in stored.files if name != "meta"}
        words = json.loads(str(stored["meta"]))["argv"].split()
    option = {word: words[index + 1] for index, word in enumerate(words[:-1])}
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
