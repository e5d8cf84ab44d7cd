"""Labelled cells from one file, or from several, each of them a study."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ._errors import UsageError
from ._io import check_exists, read_reference
from ._run import say

if TYPE_CHECKING:
    from anndata import AnnData

STUDY = "study"
_SHARED = 0.4  # of the smaller set of genes; less are two ways of naming them


def read_references(
    paths: Sequence[Path],
    *,
    obs: Path | None,
    genes_in: str,
    map_genes: bool,
    layer: str | None,
    study_key: str | None,
    keys: dict[str, str | None],
) -> tuple["AnnData", str | None, str | None]:
    """The cells, their layer and their column with studies.

    Several files are joined over the union of their genes. Each is a study, named as the file, unless all have the
    column `study_key`. `keys` are the columns that are needed, by option; those of ``--sample-key`` and ``--batch-key``
    are told apart by study.
    """
    if len(paths) == 1:
        return read_reference(paths[0], obs, genes_in=genes_in), layer, study_key
    if obs is not None:
        raise UsageError("--obs TABLE belongs to one reference file; with several, write the labels into each.")
    for path in paths:
        check_exists(path)
    names = _study_names(paths)
    parts = [read_reference(path, genes_in=genes_in) for path in paths]
    if map_genes:
        parts = [parts[0], *(_renamed(part, parts[0]) for part in parts[1:])]
    own = study_key is not None and all(study_key in part.obs for part in parts)
    column = study_key or STUDY
    for name, part, path in zip(names, parts, paths, strict=True):
        _check_columns(part, path, layer, keys)
        if not own:
            part.obs[column] = name
    _check_shared(parts, paths)
    whole = _joined(parts, names, layer, column, keys)
    said = ", ".join(f"{name} ({part.n_obs} cells)" for name, part in zip(names, parts, strict=True))
    say("note", f"{len(parts)} references over {whole.n_vars} genes: {said}")
    return whole, None, column


def _study_names(paths: Sequence[Path]) -> list[str]:
    """Names of the files without their endings, with the folder where two are alike."""
    names = [path.name.split(".")[0] or path.name for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.absolute().parent.name}/{name}" for path, name in zip(paths, names, strict=True)]
    if len(set(names)) < len(names):
        raise UsageError(f"{', '.join(map(str, paths))}: each file is a study named after it; rename one.")
    return names


def _renamed(part: "AnnData", first: "AnnData") -> "AnnData":
    from ..pp import map_genes

    return map_genes(part, first)


def _check_columns(part: "AnnData", path: Path, layer: str | None, keys: dict[str, str | None]) -> None:
    for option, key in keys.items():
        if key is not None and key not in part.obs:
            columns = ", ".join(map(str, part.obs)) or "no columns"
            raise KeyError(f"{option} {key}: {path} has no such column in obs; found {columns}.")
    if layer is not None and layer not in part.layers:
        raise KeyError(f"--layer {layer}: {path} has no such layer; found {', '.join(part.layers) or 'none'}.")


def _check_shared(parts: list["AnnData"], paths: Sequence[Path]) -> None:
    first = parts[0].var_names
    for part, path in zip(parts[1:], paths[1:], strict=True):
        n_shared = len(first.intersection(part.var_names))
        if n_shared < _SHARED * min(len(first), part.n_vars):
            raise ValueError(
                f"{paths[0]} and {path} share {n_shared} of {len(first)} and {part.n_vars} genes: they name genes "
                f"differently ({first[0]!r}, {part.var_names[0]!r}). Pass --map-genes to have them translated."
            )


def _joined(parts, names, layer, column, keys) -> "AnnData":
    import anndata as ad
    from scipy import sparse

    wanted = [key for key in keys.values() if key is not None]
    apart = [keys.get(option) for option in ("--sample-key", "--batch-key") if keys.get(option) is not None]
    cells = []
    for part in parts:
        obs = part.obs[list(dict.fromkeys([*wanted, column]))].copy()
        for key in apart:
            obs[key] = obs[column].astype(str) + ": " + obs[key].astype(str)
        X = part.X if layer is None else part.layers[layer]
        cells.append(ad.AnnData(sparse.csr_matrix(X), obs=obs, var=part.var[[]]))
    # a gene that a study lacks is zero there; the model masks what is zero in all of a study's cells
    return ad.concat(cells, join="outer", keys=names, index_unique="-", fill_value=0)
