"""Memory that was too small, said in one line."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from eqprop.errors import Failure, shown
from eqprop.settings.experiment import Experiment

__all__ = ["enough_for", "enough_memory"]


@contextmanager
def enough_memory(what: str, device: str) -> Iterator[None]:
    """Within it, torch's running out of memory becomes a :class:`~eqprop.errors.Failure`.

    Args:
        what: the settings that took so much, with their values.
        device: whose memory it is.
    """
    try:
        yield
    except RuntimeError as error:
        # On the CPU torch has no exception of its own for it.
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise Failure(
            f"{what}: expected to fit into the memory of {device}, found too little; "
            "lower one of them"
        ) from None


def enough_for(experiment: Experiment) -> AbstractContextManager[None]:
    """The same, where an experiment is made or trained."""
    sizes = {"channels": experiment.channels, "hidden": experiment.hidden}
    layers = "".join(f"{name} = {shown(size)}, " for name, size in sizes.items() if size)
    return enough_memory(f"{layers}batch_size = {experiment.batch_size}", experiment.device)
