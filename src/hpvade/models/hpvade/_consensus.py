"""One answer from several studies: the bulk is solved with the signature of each, and the fractions are averaged."""

from dataclasses import dataclass

import pandas as pd
import torch
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


def disagreement_table(studies: list[StudyFit]) -> pd.DataFrame:
    """Platform distance and `disagreement` of each study."""
    distance = {study.name: study.platform_distance for study in studies}
    return pd.DataFrame({"platform_distance": distance, "disagreement": disagreement(studies)})


def disagreement(studies: list[StudyFit]) -> pd.Series:
    """How far each study is from the mean of the others: half the summed absolute difference, mean over samples."""
    cells = torch.stack([study.cells.double() for study in studies])
    others = (cells.sum(dim=0) - cells) / (len(studies) - 1)
    apart = (cells - others).abs().sum(dim=2).mean(dim=1) / 2
    return pd.Series(apart.cpu().numpy(), index=[study.name for study in studies])
