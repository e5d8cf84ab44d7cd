from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ._io import check_output, complete, read_reference, write_table
from ._options import LabelsKey, Layer, Obs, Reference, SampleKey, Seed
from ._run import found, tell


def simulate(
    reference: Reference,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="BULK.h5ad", help="Simulated samples x genes.", show_default=False),
    ],
    labels_key: LabelsKey,
    n_samples: Annotated[int, typer.Option(metavar="N", min=1, help="Number of bulk samples.")] = 100,
    n_cells: Annotated[int, typer.Option(metavar="N", min=1, help="Cells per sample.")] = 1000,
    alpha: Annotated[
        float, typer.Option(metavar="A", help="Dirichlet concentration: 1 uniform, less: one type dominates.")
    ] = 1.0,
    sparse: Annotated[
        float, typer.Option(metavar="S", min=0, max=1, help="Share of samples that hold a random subset of the types.")
    ] = 0.0,
    obs: Obs = None,
    sample_key: SampleKey = None,
    layer: Layer = None,
    seed: Seed = 0,
    truth: Annotated[
        Path | None, typer.Option(metavar="OUT.csv", help="Write the true fractions of cells here too.")
    ] = None,
) -> None:
    """Simulate bulk samples of known composition by adding up single cells.

    Example: `hpvade simulate ref.h5ad -o bulk.h5ad --labels-key cell_type --n-samples 50 --truth truth.csv`

    BULK.h5ad holds summed raw counts in X, the true fractions of cells in obsm["proportions"] and of RNA in
    obsm["rna_proportions"].
    """
    check_output(output, ".h5ad")
    if truth is not None:
        check_output(truth, ".csv")
    adata = read_reference(reference, obs)
    from .._keys import Keys
    from ..io._names import named
    from ..pp import simulate_bulk

    bulk = simulate_bulk(
        adata,
        labels_key,
        n_samples,
        n_cells=n_cells,
        alpha=alpha,
        sparse=sparse,
        sample_key=sample_key,
        layer=layer,
        seed=seed,
    )
    with ExitStack() as stack:
        bulk.write_h5ad(stack.enter_context(complete(output)))
        if truth is not None:
            write_table(named(bulk.obsm[Keys.TRUE_PROPORTIONS]), stack.enter_context(complete(truth)))
    found(n_samples=bulk.n_obs, n_genes=bulk.n_vars, types=list(named(bulk.obsm[Keys.TRUE_PROPORTIONS])))
    tell(f"{output}: {bulk.n_obs} samples x {bulk.n_vars} genes, {n_cells} cells each.")
