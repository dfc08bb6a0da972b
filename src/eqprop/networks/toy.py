r"""The toy model of the theory: 10-50-5 units, all connected with all, in real time.

    E = ½‖s‖² − Σ_{i>j} J_ij ρ(s_i) ρ(s_j) − Σ_i ρ(s_i) (U ρ(x) + b)_i,   ρ = tanh

over all units i of both layers: the input drives the output directly too, and within a layer
lateral weights connect every unit with every other. It is written as a user would write a model of
their own, and nothing in it is clipped: Theorem 1 holds for it to first order in β.

Source: https://arxiv.org/abs/1905.13633, figure 2.
"""

import math
from typing import final

import torch
from torch import Tensor, nn

from eqprop.core.models import EnergyModel, State, half_square_norm

__all__ = ["ToyModel"]


@final
class ToyModel(EnergyModel):
    """x (B, 10), a hidden layer (B, 50) and the output (B, 5), all-to-all.

    Args:
        inputs, hidden, outputs: how many units.
        epsilon: the time step ε > 0.

    Raises:
        ValueError: a layer without units, ε ≤ 0.
    """

    def __init__(
        self, inputs: int = 10, hidden: int = 50, outputs: int = 5, *, epsilon: float = 0.08
    ) -> None:
        super().__init__([hidden, outputs], epsilon=epsilon)
        self.input_to_hidden = nn.Linear(inputs, hidden)
        self.input_to_output = nn.Linear(inputs, outputs)
        self.hidden_to_output = nn.Linear(hidden, outputs, bias=False)
        # Only what lies below the diagonal is used: one weight per pair of units.
        self.within_hidden = nn.Parameter(_uniform(hidden))
        self.within_output = nn.Parameter(_uniform(outputs))

    def energy(self, x: Tensor, state: State) -> Tensor:
        """E(x, s) for every sample."""
        sent, hidden, output = (torch.tanh(layer) for layer in (x, *state))
        onto_hidden = self.input_to_hidden(sent) + hidden @ self.within_hidden.tril(-1).t()
        onto_output = (
            self.input_to_output(sent)
            + self.hidden_to_output(hidden)
            + output @ self.within_output.tril(-1).t()
        )
        coupling = (hidden * onto_hidden).sum(1) + (output * onto_output).sum(1)
        return half_square_norm(state) - coupling


def _uniform(size: int) -> Tensor:
    bound = 1 / math.sqrt(size)
    return torch.empty(size, size).uniform_(-bound, bound)
