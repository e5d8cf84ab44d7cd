"""Train a model, or load one."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ._errors import UsageError
from ._io import BLOOD, check_input, read_bulk
from ._progress import training_options
from ._run import current

if TYPE_CHECKING:
    from anndata import AnnData

    from ..models.hpvade._model import HPVADE


def quiet() -> None:
    """Keep the notes of the training libraries off the terminal; after their import, which sets the levels."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "scvi"):
        logging.getLogger(name).setLevel(logging.WARNING)


def fit(
    adata: "AnnData",
    *,
    labels_key: str,
    layer: str | None = None,
    sample_key: str | None = None,
    batch_key: str | None = None,
    study_key: str | None = None,
    n_cells_key: str | None = None,
    preset: str = "default",
    epochs: int | None = None,
    seed: int = 0,
    accelerator: str = "auto",
) -> "HPVADE":
    """A model trained on `adata`, with a progress bar when somebody watches."""
    import scvi

    from ..models.hpvade._model import HPVADE

    quiet()
    scvi.settings.seed = seed
    keys = {"batch_key": batch_key, "sample_key": sample_key, "study_key": study_key, "n_cells_key": n_cells_key}
    HPVADE.setup_anndata(adata, labels_key, layer=layer, **keys)
    model = HPVADE(adata, preset=preset)
    model.train(max_epochs=epochs, accelerator=accelerator, **training_options())
    _answers(model)
    return model


def load(folder: Path, accelerator: str = "auto") -> "HPVADE":
    """The model saved in `folder`, or the one of the package with that name; it needs no reference."""
    place = folder
    if str(folder) == BLOOD and not folder.exists():
        from ..datasets import blood_model

        place = blood_model()
    if not place.exists():
        raise UsageError(f"{folder} does not exist; expected a folder of `hpvade train`, or {BLOOD!r}.")
    check_input(place, folder=True)
    from ..models.hpvade._model import HPVADE

    quiet()
    model = HPVADE.load(place, accelerator=accelerator)
    _answers(model, folder)
    return model


def load_with_bulk(
    folder: Path, bulk: Path, *, accelerator: str, map_genes: bool, genes_in: str
) -> tuple["HPVADE", "AnnData"]:
    """The model of `load`, and the samples of a file, whose genes get the model's names if `map_genes`."""
    model = load(folder, accelerator)
    genes = model.get_signature_matrix().index if map_genes else None
    return model, read_bulk(bulk, genes=genes, genes_in=genes_in)


def _answers(model: "HPVADE", folder: Path | None = None) -> None:
    """Note which model answers."""
    if (run := current()) is not None:
        from .._report._fingerprint import fingerprint

        run.model = {"path": None if folder is None else str(folder), "sha256": fingerprint(model)}
