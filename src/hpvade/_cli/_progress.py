"""Progress of a training: a bar when somebody watches, else now and then a line on stderr."""

import sys
import time

from ._run import current, say

EVERY_SECONDS = 10.0


def training_options() -> dict:
    """Arguments of `train` that show how far it is."""
    run = current()
    if run is not None and run.quiet:
        return {"enable_progress_bar": False}
    if sys.stdout.isatty() and not (run is not None and run.as_json):
        return {"enable_progress_bar": True}
    return {"enable_progress_bar": False, "callbacks": [_lines()]}


def _lines():
    import lightning.pytorch as lp

    class Lines(lp.Callback):
        """A line after the first epoch, every ten seconds, and at the end."""

        def __init__(self):
            self._start = self._said = time.monotonic()

        def on_train_epoch_end(self, trainer, pl_module) -> None:
            now, epoch = time.monotonic(), trainer.current_epoch + 1
            if epoch == 1 or now - self._said >= EVERY_SECONDS:
                self._said = now
                say("progress", f"epoch {epoch} of {trainer.max_epochs}, {now - self._start:.0f} s")

        def on_train_end(self, trainer, pl_module) -> None:
            seconds = time.monotonic() - self._start
            say("progress", f"trained for {trainer.current_epoch} epochs, {seconds:.0f} s")

    return Lines()
