"""Fixtures that tests of every room share."""

import os
import signal

# Whoever runs the tests in the background may have Ctrl-C ignored, and tests wait for its effect.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

from zoo import EXACT, Batch, Exact

torch.set_num_threads(1)
# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(params=EXACT, ids=lambda name: name.replace(" ", "-"))
def exact(request: pytest.FixtureRequest) -> Exact:
    """A model whose transition is the gradient of Φ, in float64."""
    torch.manual_seed(1)
    return EXACT[request.param]().double()


@pytest.fixture
def batch() -> Batch:
    """Input (7, 4) and target (7, 3)."""
    source = torch.Generator().manual_seed(2)
    return (
        torch.randn(7, 4, generator=source, dtype=torch.float64),
        torch.rand(7, 3, generator=source, dtype=torch.float64),
    )
