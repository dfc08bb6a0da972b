r"""Convergent models: recurrent networks with a static input that settle to a steady state.

A model is one transition, s_{t+1} = F(x, s_t, θ), of a state s = (s¹ … sᴺ): one tensor per layer,
batch first, input side first, the output layer last. In the nudged phase the output layer also
receives a force −β ∂ℓ/∂s, added outside the activation::

    s_{t+1} = clip(σ(f(x, s_t, θ)) + ε · force)

with a field f, and optionally an activation σ, a time step ε and clipping. Or the nudge acts
*inside* the activation, σ(f + ε · force).

=========================  ================================================  ===============
kind                       what a user writes                                field f
=========================  ================================================  ===============
:class:`PrimitiveModel`    a primitive function ``phi(x, state) -> (B,)``    ∂Φ/∂s
:class:`EnergyModel`       an energy ``energy(x, state) -> (B,)``            s − ε ∂E/∂s
:class:`VectorFieldModel`  ``field(x, state) -> state``                      itself
=========================  ================================================  ===============

With no activation and no clipping, a primitive model is *exact*: F is the gradient of Φ, and the
theory holds to first order in β. With an activation (the *prototypical* setting) it is approximate.

Every model gives one scalar per sample whose θ-gradient is its local learning rule::

    contrast(x, before, after, anchor) = Φ(after) − Φ(before)             primitive models
                                       = ⟨f(anchor), after − before⟩      vector fields

both divided by ε, so that Δθ = (1/β) ∂/∂θ contrast with β the continuous-time one (for ε = 1,
the discrete one).

What the network says, ŷ, is the output layer itself, or what a *readout* makes of it outside of the
dynamics, such as ŷ = W s^N + b. A readout feels no nudge itself; its vjp hands −β ∂ℓ/∂ŷ on to the
output layer, −β Wᵀ ∂ℓ/∂ŷ. Together they are the primitive function Φ_β = Φ − β ℓ(ŷ, y), so that W
learns by the same difference, (1/β) ∂/∂W (Φ_β(s_*^β) − Φ_0(s_*)) = −∂ℓ/∂W at s_*^β, and by the mean
of both where the nudge is symmetric.

Source: Ernoult et al., "Updates of Equilibrium Prop Match Gradients of Backprop Through Time in an
RNN with Static Input", https://arxiv.org/abs/1905.13633; "Equilibrium
Propagation with Continual Weight Updates", https://arxiv.org/abs/2005.04168, for vector fields;
Laborieux et al., https://arxiv.org/abs/2006.03824, for readouts and nudges inside the activation.
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Literal, NoReturn, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from eqprop.core.activations import Rho, as_activation
from eqprop.core.costs import Cost, require_per_sample
from eqprop.core.derivative import derivative
from eqprop.core.sizes import described, require_number, require_whole

__all__ = [
    "ConvergentModel",
    "EnergyModel",
    "Jacobian",
    "LearningRule",
    "NudgePlace",
    "PrimitiveModel",
    "State",
    "VectorFieldModel",
    "half_square_norm",
    "own_memory",
    "parameter_gradients",
]

State = tuple[Tensor, ...]
"""One tensor (B, …) per layer, input side first, the output layer last."""

NudgePlace = Literal["outside", "inside"]
"""Whether a nudge is added to what the activation gives, or to what it is given."""

_READOUT = "readout."
"""What the names of the parameters of a readout begin with."""

_HALVES = {torch.bfloat16, torch.float16}

LearningRule = Callable[[State, State, State, float], None]
"""learn(before, after, anchor, scale), see :meth:`ConvergentModel.learning_rule`."""


class Jacobian(Protocol):
    """J at a state, and F there."""

    @property
    def after(self) -> State:
        """F(state)."""
        ...

    def times(self, v: State, /) -> State:
        """J v."""
        ...

    def transposed(self, v: State, /) -> State:
        """Jᵀ v."""
        ...


class ConvergentModel(nn.Module, ABC):
    """s_{t+1} = clip(σ(f(x, s_t, θ)) + ε · force).

    Args:
        shapes: the shape of each layer's state without the batch, input side first, the output
            layer last; an ``int`` stands for a vector of that size. The input is not a layer.
        outputs: how many of the last layers are outputs; several lie side by side, flattened, in
            what the network says and is nudged to.
        activation: σ; none makes the transition the field itself.
        epsilon: the time step ε > 0 by which a nudging force is multiplied; 1 in discrete time.
        clip: the interval every state is kept in; none leaves it free.
        readout: what makes ŷ of the output layer, (B, units) whatever its shape, outside of the
            dynamics; none for the output layer itself.
        nudge: whether a nudge acts outside or inside the activation.

    Raises:
        TypeError: a time step, or an end of the interval, that is no number; a readout that is no
            module.
        ValueError: no layer, an empty layer, ε ≤ 0, an empty interval, an unknown activation, a
            readout that does not fit the output layer.
    """

    readout: nn.Module
    """There only if ``has_readout``; whatever else a model calls so is its own affair."""

    has_readout = False

    def __init__(
        self,
        shapes: Sequence[int | Sequence[int]],
        *,
        outputs: int = 1,
        activation: Rho | None = None,
        epsilon: float = 1.0,
        clip: tuple[float, float] | None = None,
        readout: nn.Module | None = None,
        nudge: NudgePlace = "outside",
    ) -> None:
        super().__init__()
        self.shapes = tuple(
            tuple(require_whole("shapes", *(s if isinstance(s, Sequence) else [s]))) for s in shapes
        )
        if not self.shapes or any(size < 1 for shape in self.shapes for size in shape):
            raise ValueError(f"shapes: expected layers of at least one unit, got {tuple(shapes)}")
        (self.output_layers,) = require_whole("outputs", outputs)
        if not 1 <= self.output_layers <= len(self.shapes):
            raise ValueError(
                f"outputs: expected 1 to {len(self.shapes)} of the last layers, got {outputs}"
            )
        self.epsilon = require_number("epsilon", epsilon)
        if not 0 < self.epsilon < float("inf"):
            raise ValueError(f"epsilon: expected a time step > 0, got {epsilon}")
        self.activation = None if activation is None else as_activation(activation)
        self.clip = None if clip is None else _interval(clip)
        if nudge not in get_args(NudgePlace):
            raise ValueError(
                f"nudge: expected one of {', '.join(get_args(NudgePlace))}, got {nudge!r}"
            )
        self.nudge_place: NudgePlace = nudge
        self.has_readout = readout is not None
        self._read_shape: tuple[int, ...] = ()
        if readout is not None:
            units = sum(map(math.prod, self.shapes[-self.output_layers :]))
            self._read_shape = _shape_read(readout, units)
            self.readout = readout

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of ŷ, without the batch."""
        if self.has_readout:
            return self._read_shape
        if self.output_layers == 1:
            return self.shapes[-1]
        return (sum(map(math.prod, self.shapes[-self.output_layers :])),)

    def prediction(self, state: State) -> Tensor:
        """ŷ, what the network says in this state, (B, …): of the output layer, or of the readout
        that looks at it."""
        units = self._output_units(state)
        return self.readout(units.flatten(1)) if self.has_readout else units

    def _output_units(self, state: State) -> Tensor:
        if self.output_layers == 1:
            return state[-1]
        return torch.cat([layer.flatten(1) for layer in state[-self.output_layers :]], 1)

    def pull_back(self, state: State, gradient: Tensor) -> Tensor:
        """∂ℓ/∂s of the output layer from ∂ℓ/∂ŷ: handed back through the readout, if there is one.

        Raises:
            ValueError: a readout through which autograd finds no way back.
        """
        if not self.has_readout:
            return gradient
        if type(self.readout) is nn.Linear and not parametrize.is_parametrized(self.readout):
            return gradient @ self.readout.weight
        return derivative(self.readout, (self._output_units(state).flatten(1),), gradient)[0]

    def readout_gradients(
        self, cost: Cost, state: State, target: Tensor, only: Container[str] | None = None
    ) -> dict[str, Tensor]:
        """∂/∂θ of the batch mean of ℓ(ŷ, y) in this state, for the parameters of the readout.

        Nothing if there is none. By the names that they have in the model. Of complex states and
        parameters that of the real part.
        """
        if not self.has_readout:
            return {}
        names = {
            name: p
            for name, p in self.named_parameters()
            if name.startswith(_READOUT) and p.requires_grad and (only is None or name in only)
        }
        if not names:
            return {}
        torch.clear_autocast_cache()
        with torch.enable_grad():
            mean = cost(self.prediction(tuple(layer.detach() for layer in state)), target).mean()
            gradients = torch.autograd.grad(mean.real, [*names.values()], materialize_grads=True)
        return own_memory(dict(zip(names, gradients, strict=True)))

    def forces_on_layers(self, force: Tensor | None) -> dict[int, Tensor]:
        """What pulls at each output layer, by its number, of what pulls at ŷ."""
        if force is None:
            return {}
        if self.output_layers == 1:
            # A readout sees, and pulls at, all units in one row.
            pulled = force.reshape(len(force), *self.shapes[-1]) if self.has_readout else force
            return {len(self.shapes) - 1: pulled}
        shapes = self.shapes[-self.output_layers :]
        parts = force.split([math.prod(shape) for shape in shapes], 1)
        first = len(self.shapes) - self.output_layers
        return {
            first + index: part.reshape(len(part), *shape)
            for index, (part, shape) in enumerate(zip(parts, shapes, strict=True))
        }

    @property
    def steps_to_arrive(self) -> int:
        """After how many transitions at most a nudge of the output has come to every layer."""
        return len(self.shapes)

    @property
    def architecture(self) -> dict[str, Any]:
        """What the model is besides its parameters, as JSON can hold it: a checkpoint of one that
        is something else is refused."""
        return {
            "model": type(self).__name__,
            "shapes": self.shapes,
            "activation": None if self.activation is None else self.activation.name,
            "clip": self.clip,
            **({"readout": str(self.readout)} if self.has_readout else {}),
            "nudge": self.nudge_place,
        }

    def require_intact(self) -> None:
        """Refuse a model some part of which was taken out or exchanged since it was made.

        Called once for every mini-batch.

        Raises:
            ValueError: says which part does not fit the others.
        """

    def forward(self, x: Tensor, free_steps: int = 1000, tolerance: float | None = 1e-4) -> Tensor:
        """The output layer at the free steady state, (B, …): what ``model(x)`` gives.

        No gradient flows through it; for that there are the estimators.

        Args:
            x: the static input, (B, …).
            free_steps: the most transitions of a sample.
            tolerance: every sample stops where no unit of it moves by more than this, times ε, in
                one transition; none takes all ``free_steps``.

        Warns:
            UserWarning: samples that did not come to rest.
        """
        # The phases are made of models: only here, once it is used, does it go the other way round.
        from eqprop import core

        with torch.no_grad():
            free = core.relax(self, x, free_steps, tolerance=tolerance)
        restless = len(x) - int(free.rests().sum()) if tolerance is not None else 0
        if restless:
            warnings.warn(
                f"{restless} of {len(x)} samples did not come to rest within {free_steps} steps: "
                "take more of them, alternating updates, or a larger tolerance",
                stacklevel=2,
            )
        return self.prediction(free.state)

    def predict(self, x: Tensor, free_steps: int = 1000, tolerance: float | None = 1e-4) -> Tensor:
        """The class of every sample, (B,): the largest output at the free steady state.

        Args:
            x: the static input, (B, …).
            free_steps, tolerance: as for :meth:`forward`.

        Warns:
            UserWarning: samples that did not come to rest.
        """
        return self(x, free_steps, tolerance).flatten(1).argmax(1)

    def _refuse_backward_hooks(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__}: expected no hook of backward, which no estimator calls; "
            "change .grad after it, or give the optimizer a hook with register_step_pre_hook"
        )

    def register_forward_pre_hook(self, hook: Any, **options: Any) -> Any:
        """As of every module, for ``model(x)``; but nothing else would call what renews a weight.

        Raises:
            TypeError: pruning, or the old ``weight_norm`` or ``spectral_norm``, of a parameter of
                the model itself.
        """
        if type(hook).__module__.startswith("torch.nn.utils"):
            pruned = getattr(hook, "_tensor_name", None)
            if pruned is not None:
                # As prune found it, or its own clean-up would fail, and be what one reads.
                delattr(self, pruned)
                del self._buffers[f"{pruned}_mask"]
            raise TypeError(
                f"{type(self).__name__}: expected no {type(hook).__name__} of the model itself, "
                "whose weight nothing would renew in a step; use torch.nn.utils.parametrize or "
                "torch.nn.utils.parametrizations"
            )
        return super().register_forward_pre_hook(hook, **options)

    register_full_backward_hook = _refuse_backward_hooks
    register_full_backward_pre_hook = _refuse_backward_hooks
    register_backward_hook = _refuse_backward_hooks

    def drive(self, x: Tensor) -> Any:
        """What depends on the static input alone, computed once per relaxation: here x itself."""
        return x

    def part(self, drive: Any, x: Tensor, rows: Tensor) -> Any:
        """The drive of some of the samples, by their numbers: here computed anew.

        Override it where it can be had from ``drive``, that of all of them.
        """
        return self.drive(x.index_select(0, rows))

    @abstractmethod
    def field(self, drive: Any, state: State) -> State:
        """f(x, s, θ), one tensor per layer; ``drive`` is what :meth:`drive` returned."""

    def jacobian(self, drive: Any, state: State) -> Jacobian | None:
        """J = ∂F/∂s of the step at this state, where its products are written out; of most models
        autograd finds them, see :mod:`eqprop.core.linearised`."""
        return None

    @abstractmethod
    def contrast(self, x: Tensor, before: State, after: State, anchor: State) -> Tensor:
        """One value per sample, (B,), whose θ-gradient ÷ β is the local learning rule.

        ``before`` and ``after`` are the two states compared, ``anchor`` the one at which a vector
        field is differentiated: the free steady state for EP, the earlier state for continual EP.
        """

    def initial_state(self, x: Tensor) -> State:
        """s₀ = 0 for every sample of x, (B, …)."""
        return tuple(x.new_zeros((len(x), *shape)) for shape in self.shapes)

    def step(self, drive: Any, state: State, force: Tensor | None = None) -> State:
        """One transition; ``force``, −β ∂ℓ/∂s (B, …), nudges the output layer."""
        field = self.field(drive, state)
        if isinstance(field, Tensor):
            # Its samples would be taken for layers.
            raise self._no_field(field)
        try:
            # A field of another number of layers is for those to refuse who ask for the step.
            pairs = zip((*state, *field[len(state) :]), field, strict=False)
            if self.output_layers == 1 and not self.has_readout:
                forces = {len(field) - 1: force}
            else:
                forces = dict[int, Tensor | None](self.forces_on_layers(force))
            return tuple(self.move(i, s, f, forces.get(i)) for i, (s, f) in enumerate(pairs))
        except (TypeError, AttributeError):
            if isinstance(field, tuple | list) and all(isinstance(f, Tensor) for f in field):
                raise
            raise self._no_field(field) from None

    def _no_field(self, field: Any) -> TypeError:
        if isinstance(field, Tensor):
            inside = [f"one tensor, of shape {tuple(field.shape)}"]
        else:
            inside = (
                map(described, field) if isinstance(field, tuple | list) else [described(field)]
            )
        return TypeError(
            f"{type(self).__name__}.field: expected a tuple of one tensor for every layer, got "
            f"{', '.join(inside)}"
        )

    def advance(self, field: Tensor, force: Tensor | None = None) -> Tensor:
        """clip(σ(field) + ε · force): the next state of a layer from its field; a force that acts
        inside is added to the field."""
        if field.dtype in _HALVES and torch.is_autocast_enabled(field.device.type):
            # EP lives on small differences of states: products may be rough, they may not.
            field = field.float()
        if force is not None and self.nudge_place == "inside":
            field, force = torch.add(field, force, alpha=self.epsilon), None
        after = field if self.activation is None else self.activation(field)
        if force is not None:
            after = torch.add(after, force, alpha=self.epsilon)
        return after if self.clip is None else after.clamp(*self.clip)

    def move(self, layer: int, state: Tensor, field: Tensor, force: Tensor | None) -> Tensor:
        """The next state of a layer; devices that are not as they should be add here what they do.

        Args:
            layer: its number, from 0.
            state, field: of the layer, (B, …).
            force: as for :meth:`advance`.
        """
        return self.advance(field, force)

    def contrast_gradients(
        self,
        x: Tensor,
        before: State,
        after: State,
        anchor: State,
        scale: float = 1.0,
        only: Container[str] | None = None,
    ) -> dict[str, Tensor]:
        """scale · ∂/∂θ of the batch mean of :meth:`contrast`, by parameter name, by autograd.

        Parameters that do not require a gradient are left out, and those not among ``only``, if it
        is given; one on which the contrast does not depend has a gradient of zero.
        """
        # Where autocast has rounded a weight without gradients, none would come back through it.
        torch.clear_autocast_cache()
        with torch.enable_grad():
            mean = self.contrast(x, before, after, anchor).mean() * scale
        found = parameter_gradients(self, (mean,), only=only)
        if not self.has_readout:
            return found
        return {name: g for name, g in found.items() if not name.startswith(_READOUT)}

    def learning_rule(self, x: Tensor, rates: Mapping[str, float]) -> "LearningRule":
        """What moves the parameters: θ ← θ + η · scale · ∂/∂θ of the batch mean of the contrast.

        Args:
            x: the static input, (B, …).
            rates: η, by parameter name; the others stay.

        Returns:
            A function of before, after, anchor and the scale, 1/β.
        """
        parameters = {
            name: p
            for name, p in self.named_parameters()
            if name in rates and not (self.has_readout and name.startswith(_READOUT))
        }

        @torch.no_grad()
        def learn(before: State, after: State, anchor: State, scale: float) -> None:
            gradients = self.contrast_gradients(x, before, after, anchor, scale, parameters)
            for name, gradient in gradients.items():
                parameters[name].add_(gradient, alpha=rates[name])

        return learn

    def extra_repr(self) -> str:
        """What ``print(model)`` says besides its parts: layers, ρ, ε and clipping."""
        layers = ", ".join("×".join(map(str, shape)) for shape in self.shapes)
        rho = "" if self.activation is None else f", ρ={self.activation.name}"
        clip = "none" if self.clip is None else "[{:g}, {:g}]".format(*self.clip)
        outputs = f", outputs={self.output_layers}" * (self.output_layers > 1)
        outputs += ", nudge=inside" * (self.nudge_place == "inside")
        return f"layers=[{layers}]{outputs}{rho}, ε={self.epsilon:g}, clip={clip}"

    def layer_name(self, index: int) -> str:
        """What messages call a layer of the state."""
        output = index - (len(self.shapes) - self.output_layers)
        if output < 0:
            return f"hidden layer {index + 1}"
        return "output layer" if self.output_layers == 1 else f"output layer {output + 1}"

    def parameter_label(self, name: str) -> str:
        """What tables and figures call a parameter: here the name that torch has for it."""
        return name

    def parameter_name(self, name: str) -> str:
        """What messages call it: the same, and by which name torch has it."""
        label = self.parameter_label(name)
        return f"parameter {name}" if label == name else f"the {label} ({name})"


