"""A model and what it is given have to fit each other; where they do not, words say what to do."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from eqprop.core.models import ConvergentModel

__all__ = [
    "modules_within",
    "parameters_within",
    "require_input",
    "require_model",
    "require_unchanging",
]

_CHANGING = (nn.modules.dropout._DropoutNd, nn.RReLU)
"""What draws anew every time it is called while it is in training mode."""

_MIXING = nn.modules.batchnorm._BatchNorm
"""What lets every sample move the others while it is in training mode."""

_UNSTEADY = (*_CHANGING, _MIXING)


def modules_within(model: nn.Module) -> list[nn.Module]:
    """The model and all its parts, those used twice twice: without names, as every mini-batch asks
    and ``nn.Module.modules`` takes longer."""
    found = [model]
    for part in found:
        if part._modules:
            found += [inner for inner in part._modules.values() if inner is not None]
    return found


def parameters_within(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """As ``model.named_parameters(remove_duplicate=False)``, in a fraction of its time: those of
    small networks are asked for more often than is worth waiting for."""
    for name, own in model._parameters.items():
        if own is not None:
            yield name, own
    for name, part in model._modules.items():
        if part is not None:
            for of, parameter in parameters_within(part):
                yield f"{name}.{of}", parameter


def require_model(model: object) -> ConvergentModel:
    """The convergent model that is meant: of one that ``torch.compile`` has wrapped, what is in it.

    Raises:
        TypeError: it is none, or its ``__init__`` has not called that of the base.
        ValueError: it was taken apart, see
            :meth:`~eqprop.core.models.ConvergentModel.require_intact`.
    """
    # Not by getattr, which nn.Module answers slowly where there is nothing.
    parts = getattr(model, "_modules", {})
    model = parts.get("_orig_mod", model) if isinstance(parts, dict) else model
    if isinstance(model, ConvergentModel):
        if "shapes" not in vars(model):
            raise TypeError(
                f"{type(model).__name__}: expected a model that is set up, got one whose __init__ "
                "does not call super().__init__(shapes)"
            )
        model.require_intact()
        return model
    wrapped = isinstance(getattr(model, "module", None), ConvergentModel)
    why = "; wrappers that call forward, such as DataParallel, have nothing to call here"
    raise TypeError(
        f"model: expected a ConvergentModel, got {type(model).__name__}"
        + " (its .module is one)" * wrapped
        + why * isinstance(model, nn.Module)
    )


def require_input(
    model: nn.Module, x: object, name: str = "x", parts: Sequence[nn.Module] | None = None
) -> None:
    """Refuse what is no tensor, or is of another dtype or on another device than the parameters.

    Whole numbers are left to the model.

    Args:
        x: the static input, or a target.
        name: what messages call it.
        parts: :func:`modules_within` the model, where the caller has them already.

    Raises:
        TypeError: says which, and what to do.
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name}: expected a tensor, got {type(x).__name__}; make it one by "
            f"torch.tensor({name}, dtype=torch.get_default_dtype())"
        )
    like = _floating(modules_within(model) if parts is None else parts)
    if like is None:
        return
    if x.is_floating_point() and x.dtype != like.dtype:
        raise TypeError(
            f"{name}: expected {like.dtype}, as the parameters are, got {x.dtype}; convert it "
            f"with {name}.to({like.dtype}), or the model with model.to({x.dtype})"
        )
    if x.device != like.device:
        raise TypeError(
            f"{name}: expected it on {like.device}, as the parameters are, got it on {x.device}; "
            f"move it with {name}.to({str(like.device)!r}), or the model likewise"
        )


def require_unchanging(model: ConvergentModel, parts: Sequence[nn.Module] | None = None) -> None:
    """Refuse a transition that is another one every time, or that mixes the samples.

    A steady state is one of a fixed transition, and a sample's own: EP divides by β what changes
    between two states, whatever has changed it.

    Args:
        parts: :func:`modules_within` the model, where the caller has them already.

    Raises:
        ValueError: dropout or batch normalisation in training mode, also as ρ.
    """
    functions: list[tuple[str, Any]] = [
        (name, getattr(vars(model).get(name), "function", None)) for name in ("activation", "rho")
    ]
    for part in (*(parts or modules_within(model)), *(function for _, function in functions)):
        if isinstance(part, _UNSTEADY) and part.training:
            break
    else:
        return
    for name, module in (*model.named_modules(), *functions):
        if isinstance(module, _CHANGING) and module.training:
            why = "which draws anew in every step"
        elif isinstance(module, _MIXING) and module.training:
            why = "in which every sample moves the others"
        else:
            continue
        raise ValueError(
            f"model: expected a transition that stays the same, got {name}, a "
            f"{type(module).__name__} in training mode, {why}; put it into evaluation mode with "
            "its .eval(), or noise on the input before it comes to the model"
        )


def _floating(parts: Sequence[nn.Module]) -> Tensor | None:
    """The first parameter that is no whole number, if there is one."""
    for part in parts:
        for parameter in part._parameters.values():
            if parameter is not None and parameter.is_floating_point():
                return parameter
    return None
