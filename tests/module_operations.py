"""What one may do with a module: every operation on every network with every estimator.

``python tests/module_operations.py`` writes the table of docs/reference/modules.md; a test holds
that it says what happens. An operation *works* if what is then learnt is what the obvious way
learns: the same estimator on a twin whose field and learning rule come from Φ (without one, from
the contrast) by autograd alone. Otherwise it is refused in words, which the table quotes.
"""

import copy
import io
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import zoo
from eqprop.core.models import ConvergentModel, PrimitiveModel
from eqprop.estimators.asymmetric import AsymEP
from eqprop.estimators.bptt import BPTT
from eqprop.estimators.continual import ContinualEP
from eqprop.estimators.ep import EquilibriumPropagation
from eqprop.estimators.recurrent_backprop import RecurrentBackprop
from eqprop.networks.connections.chains import dense, untied
from eqprop.networks.prototypical import PrototypicalNetwork

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "modules.md"


def _prototypical() -> ConvergentModel:
    return PrototypicalNetwork(dense(4, 5, 5, 3), "tanh")


def _untied() -> ConvergentModel:
    return PrototypicalNetwork(untied(dense(4, 5, 5, 3), 45.0), "tanh")


NETWORKS: dict[str, Callable[[], ConvergentModel]] = {
    "prototypical": _prototypical,
    "real-time": zoo.real_time,
    "alternating": zoo.alternating,
    "convolutional": zoo.convolutional,
    "untied": _untied,
    "own Φ": zoo.UserPhi,
    "own energy": zoo.UserEnergy,
    "own field": zoo.UserField,
}

ESTIMATORS: dict[str, Callable[[nn.Module], Any]] = {
    "EP": lambda _: EquilibriumPropagation(30, 8, beta=0.3, nudging="symmetric"),
    "EP, SGD in place": lambda model: EquilibriumPropagation(
        30, 8, beta=0.3, optimizer=torch.optim.SGD(_learning(model), lr=0.1)
    ),
    "C-EP": lambda model: ContinualEP(torch.optim.SGD(_learning(model), lr=0.1), 30, 8, 0.3),
    "AsymEP": lambda _: AsymEP(30, 8, 0.3, "symmetric"),
    "BPTT": lambda _: BPTT(30, 8),
    "implicit": lambda _: RecurrentBackprop(60, adjoint_tolerance=1e-3),
}


