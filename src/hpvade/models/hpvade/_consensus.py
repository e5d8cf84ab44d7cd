"""One answer from several studies: the bulk is solved with the signature of each, and the fractions are averaged."""

from dataclasses import dataclass

import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from ...solvers import RobustFit


@dataclass
class StudyFit:
    """What one study says about a cohort; tensors on the module's device, rows are samples.

    Attributes
    ----------
    name
        Of the study.
    genes, fit
        The robust regression and the genes it saw (index).
    rna, cells
        (samples x types): fractions of RNA and of cells.
    sizes
        (types,): RNA content per cell that turned one into the other.
    platform_distance
        Between the bulk and this study.
    """

    name: str
    genes: Tensor
    fit: RobustFit
    rna: Tensor
    cells: Tensor
    sizes: Tensor
    platform_distance: float


def average(parts: list[Tensor]) -> Tensor:
    """Mean over the studies, rows closed to one.

    Each study errs in its own way: labels, protocol, donors. Weights from the fit's residual or from agreement were
    tried and did not beat the plain mean (benchmarks/RESULTS_studies.md).
    """
    mean = torch.stack(parts).mean(dim=0)
    return mean / mean.sum(dim=1, keepdim=True).clamp(min=1e-30)


def disagreement(studies: list[StudyFit]) -> pd.Series:
    """How far each study is from the mean of the others: half the summed absolute difference, mean over samples."""
    cells = torch.stack([study.cells.double() for study in studies])
    others = (cells.sum(dim=0) - cells) / (len(studies) - 1)
    apart = (cells - others).abs().sum(dim=2).mean(dim=1) / 2
    return pd.Series(apart.cpu().numpy(), index=[study.name for study in studies])


class StudyMethods:
    """`HPVADE`'s answers by study; needs `studies`, `cell_types` and `_require_trained`."""

    def get_study_proportions(self, bulk_adata: AnnData, **reading) -> pd.DataFrame:
        """Fractions of cells as each study of the reference sees them; :meth:`deconvolve` returns their mean.

        Parameters
        ----------
        bulk_adata
            Samples x genes, as for :meth:`deconvolve`. Nothing is written.
        **reading
            `layer`, `input_type`, `missing`, `gene_length_key` and `prior` of :meth:`deconvolve`.

        Returns
        -------
        Samples x (study, type); the rows of each study sum to one.

        Raises
        ------
        RuntimeError
            The model is not trained.
        ValueError
            The reference has one study (no `study_key`), or the bulk cannot be read.
        """
        from ._deconvolve import estimate

        self._require_trained("get_study_proportions")
        if not self.studies:
            raise ValueError(
                "the reference of this model is one study. Name the column of studies in "
                "HPVADE.setup_anndata(adata, labels_key, study_key=...)."
            )
        found = estimate(self, bulk_adata, **reading)
        tables = {
            study.name: pd.DataFrame(study.cells.double().cpu().numpy(), bulk_adata.obs_names, self.cell_types)
            for study in found.studies
        }
        return pd.concat(tables, axis=1, names=["study", "type"])