class PrimitiveModel(ConvergentModel):
    """F = σ(∂Φ/∂s) for a primitive function Φ(x, s, θ): write :meth:`phi`, nothing else.

    The derivatives come from autograd (so run it under ``torch.no_grad``, never under
    ``torch.inference_mode``). A subclass may override :meth:`drive` with what x alone decides,
    which :meth:`phi` then receives for x, and :meth:`field` and :meth:`contrast_gradients` with
    explicit formulas that agree with autograd.

    Example: a Hopfield-like network of your own::

        class Mine(PrimitiveModel):
            def __init__(self):
                super().__init__([32, 10], activation="tanh")
                self.a = nn.Linear(64, 32)
                self.b = nn.Linear(32, 10)

            def phi(self, x, state):
                hidden, output = state
                return (hidden * self.a(x)).sum(1) + (output * self.b(hidden)).sum(1)
    """

    @abstractmethod
    def phi(self, x: Tensor, state: State) -> Tensor:
        """Φ(x, s, θ) for every sample: x (B, …), or what :meth:`drive` made of it, and state give
        (B,)."""

    def field(self, drive: Any, state: State) -> State:
        """∂Φ/∂s by autograd; differentiable itself where gradients are enabled.

        Raises:
            ValueError: phi does not return one value per sample.
        """
        samples = len(state[0])
        return derivative(
            lambda *at: require_per_sample("phi", self.phi(drive, at), samples), state
        )

    def contrast(self, x: Tensor, before: State, after: State, anchor: State) -> Tensor:
        """(Φ(after) − Φ(before)) / ε; the anchor plays no part."""
        drive = self.drive(x)
        return (self.phi(drive, after) - self.phi(drive, before)) / self.epsilon


