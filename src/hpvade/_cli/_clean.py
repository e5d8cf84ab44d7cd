from typing import Annotated

import typer

from ._io import check_output, complete, read_reference, write_cells
from ._options import Accelerator, CellsOut, Epochs, GenesIn, GenesInOption, Layer, Obs, Reference, Seed
from ._run import found, tell


def clean(
    reference: Reference,
    output: CellsOut,
    batch_key: Annotated[
        str,
        typer.Option(metavar="KEY", help="Column of REF.obs with the libraries (lanes, samples).", show_default=False),
    ],
    labels_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Column of REF.obs with cell types; clusters without it.")
    ] = None,
    obs: Obs = None,
    genes_in: GenesInOption = GenesIn.auto,
    layer: Layer = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
) -> None:
    """Remove ambient RNA from a reference.

    Example: `hpvade clean ref.h5ad -o clean.h5ad --batch-key library --labels-key cell_type`

    OUT.h5ad holds whole counts, the share removed from each cell in obs["ambient_removed"] and the ambient share of
    each library in uns["ambient_share"]. See the guide on when it helps.
    """
    check_output(output, ".h5ad")
    adata = read_reference(reference, obs, genes_in=genes_in.value)
    import scvi

    from .._keys import Keys
    from ..models.ambient._model import AmbientRegularizedSCVI
    from ._fit import quiet
    from ._progress import training_options

    quiet()
    scvi.settings.seed = seed
    AmbientRegularizedSCVI.setup_anndata(adata, layer=layer, batch_key=batch_key)
    model = AmbientRegularizedSCVI(adata)
    model.train(max_epochs=epochs, accelerator=accelerator, **training_options())
    cells = model.get_clean_reference(labels_key=labels_key, seed=seed)
    with complete(output) as partial:
        write_cells(cells, partial)
    share = cells.uns[Keys.AMBIENT_SHARE]["share"]
    found(n_cells=cells.n_obs, ambient_share=dict(share.items()))
    tell(f"{output}: {cells.n_obs} cells x {cells.n_vars} genes.")
    for name, value in share.items():
        tell(f"- {name}: {value:.1%} of the counts were ambient")
