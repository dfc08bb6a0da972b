"""What one looks at while a training of one's own goes on."""

from __future__ import annotations

from typing import Any, final

from tqdm.auto import tqdm

from eqprop.training.loop import Running

__all__ = ["ProgressBar"]


@final
class ProgressBar:
    """How far an epoch has come, with its train error so far: ``train(…, on_batch=ProgressBar())``.

    In Jupyter a bar of the page (with the package ipywidgets), elsewhere one on standard error. It
    appears once an epoch has taken a second, and is gone when its mini-batches are. Of several
    processes that share them give it to one: all see the same. What tqdm reads from the
    environment holds for it: ``TQDM_DISABLE=1`` shows none.
    """

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, running: Running) -> None:
        """A mini-batch is done, of the epoch or of its test."""
        if running.tested:
            self._close()
            return
        if self._bar is None:
            self._bar = tqdm(
                total=running.batches,
                initial=running.batch - 1,
                desc=f"epoch {running.epoch}",
                unit="batch",
                leave=False,
                dynamic_ncols=True,
                delay=1,
            )
        # To ask for the error waits for the device, so only where it is shown.
        if self._bar.update():
            self._bar.set_postfix_str(f"error {running.train_error:.2f} %", refresh=False)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