def _learning(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _weighted(model: nn.Module, number: int = 0) -> tuple[nn.Module, str]:
    """A module that has a weight, and what it is called; those of untied ones lie deeper."""
    found = [
        (module, name)
        for module in model.modules()
        for name, p in module.named_parameters(recurse=False)
        if p.dim() > 1
    ]
    return found[min(number, len(found) - 1)]


class Masked(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        mask = torch.arange(weight.numel()).view_as(weight) % 2
        return weight * mask


def _masked(model: ConvergentModel) -> nn.Module:
    parametrize.register_parametrization(*_weighted(model), Masked())
    return model


def _normed(model: ConvergentModel) -> nn.Module:
    parametrizations.weight_norm(*_weighted(model))
    return model


def _shared(model: ConvergentModel) -> nn.Module:
    """The second and the third weight of layers of one size."""
    if not hasattr(model, "connections") or not isinstance(model, PrototypicalNetwork):
        raise LookupError
    first, second = model.connections[1], model.connections[0]
    first, second = (getattr(c, "upward", c) for c in (first, second))
    second.bias = first.bias
    return model


def _pruned(model: ConvergentModel) -> nn.Module:
    prune.l1_unstructured(*_weighted(model), 0.5)
    return model


def _saved(model: ConvergentModel) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _reloaded(model: ConvergentModel) -> nn.Module:
    kept = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    model.load_state_dict(kept)
    return model


def _frozen(model: ConvergentModel) -> nn.Module:
    module, name = _weighted(model)
    module.get_parameter(name).requires_grad_(False)
    return model


def _hooked(model: ConvergentModel) -> nn.Module:
    module, _ = _weighted(model)
    if isinstance(module, nn.Linear) or module is model:
        raise LookupError
    module.register_forward_hook(lambda *_: None)
    return model


def _hooked_backward(model: ConvergentModel) -> nn.Module:
    model.register_full_backward_hook(lambda *_: None)
    return model


def _hooked_parameter(model: ConvergentModel) -> nn.Module:
    next(model.parameters()).register_hook(lambda gradient: gradient)
    return model


@contextmanager
def _deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


Operation = tuple[Callable[[ConvergentModel], nn.Module], Callable[[], AbstractContextManager[Any]]]
ALONE = nullcontext
OPERATIONS: dict[str, Operation] = {
    "torch.compile": (lambda m: torch.compile(m, backend="eager"), ALONE),  # pyright: ignore
    "torch.autocast": (lambda m: m, lambda: torch.autocast("cpu", torch.bfloat16)),
    "parametrizations.weight_norm": (_normed, ALONE),
    "parametrize: a mask": (_masked, ALONE),
    "prune.l1_unstructured": (_pruned, ALONE),
    "a parameter shared": (_shared, ALONE),
    "copy.deepcopy": (copy.deepcopy, ALONE),
    "torch.save, torch.load": (_saved, ALONE),
    "state_dict, load_state_dict": (_reloaded, ALONE),
    "to(float64)": (lambda m: m.to(torch.float64), ALONE),
    "half": (lambda m: m.half(), ALONE),
    "to(channels_last)": (lambda m: m.to(memory_format=torch.channels_last), ALONE),  # pyright: ignore
    "requires_grad_(False)": (_frozen, ALONE),
    "train, eval": (lambda m: m.eval(), ALONE),
    "a forward hook of a connection": (_hooked, ALONE),
    "a backward hook of the model": (_hooked_backward, ALONE),
    "a hook of a parameter": (_hooked_parameter, ALONE),
    "use_deterministic_algorithms": (lambda m: m, _deterministic),
    "inference_mode": (lambda m: m, torch.inference_mode),
    "nn.DataParallel": (nn.DataParallel, ALONE),
}


def obvious(found: ConvergentModel) -> ConvergentModel:
    """The same, from now on with its field and its learning rule by autograd alone."""

    def patch(name: str, function: Any) -> None:
        object.__setattr__(found, name, MethodType(function, found))

    patch("contrast_gradients", ConvergentModel.contrast_gradients)
    patch("learning_rule", ConvergentModel.learning_rule)
    for written in ("defer", "jacobian"):
        object.__setattr__(found, written, lambda *_: None)
    phi = getattr(found, "phi", None)
    if phi is not None and not getattr(found, "weight_angles", ()) and not _in_turn(found):
        patch("drive", ConvergentModel.drive)
        patch("part", ConvergentModel.part)
        patch("field", PrimitiveModel.field)
        patch("step", ConvergentModel.step)
    return found


def _in_turn(model: ConvergentModel) -> bool:
    return getattr(model, "in_turn", False)


def learnt(model: nn.Module, estimator: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """What a mini-batch does to all parameters: minus the gradient, or the change, in a row."""
    before = [p.detach().clone() for p in model.parameters()]
    x, target = (t.to(dtype) for t in batch())
    ESTIMATORS[estimator](model)(model, x, target)
    changes = []
    for p, old in zip(model.parameters(), before, strict=True):
        change = p.detach() - old if p.grad is None else -p.grad
        changes.append(change.double().flatten())
    return torch.cat(changes)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(5, 4, generator=generator), torch.rand(5, 3, generator=generator)


def outcome(operation: str, network: str, estimator: str) -> str:
    """``✓``, ``≈`` and the cosine where numbers have few bits, or how it is refused.

    Raises:
        AssertionError: it learns something else than the obvious way.
        LookupError: the network has nothing to do it with.
    """
    prepare, within = OPERATIONS[operation]

    def made() -> nn.Module:
        torch.manual_seed(3)
        return prepare(NETWORKS[network]().float())

    try:
        model = made()
        dtype = next(p.dtype for p in model.parameters())
        with within():
            found = learnt(model, estimator, dtype)
    except (TypeError, ValueError) as refused:
        words = " ".join(str(refused).split())
        assert "expected" in words, words
        return words
    twin = made()
    twin = obvious(getattr(twin, "_orig_mod", twin))  # pyright: ignore[reportArgumentType]
    rough = dtype == torch.float16 or operation == "torch.autocast"
    expected = learnt(twin.float() if rough else twin, estimator, torch.float32 if rough else dtype)
    if rough:
        cosine = torch.cosine_similarity(found, expected, dim=0).item()
        assert cosine > 0.5
        return f"≈ {cosine:.1f}"
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-5)
    assert found.any()
    return "✓"


def table() -> str:
    """docs/reference/modules.md."""
    words: dict[str, int] = {}
    lines = [
        "# What one may do with a module",
        "",
        "Written by `python tests/module_operations.py`. Every network is an `nn.Module` like any",
        "other. Each operation was tried on each network with each estimator, and what was learnt",
        "compared with the same on a twin whose dynamics and learning rule are autograd's of Φ",
        "alone (of the contrast, where there is none). ✓: the same; ≈: the same direction, but for",
        "the few bits of the numbers, with the cosine; a number: refused, in the words below; –:",
        "nothing to do it with.",
        "",
    ]
    for estimator in ESTIMATORS:
        lines += [f"## {estimator}", ""]
        lines += [f"| | {' | '.join(NETWORKS)} |", f"|---|{'---|' * len(NETWORKS)}"]
        for operation in OPERATIONS:
            cells = []
            for network in NETWORKS:
                try:
                    found = outcome(operation, network, estimator)
                except LookupError:
                    cells.append("–")
                    continue
                works = found[0] in "✓≈"
                cells.append(found if works else str(words.setdefault(found, len(words) + 1)))
            lines.append(f"| {operation} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["## Refused in these words", ""]
    lines += [f"{number}. {said}" for said, number in words.items()]
    return "\n".join(lines) + "\n"


def cell(operation: str, network: str, estimator: str) -> str:
    """What the page says, its words in full."""
    page = PAGE.read_text(encoding="utf-8")
    section = page.split(f"## {estimator}\n")[1].split("##")[0].splitlines()
    (row,) = (line for line in section if line.startswith(f"| {operation} |"))
    said = row.split("|")[2 + list(NETWORKS).index(network)].strip()
    if not said.isdecimal():
        return said
    (words,) = (line for line in page.splitlines() if line.startswith(f"{said}. "))
    return words.partition(". ")[2]


if __name__ == "__main__":
    PAGE.write_text(table(), encoding="utf-8")
