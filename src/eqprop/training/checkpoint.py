"""Checkpoints: all that training needs to go on as if it had never stopped, in one file.

The file is in the safetensors format: tensors, and a header of JSON, neither of which can carry
code. It holds the parameters, the states of the optimizer, of the scheduler and of the random
generator (hence the order of the data still to come), the metrics so far and, within an epoch, how
far that has come; with a digest of it all.

It is written under another name, flushed to the disk and then put in place in one step: whenever
the process is killed, the last complete one is there.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from eqprop.core.sizes import counted
from eqprop.errors import Failure
from eqprop.files import write_atomically
from eqprop.training.loop import Metrics, Unfinished
from eqprop.training.plain import from_plain, to_plain

__all__ = ["LAST", "Checkpoint", "CheckpointError", "Stateful"]

LAST = Path("checkpoint") / "last.safetensors"
"""Where in the folder of a run its checkpoint lies."""

_FORMAT = 3
_KEPT = ("model", "optimizer", "scheduler", "generator", "history", "settings", "architecture")
_LIKE_PARAMETERS = {"exp_avg", "exp_avg_sq", "momentum_buffer", "square_avg"}
"""What optimizers keep in the shape of each parameter."""


class CheckpointError(Failure):
    """A checkpoint that cannot be read, or does not fit; one line says which and why."""


class Stateful(Protocol):
    """What has a state that can be kept, such as an optimizer or a scheduler."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


