"""What ``eqprop bench`` measures presets with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from eqprop.registries import ESTIMATORS
from eqprop.settings import Experiment, Settings, device, different, preset, setting, whole

__all__ = ["OVERRIDES", "BenchSettings"]

OVERRIDES = (
    "batch_size",
    "cost",
    "dataset",
    "dtype",
    "epsilon",
    "free_steps",
    "hidden",
    "learning_rates",
    "links",
    "nudge",
    "nudged_steps",
    "nudging",
    "readout",
    "tolerance",
    "updates",
)
"""Settings of the presets that may be changed."""


@final
@dataclass(frozen=True, kw_only=True)
class BenchSettings(Settings):
    """What to measure presets with.

    Raises:
        ConfigurationError: a setting outside what is allowed.
    """

    estimator: tuple[str, ...] = setting(
        (),
        "each in a row of its own",
        choices=ESTIMATORS,
        allowed=different("every name once", lambda _: True),
        shown="as in the preset",
    )
    device: str = setting("cpu", "cpu, cuda or cuda:N", allowed=device())
    threads: tuple[int, ...] = setting(
        (1,),
        "CPU threads; each number in a row of its own",
        allowed=different("different whole numbers from 1 to 1024", lambda n: 1 <= n <= 1024),
    )
    train_batches: int = setting(
        200,
        "mini-batches to train on before, by the preset's own recipe; none of random pixels",
        allowed=whole(0, 10**6),
    )

    def rows(
        self, presets: Sequence[str], changes: Mapping[str, Any]
    ) -> list[tuple[str, Experiment]]:
        """The preset and the experiment of every row.

        Args:
            changes: other settings than those of the presets.
        """
        return [
            (
                name,
                preset(name).override(
                    {
                        **changes,
                        "device": self.device,
                        "threads": threads,
                        "estimator": estimator,
                    }
                ),
            )
            for name in presets
            for estimator in self.estimator or (preset(name).estimator,)
            for threads in self.threads or (1,)
        ]
