"""`HPVADE`'s answers by study."""

import pandas as pd
from anndata import AnnData

from ...io._frames import as_bulk
from ...reference._measured import placed
from ._estimate import estimate


class StudyMethods:
    """`HPVADE`'s answers by study; needs `studies`, `cell_types` and `_require_trained`."""

    def get_study_proportions(self, bulk_adata: AnnData, **reading) -> pd.DataFrame:
        """Fractions of cells as each study of the reference sees them; :meth:`deconvolve` returns their mean.

        Parameters
        ----------
        bulk_adata
            Samples x genes, as for :meth:`deconvolve`. Nothing is written.
        **reading
            `layer`, `input_type`, `missing`, `gene_length_key`, `on_bad_sample` and `prior` of :meth:`deconvolve`.

        Returns
        -------
        Samples x (study, type); the rows of each study sum to one, NaN for samples that were skipped.

        Raises
        ------
        RuntimeError
            The model is not trained.
        ValueError
            The reference has one study (no `study_key`), or the bulk cannot be read.
        """
        self._require_trained("get_study_proportions")
        if not self.studies:
            raise ValueError(
                "the reference of this model is one study. Name the column of studies in "
                "HPVADE.setup_anndata(adata, labels_key, study_key=...)."
            )
        bulk_adata = as_bulk(bulk_adata)
        found = estimate(self, bulk_adata, **reading)
        usable = found.bulk.usable
        tables = {
            study.name: placed(bulk_adata, self.cell_types, [(usable, study.cells.double().cpu().numpy())])
            for study in found.studies
        }
        return pd.concat(tables, axis=1, names=["study", "type"])
