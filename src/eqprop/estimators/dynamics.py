r"""How a nudged phase goes, and what its moves teach.

From the free steady state s_* a nudged phase takes K transitions s_0 = s_*, s_1 … s_K, and every
one of them is a part of the update::

    Δ_s(t) = (s_{t+1} − s_t) / (εβ)       Δ_θ(t) = (1/β) teaching(s_t, s_{t+1})

Estimators differ in the transition and in what a move teaches, and in nothing else:

===================================================  ======================  =======================
dynamics                                             s_{t+1}                 teaching
===================================================  ======================  =======================
:class:`Local`, EP's own                             F(s_t) + ε force        ∂/∂θ contrast
:class:`~eqprop.estimators.asymmetric.Asymmetric`    F(s_t) − (J − Jᵀ)(s_t   (∂F/∂θ(s_*))ᵀ (s_{t+1}
                                                     − s_*) + ε force        − s_t) / ε
:class:`~eqprop.estimators.dyadic.Adjoint`           s_* + Jᵀ(s_t − s_*)     the same
                                                     + ε force at s_*
:class:`~eqprop.estimators.holomorphic.Holomorphic`  F(s_t) + ε force,       Re ∂/∂θ contrast
                                                     β and s_t complex
===================================================  ======================  =======================

Summed over the phase they are the estimator's update; taken by the optimizer one by one, those of
its continual version; set beside −∇_s(t) and −∇_θ(t) of backpropagation through time, Theorem 1.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Container
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from eqprop.core.costs import Cost
from eqprop.core.linearised import Linearised
from eqprop.core.models import ConvergentModel, State, parameter_gradients
from eqprop.core.nudging import Nudge
from eqprop.core.settling import Relaxation
from eqprop.core.stepping import movement, transitions

__all__ = ["AroundRest", "Local", "NudgedDynamics", "pulled"]


class NudgedDynamics(ABC):
    """Transitions of a nudged phase, and what its moves teach.

    Args:
        model: whose F it is.
        x: the static input, (B, …).
        free: s_*.
    """

    name: ClassVar[str] = "EP"
    """What tables and figures call an estimator that goes by them."""

    error: ClassVar[str] = ""
    """What the error to BPTT does, whatever F is, with ``{beta}`` for β or β²; empty where that
    depends on F."""

    def __init__(self, model: ConvergentModel, x: Tensor, free: State) -> None:
        self._model, self._x, self._free = model, x, free

    @abstractmethod
    def step(self, drive: Any, state: State, force: Tensor | None = None) -> State:
        """One transition, with a force on the output layer."""

    @abstractmethod
    def teaching(
        self,
        before: State,
        after: State,
        anchor: State,
        scale: complex = 1.0,
        only: Container[str] | None = None,
    ) -> dict[str, Tensor]:
        """scale · what the move teaches, the batch mean, by parameter name.

        Args:
            before, after: the states compared.
            anchor: where a local rule differentiates a vector field.
            scale: 1/β, real where the states are.
            only: the parameters that are asked for; all that learn if not given.
        """

    def reading(self, cost: Cost, state: State, target: Tensor) -> dict[str, Tensor]:
        """∂/∂θ of the batch mean of ℓ(ŷ, y) in this state, for the parameters of a readout."""
        return self._model.readout_gradients(cost, state, target)

    def pulling(self, nudge: Nudge) -> Callable[[State], Tensor]:
        """The nudge as a function of the states of these dynamics."""
        return nudge

    def drive(self) -> Any:
        """What the static input alone decides, with the parameters of now."""
        return self._model.drive(self._x)

    def renew(self) -> None:  # noqa: B027 - where nothing is remembered, nothing is to be renewed
        """The parameters have moved."""

    @final
    def phase(
        self,
        drive: Any,
        steps: int,
        nudge: Nudge,
        update: Callable[[State, State], Any] | None = None,
    ) -> Relaxation:
        """K transitions from s_* under a nudge.

        Args:
            update: called after every transition, see :func:`~eqprop.core.stepping.transitions`.

        Raises:
            NonFiniteError: a state stopped being finite.
        """
        pull, start = self.pulling(nudge), self._free
        path = transitions(self, drive, start, steps, nudge=pull, update=update, phase=nudge.phase)
        before, after = deque(path, maxlen=1).pop()
        taken = torch.full((len(self._x),), steps, device=self._x.device)
        return Relaxation(after, taken, movement(before, after))

    @final
    def layer_name(self, index: int) -> str:
        """What messages call a layer."""
        return self._model.layer_name(index)


@final
class Local(NudgedDynamics):
    """The model's own transition and contrast: what EP does."""

    def step(self, drive: Any, state: State, force: Tensor | None = None) -> State:
        return self._model.step(drive, state, force)

    def teaching(
        self,
        before: State,
        after: State,
        anchor: State,
        scale: complex = 1.0,
        only: Container[str] | None = None,
    ) -> dict[str, Tensor]:
        return self._model.contrast_gradients(self._x, before, after, anchor, scale.real, only)


class AroundRest(NudgedDynamics):
    """Dynamics that look at F by its linearisation at s_*, and teach by (∂F/∂θ(s_*))ᵀ.

    Args:
        drive: ``model.drive(x)`` where the caller has it, made where gradients are enabled.
    """

    def __init__(self, model: ConvergentModel, x: Tensor, free: State, drive: Any = None) -> None:
        super().__init__(model, x, free)
        self._drive = drive
        self._around: Linearised | None = None

    @final
    def drive(self) -> Any:
        # Once, for the steps and for the linearisation, which gradients pass on to the parameters.
        if self._drive is None:
            with torch.enable_grad():
                self._drive = super().drive()
        return self._drive

    @property
    def around(self) -> Linearised:
        """F at s_*, with the parameters of now."""
        if self._around is None:
            self._around = Linearised(self._model, self.drive(), self._free)
        return self._around

    @final
    def renew(self) -> None:
        self._drive = self._around = None

    @final
    def moved(self, state: State) -> State:
        """s − s_*."""
        return tuple(s - free for s, free in zip(state, self._free, strict=True))

    @final
    def teaching(
        self,
        before: State,
        after: State,
        anchor: State,
        scale: complex = 1.0,
        only: Container[str] | None = None,
    ) -> dict[str, Tensor]:
        # Of a readout, which takes no part in F, this is 0.
        share = scale.real / (self._model.epsilon * len(self._x))
        moved = tuple((b - a) * share for a, b in zip(before, after, strict=True))
        return parameter_gradients(self._model, self.around.after, moved, only, keep=True)


def pulled(model: ConvergentModel, state: State, force: Tensor | None) -> State:
    """state + ε · force, the force on the output layers: a nudge of the transition as a whole."""
    forces = model.forces_on_layers(force)
    return tuple(
        layer.add(forces[i], alpha=model.epsilon) if i in forces else layer
        for i, layer in enumerate(state)
    )