@final
@dataclass(frozen=True, repr=False)
class Checkpoint:
    """The state of a training run between two epochs, or between two mini-batches of one.

    Example: to keep it after every epoch, and to go on another day::

        for metrics in eqprop.train(model, estimator, optimizer, data, epochs=30, …):
            history.append(asdict(metrics))
            Checkpoint.capture(model, optimizer, generator, history, scheduler=scheduler).save(path)

        checkpoint = Checkpoint.load(path)
        checkpoint.restore(model, optimizer, generator, scheduler=scheduler)
        eqprop.train(…, done=len(checkpoint.history), unfinished=checkpoint.unfinished)

    Attributes:
        model: the model's ``state_dict``.
        optimizer: the optimizer's ``state_dict``.
        generator: the state of the random generator.
        history: the metrics of every epoch so far, as JSON has them.
        settings: those of the run it belongs to, as JSON has them.
        scheduler: the scheduler's ``state_dict``, if there is one.
        unfinished: where the epoch after these was left, if it had begun.
        architecture: what the model is, besides the shapes of its parameters: the
            ``architecture`` of a :class:`~eqprop.core.models.ConvergentModel`.
        kinds: the names of the classes of the optimizer and the scheduler.
        name: what messages call it.
    """

    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    generator: Tensor
    history: list[dict[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] | None = None
    unfinished: Unfinished | None = None
    architecture: Mapping[str, Any] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    name: str = "the checkpoint"

    @classmethod
    def capture(
        cls,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        history: Sequence[Metrics | dict[str, Any]],
        settings: Mapping[str, Any] | None = None,
        *,
        scheduler: Stateful | None = None,
        unfinished: Unfinished | None = None,
    ) -> Self:
        """The state of these objects now: a copy, which training on does not touch.

        Raises:
            TypeError: a generator or an unfinished epoch that is none.
        """
        model = _inner(model)
        _require_generator(generator)
        if not isinstance(unfinished, Unfinished | None):
            raise TypeError(
                f"unfinished: expected running.unfinished(), got {type(unfinished).__name__}"
            )
        history = [asdict(of) if isinstance(of, Metrics) else of for of in history]
        return cls(
            deepcopy(model.state_dict()),
            deepcopy(optimizer.state_dict()),
            generator.get_state(),
            _as_json(history),
            _as_json(settings or {}),
            None if scheduler is None else deepcopy(scheduler.state_dict()),
            unfinished,
            _architecture(model),
            _kinds(optimizer, scheduler),
        )

    def restore(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        *,
        scheduler: Stateful | None = None,
    ) -> None:
        """Put these objects into the state of the checkpoint.

        Raises:
            CheckpointError: it belongs to another model, optimizer or scheduler, or to a run with
                one where none is given.
            TypeError: a generator that is none.
        """
        _require_generator(generator)
        if (self.scheduler is None) != (scheduler is None):
            expected, got = ("none", "one") if self.scheduler is None else ("one", "none")
            raise CheckpointError(
                f"{self.name} belongs to another run: expected {expected} for scheduler, as when "
                f"it was written, got {got}"
            )
        for what, now in _kinds(optimizer, scheduler).items():
            if (then := self.kinds.get(what, now)) != now:
                raise CheckpointError(
                    f"{self.name} belongs to another run: expected {then} for {what}, as when it "
                    f"was written, got {now}"
                )
        self._require_same(_inner(model))
        self._require_order(optimizer)
        before = optimizer.state_dict(), None if scheduler is None else scheduler.state_dict()
        try:
            optimizer.load_state_dict(dict(self.optimizer))
            if scheduler is not None and self.scheduler is not None:
                scheduler.load_state_dict(dict(self.scheduler))
            generator.set_state(self.generator)
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            # Nothing is left half restored.
            optimizer.load_state_dict(before[0])
            if scheduler is not None and before[1] is not None:
                scheduler.load_state_dict(dict(before[1]))
            raise CheckpointError(f"{self.name} belongs to another run: {error}") from error
        self.restore_model(model)

    def _require_order(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse an optimizer that has the parameters in another order, as far as shapes show."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for number, of in self.optimizer.get("state", {}).items():
            if not isinstance(of, Mapping) or number >= len(parameters):
                continue
            shape = tuple(parameters[number].shape)
            for key in _LIKE_PARAMETERS & of.keys():
                if isinstance(of[key], Tensor) and tuple(of[key].shape) != shape:
                    raise CheckpointError(
                        f"{self.name} belongs to another run: expected an optimizer whose "
                        f"parameter {number} is of shape {tuple(of[key].shape)}, got one of "
                        f"{shape}; give it the parameters in the same order"
                    )

    def restore_model(self, model: nn.Module) -> None:
        """Put the model alone into the state of the checkpoint.

        Raises:
            CheckpointError: it belongs to another model: one with other parameters, another ρ,
                other connections. ``model.load_state_dict(checkpoint.model)`` asks for the first
                alone.
        """
        model = _inner(model)
        self._require_same(model)
        model.load_state_dict(dict(self.model))

    def _require_same(self, model: nn.Module) -> None:
        others = [
            f"{what} = {now} instead of {then}"
            for what, now in _architecture(model).items()
            if (then := self.architecture.get(what, now)) != now
        ]
        shapes, kept = _shapes(model.state_dict()), _shapes(self.model)
        others += [
            f"{name} {_shown(shapes.get(name))} instead of {_shown(kept.get(name))}"
            for name in sorted(shapes.keys() | kept.keys())
            if shapes.get(name) != kept.get(name)
        ]
        if others:
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            raise CheckpointError(
                f"{self.name} belongs to another model: expected one like that which was trained, "
                f"got one with {', '.join(others[:3])}{more}"
            )

    def save(self, path: str | Path) -> None:
        """Write to ``path``, replacing what is there in one step.

        Raises:
            TypeError: a state of the optimizer or the scheduler that is neither made of tensors nor
                plain, such as a function.
            OSError: it cannot be written; what was there is there still.
        """
        tensors: dict[str, Tensor] = {}
        contents = {key: getattr(self, key) for key in _KEPT}
        contents["kinds"] = self.kinds
        contents["unfinished"] = None if self.unfinished is None else self.unfinished.plain()
        state = json.dumps({key: to_plain(of, key, tensors) for key, of in contents.items()})
        # Each with memory of its own: what is shared, such as a weight used twice, is kept twice.
        tensors = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in tensors.items()
        }
        header = {"format": str(_FORMAT), "state": state, "sha256": _digest(tensors, state)}
        write_atomically(Path(path), save_tensors(tensors, header))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a checkpoint; nothing in it is executed.

        Args:
            path: the file, or the folder of a run.

        Raises:
            CheckpointError: there is none, or it is not whole, or not one of these.
        """
        path = Path(path)
        if path.is_dir():
            path /= LAST
        if not path.is_file():
            raise CheckpointError(f"{path}: expected a checkpoint, found no such file")
        try:
            data = path.read_bytes()
            tensors = load_tensors(data)
            length = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + length]).get("__metadata__", {})
            if "state" not in header:
                raise CheckpointError(
                    f"{path}: expected a checkpoint, found a safetensors file that holds none; of "
                    "weights alone take model.load_state_dict(safetensors.torch.load_file(…))"
                )
            version = int(header["format"])
            if version > _FORMAT:
                raise CheckpointError(
                    f"{path}: expected a checkpoint of format {_FORMAT} or before, found format "
                    f"{version} of a newer version of eqprop; upgrade with: pip install -U eqprop"
                )
            if header["sha256"] != _digest(tensors, header["state"]):
                raise CheckpointError(
                    f"{path}: expected contents of the checksum it carries, but they were altered; "
                    "restore the file from a copy, or start a new run"
                )
            state = json.loads(header["state"])
            found = from_plain(state, tensors) if version > 2 else _format_2(state, tensors)
            left = found["unfinished"]
            return cls(
                **{key: found[key] for key in _KEPT},
                kinds=found.get("kinds", {}),
                unfinished=None if left is None else Unfinished.of(left),
                name=str(path),
            )
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path}: expected a checkpoint, but it is damaged ({error}); "
                "restore the file from a copy, or start a new run"
            ) from error

    @property
    def place(self) -> str:
        """How far training had come, in words: ``3 epochs and 20 mini-batches``."""
        epochs = counted(len(self.history), "epoch")
        if self.unfinished is None:
            return epochs
        return f"{epochs} and {counted(self.unfinished.batch, 'mini-batch')}"

    def __repr__(self) -> str:
        return f"Checkpoint({self.name}, after {self.place})"


def _inner(model: nn.Module) -> nn.Module:
    """What ``torch.compile`` has wrapped, whose parameters have other names there."""
    return getattr(model, "_orig_mod", model)


def _architecture(model: nn.Module) -> dict[str, Any]:
    # An average of models, such as AveragedModel, has it within.
    return _as_json(getattr(getattr(model, "module", model), "architecture", {}))


def _kinds(optimizer: torch.optim.Optimizer, scheduler: Stateful | None) -> dict[str, str]:
    kinds = {"optimizer": type(optimizer).__name__}
    return kinds if scheduler is None else {**kinds, "scheduler": type(scheduler).__name__}


def _require_generator(generator: object) -> None:
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator, got {type(generator).__name__}")


def _as_json(value: Any) -> Any:
    """As it will be read again, so that what was kept and what is now compare."""
    return json.loads(json.dumps(value))


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(of.shape) for name, of in state.items() if isinstance(of, Tensor)}


def _shown(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "×".join(map(str, shape)) or "a number"


def _format_2(state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What versions before wrote: one optimizer, its tensors by their numbers."""
    optimizer = state["optimizer"]
    states = {int(index): dict(values) for index, values in optimizer["state"].items()}
    model = {}
    for name, value in tensors.items():
        room, _, rest = name.partition("/")
        if room == "optimizer":
            index, key = rest.split("/", 1)
            states.setdefault(int(index), {})[key] = value
        elif room == "model":
            model[rest] = value
    return {
        "model": model,
        "optimizer": {"state": states, "param_groups": optimizer["param_groups"]},
        "generator": tensors["generator"],
        "history": state["history"],
        "settings": state["settings"],
        "scheduler": None,
        "unfinished": None,
        "architecture": {},
    }


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
