"""Registration of cells for the regularised models: checks, fields, and what the registry says of sizes."""

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi.data import fields as f

from ..._keys import Keys
from ..._text import warn
from ...io._gene_names import refuse_duplicates
from ...io._rows import pick_matrix
from ...reference._checks import check_counts
from ._covariates import CovariateKeys, check_keys, check_nesting
from ._shared_module import (
    AMBIENT,
    BATCH,
    CONDITIONING,
    CONTINUOUS,
    DISPERSION,
    ENCODER,
    LIBRARY,
    SCALING,
    SIZE_FACTOR,
    Layout,
    X,
)

JOINT = (AMBIENT, SCALING, ENCODER, CONDITIONING)
SINGLE = (BATCH, DISPERSION, LIBRARY)
TECHNICAL = ("library_key", "dataset_key", "technical_covariate_keys")


def check_cells(adata: AnnData, keys: CovariateKeys, *, layer: str | None, size_factor_key: str | None) -> None:
    """Refuse data that the model cannot learn from, before anything is written; warn of cells without counts."""
    _check_own(adata, "adata")
    check_keys(adata.obs, keys, size_factor_key=size_factor_key)
    refuse_duplicates(adata.var_names, "adata")
    matrix, name = pick_matrix(adata, layer, "adata")
    empty = check_counts(matrix, name, adata.obs_names, adata.var_names, allow_empty=True)
    if empty.any():
        per_library = adata.obs[keys.library][empty].astype(str).value_counts().to_dict()
        warn(
            f"{name} has {empty.sum()} cells without any count, by library: {per_library}. They say nothing; remove "
            "them with `sc.pp.filter_cells(adata, min_counts=1)`."
        )


def check_modalities(mdata: MuData, modalities: dict[str, str], layers: dict[str, str | None]) -> None:
    """Refuse a MuData that the model cannot learn from, before anything is written."""
    if not isinstance(mdata, MuData):
        raise TypeError(
            f"mdata is a {type(mdata).__name__}; expected a MuData. For an AnnData: AmbientRegularizedSCVI."
        )
    _check_own(mdata, "mdata")
    if unknown := [key for key in modalities.values() if key not in mdata.mod]:
        raise ValueError(f"modalities {unknown} are not in mdata.mod; found {list(mdata.mod)}.")
    seen = np.zeros(mdata.n_obs, dtype=bool)
    for name, key in modalities.items():
        adata = mdata.mod[key]
        if adata.n_obs != mdata.n_obs or not adata.obs_names.equals(mdata.obs_names):
            missing = mdata.obs_names.difference(adata.obs_names)
            found = f"lacks {len(missing)} of {mdata.n_obs} cells" if len(missing) else "has its cells in another order"
            raise ValueError(
                f"The modalities disagree on the cells: {key!r} {found}. Use the same cells in the same order in all: "
                "`muon.pp.intersect_obs(mdata)`, or give cells that lack a modality a row of zeros in it."
            )
        refuse_duplicates(adata.var_names, f"mdata[{key!r}]")
        if adata.shape[1] == 0:
            raise ValueError(f"modality {key!r} has no features.")
        matrix, where = pick_matrix(adata, layers.get(name), f"mdata[{key!r}]")
        try:
            seen |= ~check_counts(matrix, where, adata.obs_names, adata.var_names, allow_empty=True)
        except ValueError as error:
            if "only zeros" in str(error):
                raise ValueError(
                    f"modality {key!r} is absent from all {mdata.n_obs} cells: {where} holds only zeros. Leave it out "
                    "of `modalities`."
                ) from error
            raise
    if not seen.all():
        raise ValueError(
            f"{(~seen).sum()} cells lack every modality, the first is {str(mdata.obs_names[seen.argmin()])!r}: no "
            "counts at all. Remove them, for example with `mdata = mdata[keep].copy()`."
        )


def check_technical(obs: pd.DataFrame, library_key: str | None, dataset_key: str | None, technical) -> dict:
    """Check the nesting of technical units; what :data:`Keys.TECHNICAL` of `uns` will hold."""
    check_nesting(obs, library_key, dataset_key, technical)
    values = (library_key, dataset_key, list(technical or []))
    return {name: value for name, value in zip(TECHNICAL, values, strict=True) if value}


def anndata_fields(keys: CovariateKeys, layer: str | None, size_factor_key: str | None) -> list:
    """Fields of an AnnData."""
    fields = [f.LayerField(X, layer, is_count_data=False), f.CategoricalObsField(BATCH, keys.batch)]
    fields += [f.CategoricalObsField(DISPERSION, keys.dispersion), f.CategoricalObsField(LIBRARY, keys.library)]
    joint = {AMBIENT: keys.ambient, CONDITIONING: keys.conditioning, SCALING: keys.scaling, ENCODER: keys.encoder}
    fields += [f.CategoricalJointObsField(name, columns) for name, columns in joint.items()]
    fields.append(f.NumericalJointObsField(CONTINUOUS, keys.continuous))
    if size_factor_key is not None:
        fields.append(f.NumericalObsField(SIZE_FACTOR, size_factor_key))
    return fields


