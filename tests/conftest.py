"""Fixtures that tests of every room share."""

import os
import signal
import zlib

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--part", default="1/1", metavar="I/N", help="the I-th of N parts of the tests"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """By their names, so that a new test moves no other into another part."""
    number, parts = map(int, str(config.getoption("--part")).split("/"))
    of = [zlib.crc32(item.nodeid.encode()) % parts + 1 for item in items]
    config.hook.pytest_deselected(
        items=[i for i, part in zip(items, of, strict=True) if part != number]
    )
    items[:] = [item for item, part in zip(items, of, strict=True) if part == number]


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
