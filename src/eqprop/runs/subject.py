"""What Theorem 1 is looked at on: a model, and mini-batches, in float64."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import final

import torch
from torch import Tensor

from eqprop.analysis.settling_steps import SettlingSteps, settling_steps
from eqprop.core.costs import Cost, SquaredError
from eqprop.core.models import ConvergentModel
from eqprop.data.dataset import Dataset, one_hot
from eqprop.errors import UsageError
from eqprop.networks.layered import LayeredNetwork
from eqprop.networks.toy import ToyModel
from eqprop.settings.theorem import TheoremSettings
from eqprop.summary import summary

__all__ = ["Subject", "network_subject", "toy_subject"]


_AT_ONCE = 100
"""Samples that settle at once."""


@final
@dataclass(frozen=True, eq=False)
class Subject:
    """A model, what its output costs, and (x, y) of every mini-batch."""

    model: ConvergentModel
    cost: Cost
    batches: list[tuple[Tensor, Tensor]]

    __repr__ = summary

    def settling_ticks(self, settings: TheoremSettings) -> int:
        """How many phases of mini-batches :meth:`settling` takes."""
        phases = 3 if settings.nudging == "symmetric" else 2
        return phases * -(-sum(len(x) for x, _ in self.batches) // _AT_ONCE)

    def settling(
        self,
        settings: TheoremSettings,
        tolerance: float,
        tick: Callable[[str], None] = lambda _: None,
    ) -> SettlingSteps:
        """How many steps the samples of all mini-batches take to come to rest.

        Args:
            tick: called whenever a mini-batch took a phase, with what is being computed.

        Raises:
            NonFiniteError: a state stopped being finite.
        """
        return settling_steps(
            self.model,
            torch.cat([x for x, _ in self.batches]),
            torch.cat([target for _, target in self.batches]),
            beta=settings.beta,
            most=settings.looked_for,
            tolerance=tolerance,
            nudging=settings.nudging,
            cost=self.cost,
            batch_size=_AT_ONCE,
            tick=tick,
        )


def toy_subject(settings: TheoremSettings) -> Subject:
    """The toy model, its weights, inputs in [0, 1] and one-hot targets drawn from the seed."""
    torch.set_num_threads(settings.threads)
    size = settings.batch_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = ToyModel().to(settings.device, torch.float64)
        drawn = [
            (
                torch.rand(size, 10, dtype=torch.float64),
                one_hot(torch.randint(5, (size,)), 5, torch.float64),
            )
            for _ in range(settings.batches)
        ]
    batches = [(x.to(settings.device), y.to(settings.device)) for x, y in drawn]
    return Subject(model, SquaredError(), batches)


def network_subject(
    network: LayeredNetwork, cost: Cost, dataset: Dataset, settings: TheoremSettings
) -> Subject:
    """A layered network, which is made one of float64, on training data in an order of the seed.

    Raises:
        UsageError: there are not enough training samples.
    """
    torch.set_num_threads(settings.threads)
    samples = len(dataset.train)
    if settings.batches * settings.batch_size > samples:
        raise UsageError(
            f"batches = {settings.batches}, batch_size = {settings.batch_size}: expected at most "
            f"the {samples} training samples in all"
        )
    generator = torch.Generator().manual_seed(settings.seed)
    source = dataset.train.batches(settings.batch_size, generator)
    # Only the mini-batches are needed in float64: the whole set would take twice its memory.
    batches = [
        (x.double(), dataset.train.targets(labels, dataset.classes).double())
        for x, labels in islice(source, settings.batches)
    ]
    return Subject(network.double(), cost, batches)
