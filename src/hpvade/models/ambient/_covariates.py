"""Covariates by purpose: which columns serve ambient RNA, dispersion and library size, and how they nest."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ..._text import warn
from ...reference._checks import check_column


@dataclass(frozen=True)
class CovariateKeys:
    """Columns by purpose, after the fan-out of the batch.

    Attributes
    ----------
    batch, ambient, dispersion, library
        Source of the background, of the groups of dispersion and of the library prior.
    conditioning, continuous
        Categories and numbers that the decoder is told.
    scaling
        Multiplicative technical factors.
    encoder
        Categories that the encoders are told.
    batch_is_group
        Whether the batch is the source of all three groups.
    """

    batch: str | None
    ambient: list[str]
    dispersion: str
    library: str
    conditioning: list[str]
    continuous: list[str]
    scaling: list[str]
    encoder: list[str]
    batch_is_group: bool

    def columns(self) -> dict[str, str]:
        """Categorical columns in use, each with the argument that asked for it."""
        named = {"batch_key": [self.batch] if self.batch else []}
        named |= {"dispersion_key": [self.dispersion], "library_size_key": [self.library]}
        named |= {"ambient_covariate_keys": self.ambient, "nn_conditioning_covariate_keys": self.conditioning}
        named |= {"feature_scaling_covariate_keys": self.scaling, "encoder_covariate_keys": self.encoder}
        found: dict[str, str] = {}
        for argument, keys in named.items():
            for key in keys:
                found.setdefault(key, argument)
        return found


def resolve_keys(
    *,
    batch_key: str | None = None,
    library_key: str | None = None,
    ambient_covariate_keys: Sequence[str] | None = None,
    dispersion_key: str | None = None,
    library_size_key: str | None = None,
    nn_conditioning_covariate_keys: Sequence[str] | None = None,
    nn_continuous_covariate_keys: Sequence[str] | None = None,
    feature_scaling_covariate_keys: Sequence[str] | None = None,
    encoder_covariate_keys: Sequence[str] | bool | None = False,
) -> CovariateKeys:
    """Decide which column serves which purpose.

    `library_key` is another name of `batch_key`. The batch alone serves ambient RNA, dispersion and library size.

    Raises
    ------
    ValueError
        A batch and a purpose key are both given, or a purpose has no source.
    TypeError
        A list of keys is not a list of names.

    Warns
    -----
    UserWarning
        The encoders are told categories: they can then remove what the ambient and library terms should explain.

    Examples
    --------
    >>> resolve_keys(batch_key="sample").ambient
    ['sample']
    """
    if batch_key is not None and library_key is not None and batch_key != library_key:
        raise ValueError(
            f"batch_key={batch_key!r} and library_key={library_key!r} are two names of one thing; give one of them."
        )
    name = "batch_key" if batch_key is not None else "library_key"
    batch = batch_key if batch_key is not None else library_key
    purposes = {
        "ambient_covariate_keys": ambient_covariate_keys,
        "dispersion_key": dispersion_key,
        "library_size_key": library_size_key,
    }
    given = [key for key, value in purposes.items() if value is not None]
    if batch is not None and given:
        raise ValueError(
            f"{name} cannot be combined with {', '.join(given)}: it already serves ambient RNA, dispersion and library "
            f"size. Give {name} alone, or all of {', '.join(purposes)}."
        )
    if batch is None:
        for key, value in purposes.items():
            if value is None:
                raise ValueError(
                    f"Either batch_key or {key} must be given; without batch_key (or library_key), all of "
                    f"{', '.join(purposes)} are needed."
                )
    lists = {
        "ambient_covariate_keys": [batch] if batch is not None else ambient_covariate_keys,
        "nn_conditioning_covariate_keys": nn_conditioning_covariate_keys,
        "nn_continuous_covariate_keys": nn_continuous_covariate_keys,
        "feature_scaling_covariate_keys": feature_scaling_covariate_keys,
        "encoder_covariate_keys": None if encoder_covariate_keys is False else encoder_covariate_keys,
    }
    lists = {key: _names(key, value) for key, value in lists.items()}
    if not lists["ambient_covariate_keys"]:
        raise ValueError("ambient_covariate_keys is empty; expected at least one column, or batch_key instead.")
    if encoder_covariate_keys is not False:
        warn(
            f"encoder_covariate_keys={encoder_covariate_keys!r}: encoders that are told the batch hide technical "
            "differences which this model explains otherwise. The recommended value is False."
        )
    conditioning = lists["nn_conditioning_covariate_keys"]
    return CovariateKeys(
        batch=batch,
        ambient=lists["ambient_covariate_keys"],
        dispersion=batch if batch is not None else dispersion_key,
        library=batch if batch is not None else library_size_key,
        conditioning=conditioning,
        continuous=lists["nn_continuous_covariate_keys"],
        scaling=conditioning if feature_scaling_covariate_keys is None else lists["feature_scaling_covariate_keys"],
        encoder=lists["encoder_covariate_keys"],
        batch_is_group=batch is not None,
    )


def check_keys(obs: pd.DataFrame, keys: CovariateKeys, *, size_factor_key: str | None = None) -> None:
    """Raise KeyError for a column that `obs` lacks, ValueError for missing values or numbers that cannot be used."""
    for key, argument in keys.columns().items():
        check_column(obs, argument, key)
    numbers = dict.fromkeys(keys.continuous, "nn_continuous_covariate_keys")
    if size_factor_key is not None:
        numbers[size_factor_key] = "size_factor_key"
    for key, argument in numbers.items():
        check_column(obs, argument, key)
        values = pd.to_numeric(obs[key], errors="coerce")
        bad = ~(values.abs() < float("inf"))
        if argument == "size_factor_key":
            bad |= ~(values > 0)
        if bad.any():
            expected = "positive finite numbers" if argument == "size_factor_key" else "finite numbers"
            raise ValueError(
                f"{argument}={key!r}: {int(bad.sum())} of {len(obs)} values are unusable, the first is "
                f"{obs[key][bad].iloc[0]!r} in cell {str(obs.index[bad.to_numpy().argmax()])!r}; expected {expected}."
            )


def check_nesting(
    obs: pd.DataFrame,
    library_key: str | None,
    dataset_key: str | None = None,
    technical_covariate_keys: Sequence[str] | None = None,
) -> None:
    """Raise unless the columns exist and every library lies in one data set; cells without a value are left out.

    Raises
    ------
    KeyError
        A column is absent.
    ValueError
        A library spans several data sets; lists them. A data set is given without libraries.

    Examples
    --------
    >>> obs = pd.DataFrame({"library": ["a", "b"], "study": ["x", "x"]})
    >>> check_nesting(obs, "library", "study")
    """
    technical = _names("technical_covariate_keys", technical_covariate_keys)
    named = {"library_key": library_key, "dataset_key": dataset_key}
    for argument, key in [*named.items(), *(("technical_covariate_keys", key) for key in technical)]:
        if key is not None and key not in obs.columns:
            raise KeyError(f"{argument}={key!r} is not a column of obs; found {list(obs.columns)}.")
    if dataset_key is None:
        return
    if library_key is None:
        raise ValueError(f"dataset_key={dataset_key!r} needs library_key, the libraries that data sets consist of.")
    known = obs[[library_key, dataset_key]].dropna().astype(str).drop_duplicates()
    per_library = known.groupby(library_key, observed=True)[dataset_key].agg(sorted)
    spanning = per_library[per_library.map(len) > 1]
    if len(spanning):
        listed = "; ".join(f"{name!r} in {found}" for name, found in spanning.head(5).items())
        raise ValueError(
            f"{len(spanning)} libraries of {library_key!r} lie in more than one data set of {dataset_key!r}: {listed}. "
            "Each library must belong to one data set: make the names unique, for example dataset + '_' + library."
        )


def _names(argument: str, value: Sequence[str] | None) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{argument}={value!r}; expected a list of column names.")
    return list(value)
