"""Checkpoints: all that training needs to go on as if it had never stopped, in one file.

The file is in the safetensors format: tensors, and a header of JSON, neither of which can carry
code. It holds the parameters, the optimizer's state, the state of the random generator (hence the
order of the data still to come) and the metrics so far, with a digest of it all.

It is written under another name, flushed to the disk and then put in place in one step: whenever
the process is killed, the last complete one is there.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from eqprop.errors import Failure
from eqprop.files import write_atomically

__all__ = ["Checkpoint", "CheckpointError"]

_FORMAT = "2"


class CheckpointError(Failure):
    """A checkpoint that cannot be read, or does not fit; one line says which and why."""


@final
@dataclass(frozen=True)
class Checkpoint:
    """The state of a training run between two epochs.

    Attributes:
        model: the model's ``state_dict``.
        optimizer: the optimizer's ``state_dict``.
        generator: the state of the random generator.
        history: the metrics of every epoch so far.
        settings: those of the run it belongs to, as JSON has them.
        name: what messages call it.
    """

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    generator: Tensor
    history: list[dict[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    name: str = "the checkpoint"

    @classmethod
    def capture(
        cls,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        history: list[dict[str, Any]],
        settings: Mapping[str, Any] | None = None,
    ) -> Self:
        """The state of these objects now."""
        return cls(
            model.state_dict(),
            optimizer.state_dict(),
            generator.get_state(),
            list(history),
            settings or {},
        )

    def restore(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator
    ) -> None:
        """Put these objects into the state of the checkpoint.

        Raises:
            CheckpointError: it belongs to another model or optimizer.
        """
        self.restore_model(model)
        try:
            optimizer.load_state_dict(dict(self.optimizer))
            generator.set_state(self.generator)
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.name} belongs to another run: {error}") from error

    def restore_model(self, model: nn.Module) -> None:
        """Put the model alone into the state of the checkpoint.

        Raises:
            CheckpointError: it belongs to another model.
        """
        expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        found = {name: tuple(value.shape) for name, value in self.model.items()}
        if expected != found:
            raise CheckpointError(
                f"{self.name} belongs to another model: expected {expected}, found {found}"
            )
        model.load_state_dict(self.model)

    def save(self, path: Path) -> None:
        """Write to ``path``, replacing what is there in one step."""
        tensors = {f"model/{name}": value for name, value in self.model.items()}
        tensors["generator"] = self.generator
        plain: dict[str, dict[str, Any]] = {}
        for index, state in self.optimizer["state"].items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{index}/{key}"] = value
                else:
                    plain.setdefault(str(index), {})[key] = value
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        state = json.dumps(
            {
                "optimizer": {"state": plain, "param_groups": self.optimizer["param_groups"]},
                "history": self.history,
                "settings": dict(self.settings),
            }
        )
        header = {"format": _FORMAT, "state": state, "sha256": _digest(tensors, state)}
        write_atomically(path, save_tensors(tensors, header))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a checkpoint; nothing in it is executed.

        Raises:
            CheckpointError: there is none, or it is not whole, or not one of these.
        """
        if not path.is_file():
            raise CheckpointError(f"{path}: expected a checkpoint, found no such file")
        try:
            data = path.read_bytes()
            tensors = load_tensors(data)
            length = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + length])["__metadata__"]
            if header["format"] != _FORMAT:
                raise CheckpointError(
                    f"{path}: expected a checkpoint of format {_FORMAT}, found {header['format']}; "
                    "use the version of eqprop that wrote it"
                )
            intact = header["sha256"] == _digest(tensors, header["state"])
            state = json.loads(header["state"])
            optimizer, history, settings = (
                state[key] for key in ("optimizer", "history", "settings")
            )
            generator = tensors["generator"]
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path}: expected a checkpoint, but it is damaged ({error}); "
                "restore the file from a copy, or start a new run"
            ) from error
        if not intact:
            raise CheckpointError(
                f"{path}: expected contents of the checksum it carries, but they were altered; "
                "restore the file from a copy, or start a new run"
            )
        states: dict[int, dict[str, Any]] = {
            int(index): dict(values) for index, values in optimizer["state"].items()
        }
        for name, value in tensors.items():
            if name.startswith("optimizer/"):
                _, index, key = name.split("/", 2)
                states.setdefault(int(index), {})[key] = value
        return cls(
            model={
                name.removeprefix("model/"): value
                for name, value in tensors.items()
                if name.startswith("model/")
            },
            optimizer={"state": states, "param_groups": optimizer["param_groups"]},
            generator=generator,
            history=history,
            settings=settings,
            name=str(path),
        )


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
