r"""Ranks: the processes of one training, each with its share of every mini-batch.

All of them hold the whole data set and the same parameters, and draw the same from generators of
the same seed: the order of the samples, augmentation, the sign of β. Of every mini-batch each takes
its share; the optimizer steps of all see the mean of their gradients, see
:mod:`eqprop.distributed.gradients`. What they learn is so what one process learns from the whole
mini-batches, but for rounding, and the same in all of them, bit for bit.

In a loop of one's own, with or without ``torchrun``::

    ranks = eqprop.distributed.start()            # what torchrun set; alone without it
    ranks.share(optimizer, model)                 # its steps see the mean over all ranks
    for x, y in batches:                          # the same mini-batches in every process
        x, y = ranks.part(x, y)                   # this process's share
        optimizer.zero_grad()
        estimator(model, x, y, generator)
        optimizer.step()
"""

from collections.abc import Callable, Sequence
from typing import Any, final
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch import distributed as dist

from eqprop.distributed.gradients import MeanGradient
from eqprop.distributed.group import Group, RankError
from eqprop.distributed.launch import launched
from eqprop.errors import ConfigurationError, Failure

__all__ = ["Ranks", "start"]


@final
class Ranks:
    """This process, and those that train with it; alone, if no group is given.

    Attributes:
        rank: which one it is, from 0.
        count: how many there are.
        here: how many of them are on this machine.
        first: whether it is that which writes and shows.
        device: what it is to compute on.
        samples: how many of its last :meth:`part` count: none where it only stands in.
    """

    def __init__(self, group: Group | None = None, here: int = 1) -> None:
        self._group = group
        self.rank, self.count = (0, 1) if group is None else (group.rank, group.count)
        self.here = here
        self.first = self.rank == 0
        self.device = torch.device("cpu") if group is None else group.device
        self.samples = 0
        # Until something was split, all count alike.
        self._share = 1 / self.count
        self._sharing = WeakSet[torch.optim.Optimizer]()
        self._wishing: Callable[[], Sequence[float]] = tuple
        self._heard: Sequence[float] = ()

    def __repr__(self) -> str:
        return f"Ranks(rank={self.rank}, count={self.count})"

    def share(self, optimizer: torch.optim.Optimizer, model: nn.Module | None = None) -> None:
        """From now on the steps of the optimizer see the mean gradient of all processes.

        All parameters become those of the first process. The gradients are averaged before any
        other hook of the optimizer sees them, such as one that clips them. Plain gradient descent
        is then no longer seen through (:mod:`eqprop.estimators.descent`): estimators leave the
        gradients, or take their steps, to the optimizer.

        Args:
            optimizer: one whose ``step`` is called without a closure.
            model: whose buffers, and parameters that the optimizer does not hold, are to become
                those of the first process too.

        Raises:
            TypeError: what is no optimizer, or no module.
            RankError: another process has gone.
        """
        for name, given, kind in (
            ("optimizer", optimizer, torch.optim.Optimizer),
            ("model", model, nn.Module | None),
        ):
            if not isinstance(given, kind):
                such = "an optimizer of torch.optim" if name == "optimizer" else "an nn.Module"
                raise TypeError(f"{name}: expected {such}, got {type(given).__name__}")
        if self._group is None:
            return
        held = [p for group in optimizer.param_groups for p in group["params"]]
        held += [] if model is None else [*model.parameters(), *model.buffers()]
        # Each once, in the order in which they are first met.
        for tensor in {id(t): t for t in held}.values():
            whole = tensor.detach().contiguous()
            self._group.follow(whole)
            tensor.detach().copy_(whole)
        if optimizer in self._sharing:
            return
        self._sharing.add(optimizer)
        # Before all others, as hooks of modules can be: there is no public way to say so here.
        hooks = optimizer._optimizer_step_pre_hooks
        others = dict(hooks)
        hooks.clear()
        optimizer.register_step_pre_hook(MeanGradient(self._group, lambda: self._share))
        hooks.update(others)

    def part(self, *batch: Tensor) -> tuple[Tensor, ...]:
        """This process's share of a mini-batch: of n samples n/N in a row, but for rounding.

        Where there are fewer samples than processes, those left over take the first one, with
        which they stand in wherever all have to take part; it counts for nothing.

        Args:
            batch: inputs, targets, and whatever else has a row for every sample, (B, …) each.

        Raises:
            ValueError: nothing, or what has not as many rows each.
        """
        sizes = {len(rows) for rows in batch}
        if len(sizes) != 1 or not min(sizes):
            raise ValueError(
                "part: expected a row for every sample in each of what is given, at least one, got "
                f"{', '.join(str(len(rows)) for rows in batch) or 'nothing'}"
            )
        (size,) = sizes
        begin, end = (size * rank // self.count for rank in (self.rank, self.rank + 1))
        self.samples, self._share = end - begin, (end - begin) / size
        if self.count == 1:
            return batch
        if begin == end:
            begin, end = 0, 1
        return tuple(rows[begin:end] for rows in batch)

    def gather(self, numbers: Sequence[float]) -> list[list[float]]:
        """As many numbers from each process: a list for each, the same in all of them.

        Raises:
            RankError: another process has gone.
        """
        if self._group is None:
            return [list(map(float, numbers))]
        wishes = self._wishing()
        rows = torch.zeros(self.count, len(numbers) + len(wishes), dtype=torch.float64)
        rows[self.rank] = torch.tensor([*numbers, *wishes], dtype=torch.float64)
        found = self._group.sum(rows.to(self.device)).tolist()
        if wishes:
            # Only the largest of each matters; whoever asks next hears of the same.
            wished = (row[len(numbers) :] for row in found)
            self._heard = [max(of) for of in zip(*wished, strict=True)]
        return [row[: len(numbers)] for row in found]

    def total(self, *numbers: float) -> list[float]:
        """The sum of each over all processes, such as of losses and samples.

        Raises:
            RankError: another process has gone.
        """
        return [sum(of) for of in zip(*self.gather(numbers), strict=True)]

    def heed(self, wishes: Callable[[], Sequence[float]]) -> None:
        """Let what this process wishes travel with every :meth:`gather` from now on.

        Args:
            wishes: as many numbers in every process; 0 is no wish.
        """
        self._wishing = wishes
        self._heard = [0.0] * len(wishes())

    def heard(self) -> Sequence[float]:
        """The largest of each wish, over all processes, as of the last :meth:`gather`: the same in
        all of them, so that all can act on it at once."""
        return self._wishing() if self._group is None else self._heard

    def wait(self) -> None:
        """Go on when all have come here.

        Raises:
            RankError: another process has gone.
        """
        self.gather([0.0])

    def word(self, text: str) -> str:
        """That of the first process.

        Raises:
            RankError: another process has gone.
        """
        if self._group is None:
            return text
        said = torch.tensor(list(text.encode()), dtype=torch.uint8, device=self.device)
        length = torch.tensor(len(said), device=self.device)
        self._group.follow(length)
        if not self.first:
            said = torch.empty(int(length), dtype=torch.uint8, device=self.device)
        return bytes(self._group.follow(said).tolist()).decode()

    def require_alike(self, what: str, tensor: Tensor, why: str) -> None:
        """Refuse what differs from that of the first process.

        Raises:
            RankError: says ``what`` differs, and ``why`` that may be; or another process has gone.
        """
        if self._group is None:
            return
        ours = tensor.to(self.device)
        theirs = self._group.follow(ours.clone())
        rows = self.gather([float(not ours.equal(theirs))])
        differ = [rank for rank, (differs,) in enumerate(rows) if differs]
        if differ:
            raise RankError(
                f"{what}: expected the same in all processes, got another one in process "
                f"{differ[0]} of {self.count}; {why}"
            )

    def end(self) -> None:
        """Part from the others, once all is done."""
        if self._group is not None and dist.is_initialized():
            dist.destroy_process_group()


def start(device: Any = None) -> Ranks:
    """The ranks that ``torchrun``, or whatever sets the same variables, has started; alone without.

    They talk by gloo on CPUs and by NCCL on GPUs, of which each process takes the one of its number
    on its machine: ``cuda`` then means that one. A default process group that is there already is
    taken as it is.

    Args:
        device: ``cpu`` or ``cuda``; if not given, ``cuda`` where there is a GPU for every process
            of the machine, that is for this one.

    Raises:
        ConfigurationError: a GPU by its number, which all processes would take; or more processes
            than GPUs.
        UsageError: variables that are no numbers.
        Failure: the processes cannot reach each other.
    """
    launch = launched()
    if launch is None and not dist.is_initialized():
        return Ranks()
    local = 0 if launch is None else launch.local
    found = torch.cuda.device_count()
    chosen = torch.device(device if device is not None else "cuda" if local < found else "cpu")
    if chosen.type == "cuda":
        if chosen.index is not None:
            raise ConfigurationError(
                "device", str(chosen), "cpu, or cuda, of which every process takes one of its own"
            )
        if local >= found:
            raise ConfigurationError(
                "device",
                str(chosen),
                f"a GPU for every process, of which torch finds {found} here; start fewer, or "
                "take cpu",
            )
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        assert launch is not None
        backend = "gloo" if chosen.type == "cpu" else "cpu:gloo,cuda:nccl"
        try:
            dist.init_process_group(backend, rank=launch.rank, world_size=launch.count)
        except (RuntimeError, ValueError) as error:
            where = ":".join(map(str, launch.meeting))
            raise Failure(
                f"{where}: expected all {launch.count} processes to meet there, but they did not "
                f"({str(error).strip().splitlines()[0]}); start them with torchrun"
            ) from None
    return Ranks(Group(chosen), 1 if launch is None else launch.here)
