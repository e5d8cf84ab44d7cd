"""A checkpoint that answers like `ConditionalVAE`: all that `hpvade cvae infer` needs, without a registry."""

import numpy as np
import torch
from anndata import AnnData

from ._answers import Answers
from ._cells import Cells, read_cells
from ._checkpoint import UNKNOWN, load_trained_model, read_checkpoint
from ._vocabulary import Vocabulary


class TrainedNetwork(Answers):
    """The network of a checkpoint, with its vocabularies and genes.

    Parameters
    ----------
    path
        Checkpoint of `hpvade cvae train` or `ConditionalVAE.export_checkpoint`.
    labels_key, perturbation_key, experiment_key
        Columns of `obs` in the data that questions will be about.
    device
        ``"cpu"``, ``"cuda"``, ...

    Raises
    ------
    FileNotFoundError, ValueError
        See `hpvade.nn.cvae.load_trained_model`.
    """

    def __init__(self, path, labels_key: str, perturbation_key: str | None, experiment_key: str | None, device="cpu"):
        self.net, self.config, ids = load_trained_model(path, device)
        self.genes = np.asarray(read_checkpoint(path)["gene_names"])
        self.device = torch.device(device)
        self.module = self  # where `Answers` looks for the network
        keys = {"labels": "cell_type", "perturbation": "perturbation", "batch": "srx_accession"}
        columns = {"labels": labels_key, "perturbation": perturbation_key, "batch": experiment_key}
        self._vocabularies = {
            key: Vocabulary(columns[key], tuple(known for known in ids[name] if known != UNKNOWN))
            for key, name in keys.items()
        }
        self.vocabularies = ids

    def get_var_names(self) -> np.ndarray:
        """Names of the genes."""
        return self.genes

    @property
    def unknown(self) -> int:
        """Id of the cell type ``<UNK>``."""
        return self.config.n_cell_types - 1

    @property
    def _default_control(self) -> str:
        names, control = self._vocabularies["perturbation"].names, self.config.control_perturbation
        return names[control] if control is not None else "control"

    def _read(self, adata: AnnData, indices, used=("labels", "perturbation", "batch"), unseen="error") -> Cells:
        return read_cells(
            adata,
            indices,
            self._vocabularies,
            self.genes,
            layer=None,
            size_factor_key=None,
            used=used,
            unseen=unseen,
            check=True,
        )

    def _require_trained(self, method: str) -> None:
        """A checkpoint is."""
