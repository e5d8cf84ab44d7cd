"""Files that `hpvade cvae train` keeps while it trains: the best model, a checkpoint now and then, TensorBoard tags."""

from pathlib import Path

import lightning.pytorch as lp
import torch

from ._checkpoint import read_checkpoint, write_checkpoint


class TrainingFiles(lp.Callback):
    """Write ``best_model.pt``, ``checkpoint_epoch_X.pt`` and the folder ``tensorboard``.

    The best model is the one with the lowest validation loss, without validation cells the last one.
    Files are replaced whole: after an error the last good ones are there.

    Parameters
    ----------
    folder
        Where to write.
    model
        The `ConditionalVAE` that is trained.
    every
        Epochs between checkpoints.
    """

    def __init__(self, folder, model, every: int = 10):
        self.folder, self.model, self.every = Path(folder), model, every
        self.best = float("inf")
        self._logger = lp.loggers.TensorBoardLogger(self.folder, name="", version="tensorboard")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Log every part of the loss of this step as ``train/<part>``."""
        parts = {f"train/{name}": float(value) for name, value in pl_module.module.parts.items()}
        self._logger.log_metrics(parts, step=trainer.global_step)

    def on_train_epoch_end(self, trainer, pl_module):
        """Log the epoch, and write what is due; Lightning validates before."""
        epoch, logged = trainer.current_epoch + 1, trainer.callback_metrics
        loss = float(logged.get("validation_loss", logged["train_loss"]))
        optimizer = trainer.optimizers[0]
        metrics = {"epoch/train_loss": float(logged["train_loss"]), "epoch/val_loss": loss}
        metrics["epoch/learning_rate"] = optimizer.param_groups[0]["lr"]
        self._logger.log_metrics(metrics, step=epoch)
        names = [f"checkpoint_epoch_{epoch}.pt"] * (epoch % self.every == 0)
        if loss < self.best or "validation_loss" not in logged:
            self.best = loss
            names.append("best_model.pt")
        for name in names:
            write_checkpoint(self.folder / name, self.model._checkpoint(epoch, loss, optimizer.state_dict()))

    def on_train_end(self, trainer, pl_module):
        """Close the event file."""
        self._logger.finalize("success")

    def finish(self) -> None:
        """Put into ``best_model.pt`` what is known after training only: where the cells of each condition lie."""
        path = self.folder / "best_model.pt"
        best = read_checkpoint(path)
        final = self.model._checkpoint(best["epoch"], best["val_loss"], best["optimizer_state_dict"])
        weights = final["model_state_dict"]
        if any(not torch.equal(value, weights[name]) for name, value in best["model_state_dict"].items()):
            raise RuntimeError(f"{path} is not the model that training ended with; was the folder used by another run?")
        write_checkpoint(path, final)
