"""One modality of a MuData, in memory or in a file: an AnnData, to which everything is written."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .._text import check_adata, is_mudata, mudata_of

if TYPE_CHECKING:
    from anndata import AnnData


@contextmanager
def one_modality(
    data, modality: str | None, columns: Iterable[str | None] = (), name: str = "adata", *, frame: bool = False
) -> "Iterator[AnnData]":
    """The AnnData to work on: `data` itself, or one modality of a MuData.

    Parameters
    ----------
    data, name
        What was passed, and the argument's name.
    modality
        Key of ``mdata.mod``; an AnnData is taken as it is.
    columns
        Columns of obs that are needed: those that the modality lacks and ``mdata.obs`` has are copied to it, and are
        gone again after an error. None is left out.
    frame
        A DataFrame is fine, too.

    Raises
    ------
    TypeError
        A MuData without `modality`, or neither AnnData nor MuData.
    KeyError
        There is no such modality.
    ValueError
        A view of a MuData.

    Examples
    --------
    >>> from anndata import AnnData
    >>> from mudata import MuData
    >>> mdata = MuData({"rna": AnnData(shape=(2, 3)), "atac": AnnData(shape=(2, 4))})
    >>> mdata.obs["cell_type"] = ["B", "T"]
    >>> with one_modality(mdata, "rna", ["cell_type"]) as adata:
    ...     adata.shape, list(adata.obs["cell_type"])
    ((2, 3), ['B', 'T'])
    """
    if modality is None or not is_mudata(data):
        check_adata(data, name, frame=frame, modality=True)
        yield data
        return
    if modality not in data.mod:
        raise KeyError(f"modality={modality!r} is not in mdata.mod; found {list(data.mod)}.")
    if data.is_view:
        raise ValueError(f"{name} is a view of another MuData; run `mdata = mdata.copy()` first.")
    adata = data.mod[modality]
    wanted = dict.fromkeys(key for key in columns if key is not None and key in data.obs)
    added = [key for key in wanted if key not in adata.obs]
    for key in added:
        adata.obs[key] = data.obs[key].loc[adata.obs_names]
    try:
        yield adata
    except BaseException:
        for key in added:
            del adata.obs[key]
        raise


# ---------------------------------------------------------------- files


def split_path(path: Path) -> tuple[Path, str | None]:
    """File or zarr folder of a path, and the modality in it that the path names, as in ``cells.h5mu/rna``.

    Examples
    --------
    >>> split_path(Path("cells.h5ad"))[1] is None
    True
    """
    if path.exists():
        return path, None
    parent = path.parent.parent if path.parent.name == "mod" else path.parent
    is_store = parent.is_file() or (parent / "mod").is_dir()
    return (parent, path.name) if is_store and parent.name else (path, None)


def read_modality(path: Path, modality: str | None) -> "AnnData":
    """A modality of an h5mu file or of a zarr folder that holds a MuData.

    Columns that only ``mdata.obs`` has, such as types found from all modalities together, are joined to its ``obs``.

    Raises
    ------
    ValueError
        The path names no modality, or one that is not there; the file cannot be read.
    """
    import h5py
    from anndata.io import read_elem

    if path.is_dir():
        import zarr

        opened = zarr.open_group(path, mode="r")
    else:
        opened = h5py.File(path, "r")
    try:
        names = list(opened["mod"])
        if modality not in names:
            ways = " or ".join(f"{path}/{name}" for name in names)
            found = f"has no modality {modality!r}; it is" if modality else "is"
            raise ValueError(f"{path} {found} {mudata_of(names)}; expected one of them. Name it: {ways}.")
        try:
            adata, obs = read_elem(opened["mod"][modality]), read_elem(opened["obs"])
        except Exception as error:
            raise ValueError(f"{path} cannot be read as a MuData: {error}") from error
    finally:
        if isinstance(opened, h5py.File):
            opened.close()
    own = [key for key in obs if not str(key).startswith(tuple(f"{name}:" for name in names))]
    for key in own:
        if key not in adata.obs and obs.index.is_unique:
            adata.obs[key] = obs[key].reindex(adata.obs_names)
    return adata
