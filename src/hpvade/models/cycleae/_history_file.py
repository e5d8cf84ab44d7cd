"""The history of a training run as a file that grows by one row per epoch."""

from pathlib import Path

import lightning.pytorch as lp
import pandas as pd

from ...io._atomic import install_file, partial


class HistoryFile(lp.Callback):
    """Write the logged values of every epoch to a CSV file; a resumed run replaces the epochs that it repeats.

    Parameters
    ----------
    path
        The file; its column ``epoch`` counts from 0.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def on_train_epoch_end(self, trainer, pl_module):
        """Add a row."""
        row = {"epoch": trainer.current_epoch} | {k: float(v) for k, v in trainer.callback_metrics.items()}
        earlier = pd.read_csv(self.path) if self.path.exists() else pd.DataFrame({"epoch": []})
        table = pd.concat([earlier[earlier["epoch"] < row["epoch"]].astype({"epoch": int}), pd.DataFrame([row])])
        with partial(self.path) as part:
            table.to_csv(part, index=False)
            install_file(part, self.path)