def mudata_fields(keys: CovariateKeys, modalities: dict[str, str], layers: dict, places: dict[str, str | None]) -> list:
    """Fields of a MuData; `places` says in which modality's `obs` a column is, None for that of the MuData."""

    def place(columns: list[str]) -> str | None:
        return places[columns[0]] if columns else None

    fields = [
        f.MuDataLayerField(f"{X}_{name}", layers.get(name), mod_key=key, is_count_data=False, mod_required=True)
        for name, key in modalities.items()
    ]
    single = {BATCH: keys.batch, DISPERSION: keys.dispersion, LIBRARY: keys.library}
    fields += [
        f.MuDataCategoricalObsField(name, key, mod_key=places[key] if key else None) for name, key in single.items()
    ]
    joint = {AMBIENT: keys.ambient, CONDITIONING: keys.conditioning, SCALING: keys.scaling, ENCODER: keys.encoder}
    fields += [
        f.MuDataCategoricalJointObsField(name, columns, mod_key=place(columns)) for name, columns in joint.items()
    ]
    fields.append(f.MuDataNumericalJointObsField(CONTINUOUS, keys.continuous, mod_key=place(keys.continuous)))
    return fields


def gather_obs(mdata: MuData, modalities: dict[str, str], columns: list[str]) -> tuple[pd.DataFrame, dict]:
    """Columns of a MuData as one table, and where all of them are: ``{column: modality or None}``.

    The `obs` of the MuData comes first, then those of the modalities.
    """
    columns = list(dict.fromkeys(columns))
    sources = {None: mdata.obs} | {key: mdata.mod[key].obs for key in modalities.values()}
    for where, obs in sources.items():
        if all(column in obs.columns for column in columns):
            return obs[columns], dict.fromkeys(columns, where)
    anywhere = {c: [w or "mdata" for w, obs in sources.items() if c in obs.columns] for c in columns}
    absent = [column for column, found in anywhere.items() if not found]
    if absent:
        raise KeyError(f"columns {absent} are neither in mdata.obs nor in the obs of a modality.")
    raise KeyError(
        f"the columns are not in one place: {anywhere}. Put all of them into mdata.obs, for example with "
        "`mdata.obs[name] = mdata['rna'].obs[name]`."
    )


def read_layout(registry: dict, n_vars: dict[str, int], n_obs: int) -> Layout:
    """Sizes from a registry."""

    def joint(key: str) -> tuple[int, ...]:
        return tuple(len(names) for names in categories(registry, key).values())

    states = registry["field_registries"]
    continuous = states.get(CONTINUOUS, {}).get("state_registry", {}).get("columns", ())
    setup = registry["setup_args"]
    return Layout(
        n_vars=n_vars,
        n_obs=n_obs,
        n_batch=joint(BATCH)[0],
        ambient=joint(AMBIENT),
        dispersion=joint(DISPERSION)[0],
        library=joint(LIBRARY)[0],
        scaling=joint(SCALING),
        conditioning=joint(CONDITIONING),
        encoder=joint(ENCODER),
        n_continuous=len(continuous),
        batch_is_group=any(setup.get(key) is not None for key in ("batch_key", "library_key")),
    )


def categories(registry: dict, key: str) -> dict[str, list]:
    """Categories of a registered covariate by column, in the order of their codes."""
    state = registry["field_registries"].get(key, {}).get("state_registry", {})
    if "mappings" in state:
        return {column: list(names) for column, names in state["mappings"].items()}
    if "categorical_mapping" in state:
        return {state.get("original_key", key): list(state["categorical_mapping"])}
    return {}


def category_names(registry: dict, key: str) -> list[str]:
    """Names of the concatenated categories: plain with one column, else ``column: category``."""
    found = categories(registry, key)
    if len(found) == 1:
        return [str(name) for names in found.values() for name in names]
    return [f"{column}: {name}" for column, names in found.items() for name in names]


def refuse_unknown_categories(adata: AnnData | MuData, registry: dict, cls: str) -> None:
    """Raise ValueError for a category that the model was not trained with, or a column that is absent."""
    for key in (*SINGLE, *JOINT):
        where = registry["field_registries"].get(key, {}).get("data_registry", {}).get("mod_key")
        obs = adata.obs if where is None else adata.mod[where].obs
        for column, known in categories(registry, key).items():
            if column.startswith("_scvi"):
                continue
            if column not in obs.columns:
                raise KeyError(f"the cells have no column {column!r}, which the model was set up with.")
            unknown = sorted({str(v) for v in obs[column].unique()} - {str(v) for v in known})
            if unknown:
                raise ValueError(
                    f"obs[{column!r}] holds categories that the model does not know: {unknown[:5]}; it knows "
                    f"{[str(v) for v in known][:10]}. Use `{cls}.load_query_data(adata, model)`, then train, for new "
                    "categories."
                )


def _check_own(data, name: str) -> None:
    if data.is_view:
        raise ValueError(f"{name} is a view; expected an object of its own. Run `{name} = {name}.copy()` first.")
    if not data.n_obs or not data.n_vars:
        raise ValueError(
            f"{name} is empty: {data.n_obs} cells x {data.n_vars} features. Expected cells and features: see what was "
            "filtered before."
        )


def remember_technical(data: AnnData | MuData, technical: dict) -> None:
    """Write which columns are technical units to `uns`, for the metrics."""
    if technical:
        data.uns[Keys.TECHNICAL] = technical
