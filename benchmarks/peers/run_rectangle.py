"""Rectangle with its defaults: raw counts of cells, TPM of bulk; cell fractions beside an unknown share."""

import rectanglepy
from _row import read, write

row = read()
row.adata.X = row.adata.X.toarray()
proportions, _ = rectanglepy.rectangle(row.adata, row.bulk, n_cpus=1, correct_mrna_bias=not row.truth_in_rna)
write(row, proportions.loc[row.bulk.index])
