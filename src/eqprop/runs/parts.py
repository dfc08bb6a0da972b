r"""Where a mini-batch goes: its parts, told apart by what the estimator calls.

========================  ==========================================================================
part                      from the call of … on
========================  ==========================================================================
``drive``                 ``model.drive``, what the static input alone decides
``free_phase``            ``model.step`` without a nudge
``nudged_phase``          ``model.step`` under one
``differentiated_phase``  ``model.step`` where autograd records it, and the way back through it
``gradient``              ``model.contrast_gradients``, or the rule of ``model.learning_rule``,
                          which under plain gradient descent moves the weights at once
``optimizer``             ``optimizer.step``
``other``                 what comes before the first of them
========================  ==========================================================================

Parts do not overlap, and together are the whole. A phase goes on until something else is called:
looking for samples that rest, and making the mini-batch smaller, are part of it. What is called
within a phase, such as the learning rule after every step of continual updates, is a part of its
own and interrupts it; what one of the other calls within itself is not told apart.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, final

import torch
from torch import Tensor

from eqprop.core.models import ConvergentModel, LearningRule, State

__all__ = ["Part", "Parts", "watched"]

Part = Literal[
    "drive",
    "free_phase",
    "nudged_phase",
    "differentiated_phase",
    "gradient",
    "optimizer",
    "other",
]


@final
class Parts:
    """What each part has taken of something that a meter shows: seconds, or operations.

    Args:
        meter: shows how much has been taken so far.

    Attributes:
        taken: by part; those that never began are absent.
        calls: how often each was called, in a phase once for every step.
    """

    def __init__(self, meter: Callable[[], float]) -> None:
        self.taken: dict[Part, float] = {}
        self.calls: dict[Part, int] = {}
        self._meter = meter
        self._part: Part = "other"
        self._within = False
        self._since = meter()

    def to(self, part: Part) -> None:
        """What is taken from now on is this part's."""
        if part == self._part:
            return
        now = self._meter()
        self.taken[self._part] = self.taken.get(self._part, 0.0) + now - self._since
        self._part, self._since = part, now

    def end(self) -> None:
        """Nothing more is to come."""
        self.taken[self._part] = self.taken.get(self._part, 0.0) + self._meter() - self._since

    def begin(self) -> None:
        """Another mini-batch begins."""
        self.to("other")

    def step(self, original: Callable[..., State], drive: Any, state: State, *force: Any) -> State:
        """Take a step as a part of its phase."""
        if not self._within:
            part: Part = "free_phase"
            if any(pull is not None for pull in force):
                part = "nudged_phase"
            elif torch.is_grad_enabled():
                part = "differentiated_phase"
            self.to(part)
            self.calls[part] = self.calls.get(part, 0) + 1
        return original(drive, state, *force)

    def call(self, part: Part, original: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Call something as a part of its own, after which goes on what it interrupts."""
        if self._within:
            return original(*given, **named)
        interrupted = self._part
        self.to(part)
        self.calls[part] = self.calls.get(part, 0) + 1
        self._within = True
        try:
            return original(*given, **named)
        finally:
            self._within = False
            self.to(interrupted)


@contextmanager
def watched(
    model: ConvergentModel, optimizer: torch.optim.Optimizer, meter: Callable[[], float]
) -> Iterator[Parts]:
    """Within it, what is called of these two is told apart; afterwards they are as they were.

    Args:
        meter: what is to be split up, see :class:`Parts`.
    """
    parts = Parts(meter)
    learning_rule = model.learning_rule

    def watched_rule(x: Tensor, rates: Any) -> LearningRule:
        return partial(parts.call, "gradient", learning_rule(x, rates))

    with ExitStack() as stack:
        for of, name, instead in (
            (model, "step", partial(parts.step, model.step)),
            (model, "drive", partial(parts.call, "drive", model.drive)),
            (
                model,
                "contrast_gradients",
                partial(parts.call, "gradient", model.contrast_gradients),
            ),
            (model, "learning_rule", watched_rule),
            (optimizer, "step", partial(parts.call, "optimizer", optimizer.step)),
        ):
            stack.enter_context(_replaced(of, name, instead))
        yield parts
        parts.end()


@contextmanager
def _replaced(of: Any, name: str, instead: Any) -> Iterator[None]:
    """An object has another method for a while."""
    own = vars(of)
    # Most objects have it from their class; of some, a scheduler has replaced it before.
    earlier = {name: own[name]} if name in own else {}
    own[name] = instead
    try:
        yield
    finally:
        del own[name]
        own.update(earlier)
