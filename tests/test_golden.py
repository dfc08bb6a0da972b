"""Exact small cases computed with the published implementation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from eqprop.connections import dense
from eqprop.estimators import EquilibriumPropagation
from eqprop.networks import PrototypicalNetwork

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("case", ["prototypical-1h", "prototypical-2h"])
def test_states_and_updates_are_those_of_the_published_code(case: str) -> None:
    with np.load(GOLDEN / f"{case}.npz", allow_pickle=False) as stored:
        values = {name: torch.from_numpy(stored[name]) for name in stored.files if name != "meta"}
        words = json.loads(str(stored["meta"]))["argv"].split()
    option = {word: words[index + 1] for index, word in enumerate(words[:-1])}
    layers = sum(name.startswith("free") for name in values)
    sizes = [values["x"].shape[1], *(values[f"free{layer}"].shape[1] for layer in range(layers))]
    model = PrototypicalNetwork(
        dense(*sizes), {"sigm": "scaled-sigmoid", "tanh": "tanh"}[option["--activation-function"]]
    ).double()
    model.load_state_dict(
        {
            f"connections.{layer}.{kind}": values[f"up{layer}.{kind}"]
            for layer in range(layers)
            for kind in ("weight", "bias")
        }
    )
    estimator = EquilibriumPropagation(
        int(option["--T"]), int(option["--Kmax"]), float(option["--beta"])
    )

    estimate = estimator(model, values["x"], values["y"])

    def assert_equal(found: torch.Tensor, name: str) -> None:
        torch.testing.assert_close(found, values[name], rtol=0, atol=1e-12)

    for layer in range(layers):
        assert_equal(estimate.free.state[layer], f"free{layer}")
        assert_equal(estimate.nudged[0].state[layer], f"nudged{layer}")
        for kind in ("weight", "bias"):
            gradient = model.connections[layer].get_parameter(kind).grad
            assert gradient is not None
            assert_equal(-gradient, f"update.up{layer}.{kind}")
