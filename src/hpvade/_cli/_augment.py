from typing import Annotated

import typer

from ._io import check_output, complete, read_reference, write_cells
from ._options import Accelerator, CellsOut, Epochs, GenesIn, GenesInOption, LabelsKey, Layer, Obs, Reference, Seed
from ._run import found, tell


def augment(
    reference: Reference,
    output: CellsOut,
    labels_key: LabelsKey,
    min_cells: Annotated[
        int, typer.Option(metavar="N", min=1, help="Types with fewer cells are filled up to this number.")
    ],
    perturbation_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Column of REF.obs with perturbations or conditions.")
    ] = None,
    experiment_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Column of REF.obs with experiments or batches.")
    ] = None,
    obs: Obs = None,
    genes_in: GenesInOption = GenesIn.auto,
    layer: Layer = None,
    epochs: Epochs = None,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
) -> None:
    """Fill up rare cell types of a reference with generated cells.

    Example: `hpvade augment ref.h5ad -o filled.h5ad --labels-key cell_type --min-cells 100`

    OUT.h5ad holds the cells of REF and the new ones, which obs["hpvade_generated"] marks. Experimental: the guide says
    where it helped and where not.
    """
    check_output(output, ".h5ad")
    adata = read_reference(reference, obs, genes_in=genes_in.value)
    import scvi

    from .._keys import Keys
    from ..models.cvae._model import ConditionalVAE
    from ._fit import quiet
    from ._progress import training_options

    quiet()
    scvi.settings.seed = seed
    keys = {"perturbation_key": perturbation_key, "experiment_key": experiment_key}
    ConditionalVAE.setup_anndata(adata, labels_key, layer=layer, **keys)
    model = ConditionalVAE(adata)
    model.train(epochs, accelerator=accelerator, **training_options())
    cells = model.augment_reference(adata, min_cells=min_cells, seed=seed)
    with complete(output) as partial:
        write_cells(cells, partial)
    new = cells.obs[labels_key][cells.obs[Keys.GENERATED].astype(bool)].value_counts()
    counts = {str(name): int(count) for name, count in new.items() if count}
    found(n_cells=cells.n_obs, generated=counts)
    said = ", ".join(f"{name} {count}" for name, count in counts.items()) or "none; every type has enough"
    tell(f"{output}: {cells.n_obs} cells; generated: {said}.")