class EnergyModel(PrimitiveModel):
    """Real-time dynamics of an energy: s ← clip(s − ε ∂E/∂s − ε β ∂ℓ/∂s). Write :meth:`energy`.

    It is the primitive model of Φ = ½‖s‖² − ε E. Its learning rule is −∂E/∂θ, with β the
    continuous-time one.

    Args:
        shapes: as for :class:`ConvergentModel`.
        epsilon: the time step ε > 0 of Euler's method.
        clip: the interval every state is kept in; none leaves it free.
    """

    def __init__(
        self,
        shapes: Sequence[int | Sequence[int]],
        *,
        epsilon: float,
        clip: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(shapes, epsilon=epsilon, clip=clip)

    @abstractmethod
    def energy(self, x: Tensor, state: State) -> Tensor:
        """E(x, s, θ) for every sample: x (B, …) and state give (B,)."""

    def phi(self, x: Tensor, state: State) -> Tensor:
        """Φ = ½‖s‖² − ε E."""
        energy = require_per_sample("energy", self.energy(x, state), len(state[0]))
        return half_square_norm(state) - self.epsilon * energy


class VectorFieldModel(ConvergentModel):
    """F = σ(f(x, s, θ)) for any vector field f: write :meth:`field`, nothing else.

    The learning rule is Δθ = (1/β) (∂f/∂θ(anchor))ᵀ (after − before) (VF and
    C-VF in 2005.04168). With an activation, f is the pre-activation.
    """

    def contrast(self, x: Tensor, before: State, after: State, anchor: State) -> Tensor:
        """⟨f(anchor), after − before⟩ / ε."""
        field = self.field(self.drive(x), anchor)
        products = (
            (f * (a - b)).flatten(1).sum(1) for f, a, b in zip(field, after, before, strict=True)
        )
        return torch.stack(tuple(products)).sum(0) / self.epsilon


def _shape_read(readout: nn.Module, units: int) -> tuple[int, ...]:
    """The shape of what a readout makes of the output layer, without the batch."""
    if not isinstance(readout, nn.Module):
        raise TypeError(
            f"readout: expected a module such as nn.Linear({units}, 10), got {described(readout)}"
        )
    parameters = list(readout.parameters())
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in parameters):
        raise ValueError(
            f"readout: expected one that knows its sizes, got {readout}; call it once before, on "
            f"zeros (1, {units}), or give the sizes, as nn.Linear({units}, 10) does"
        )
    like = next((p for p in parameters if p.is_floating_point()), torch.empty(0))
    training = [module for module in readout.modules() if module.training]
    try:
        # Dropout and batch normalisation in training mode are refused when they are used.
        readout.eval()
        with torch.no_grad():
            said, alone = (readout(like.new_zeros(count, units)) for count in (2, 1))
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"readout: expected one that takes the {units} units of the output layer, (B, {units})"
            f", got {readout}, which says: {str(error).splitlines()[0]}"
        ) from None
    finally:
        for module in training:
            module.training = True
    if isinstance(said, Tensor) and said.dim() > 1 and len(said) == 2:
        if not torch.allclose(said[:1], alone, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise ValueError(
                f"readout: expected one that looks at every sample alone, got {readout}, whose "
                "output depends on the others; a softmax goes over dimension 1"
            )
    else:
        got = tuple(said.shape) if isinstance(said, Tensor) else described(said)
        raise ValueError(f"readout: expected what it says of every sample, (B, …), got {got}")
    return tuple(said.shape[1:])


def _interval(clip: object) -> tuple[float, float]:
    if isinstance(clip, Sequence) and not isinstance(clip, str) and len(clip) == 2:
        low, high = (require_number("clip", end) for end in clip)
        if low < high:
            return low, high
    raise ValueError(f"clip: expected an interval (low, high) with low < high, got {clip!r}")


def parameter_gradients(
    model: nn.Module,
    outputs: Sequence[Tensor],
    weights: Sequence[Tensor] | None = None,
    only: Container[str] | None = None,
    *,
    keep: bool = False,
) -> dict[str, Tensor]:
    """Σ ⟨weight, ∂output/∂θ⟩ by autograd, by the names of the parameters that require a gradient.

    Zero where nothing depends on a parameter. With ``only``, the others are left out. With
    ``keep``, it can be asked for again.
    """
    trained = {
        name: p
        for name, p in model.named_parameters()
        if p.requires_grad and (only is None or name in only)
    }
    live = [index for index, output in enumerate(outputs) if output.requires_grad]
    if not trained or not live:
        return {name: torch.zeros_like(p) for name, p in trained.items()}
    gradients = torch.autograd.grad(
        [outputs[index] for index in live],
        list(trained.values()),
        None if weights is None else [weights[index] for index in live],
        retain_graph=keep,
        materialize_grads=True,
    )
    return own_memory(dict(zip(trained, gradients, strict=True)))


def own_memory(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same, each with memory of its own, as a ``.grad`` has."""
    owned: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, gradient in gradients.items():
        shared = gradient.data_ptr() in seen or not gradient.is_contiguous()
        # Zeros that stand for no gradient require one in some versions of torch.
        owned[name] = gradient.clone() if shared else gradient.detach()
        seen.add(gradient.data_ptr())
    return owned


def half_square_norm(state: State) -> Tensor:
    """½‖s‖² over all layers, per sample."""
    return 0.5 * torch.stack([s.square().flatten(1).sum(1) for s in state]).sum(0)
