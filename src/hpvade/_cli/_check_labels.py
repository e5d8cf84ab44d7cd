from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ._errors import UsageError
from ._io import BLOOD, check_outputs, complete, read_anchor, read_json, read_mapping, read_reference
from ._options import GenesIn, GenesInOption, LabelsKey, Layer, NameMapping, Obs, Reference
from ._run import found, tell, worded

_COLUMNS = ("score", "flagged", "suggestion", "doublet")


def check_labels(
    reference: Reference,
    labels_key: LabelsKey,
    output: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", metavar="OUT", help=".csv: one row per cell; .h5ad: REF with the results."),
    ] = None,
    markers: Annotated[
        str,
        typer.Option(metavar="M", help='blood, none, or a JSON file, {"beta": {"has": ["INS"], "lacks": ["GCG"]}}.'),
    ] = BLOOD,
    anchor: Annotated[
        Path | None,
        typer.Option(
            metavar="ANCHOR", help="Cells whose labels hold: a file as REF, or 'blood', those in the package."
        ),
    ] = None,
    anchor_labels_key: Annotated[str, typer.Option(metavar="KEY", help="Column of ANCHOR.obs.")] = "cell_type",
    mapping: NameMapping = None,
    obs: Obs = None,
    genes_in: GenesInOption = GenesIn.auto,
    layer: Layer = None,
) -> None:
    """Ask whether the labels of a reference contradict its own cells.

    Example: `hpvade check-labels ref.h5ad --labels-key cell_type --anchor blood -o cells.csv`

    Prints one sentence per finding, with what it does to proportions and the remedy; `hpvade transfer-labels` is one.
    """
    check_outputs(output or [], ".csv", ".h5ad")
    known = markers if markers == BLOOD else None if markers == "none" else read_json(Path(markers))
    pairs = None if mapping is None else read_mapping(mapping)
    adata = read_reference(reference, obs, genes_in=genes_in.value)
    if labels_key not in adata.obs:
        shown = ", ".join(map(str, adata.obs)) or "no columns. A table of labels is joined by --obs TABLE"
        raise UsageError(f"--labels-key {labels_key} is no column of REF.obs; found {shown}.")
    from .._keys import Keys
    from ..tl import check_labels as check

    check(
        adata,
        labels_key,
        markers=known,
        anchor=None if anchor is None else read_anchor(anchor),
        anchor_labels_key=anchor_labels_key,
        mapping=pairs,
        layer=layer,
    )
    result = adata.uns[Keys.LABEL_CHECK]
    cells = adata.obs[[Keys.of_label(Keys.LABEL_CHECK, name) for name in _COLUMNS]].set_axis(list(_COLUMNS), axis=1)
    with ExitStack() as stack:  # all of them, or none
        for path in output or []:
            partial = stack.enter_context(complete(path))
            if path.suffix.lower() == ".csv":
                cells.assign(label=adata.obs[labels_key]).to_csv(partial, index_label="cell")
            else:
                adata.write_h5ad(partial)
    findings, limits = ([worded(text) for text in texts] for texts in (result["findings"]["text"], result["limits"]))
    tell(f"{adata.n_obs} cells, {int(cells['flagged'].sum())} that look like another type; {len(findings)} findings.")
    for text in (*findings, *limits):
        tell(f"- {text}")
    if not findings:
        tell("Nothing contradicts the labels.")
    n_flagged = int(cells["flagged"].sum())
    found(findings=result["findings"].assign(text=findings), limits=limits, types=result["types"], n_flagged=n_flagged)
