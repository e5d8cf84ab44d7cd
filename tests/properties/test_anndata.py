"""Whatever AnnData comes in: a right answer, or a documented error with a remedy; and the data as they were."""

import inspect
import re
import warnings
import zlib

import pytest
from anndata import AnnData
from hypothesis import assume, given, note, seed
from hypothesis import strategies as st
from property_inputs import LABELS, finite, judged, nasty, writable
from property_table import (
    BULK,
    CELLS,
    CLASSES,
    NO_DATA,
    OTHER_FUNCTIONS,
    REFUSED,
    SLOW_TABLE,
    TABLE,
    WRITTEN_TO_ONE,
)

import hpvade as hp


def tried(name, call, base, models, folder, more=()):
    """Try one callable on faulty copies of `base`."""

    @seed(zlib.crc32(name.encode()))
    @given(nasty(base, more), st.fixed_dictionaries({}, optional=call.options))
    def check(case, options):
        adata, faults = case
        note(f"{name}: {faults}, {options}")
        was_writable = writable(adata, folder)
        if name.startswith("RegularizedMultimodalVI") and not name.endswith(("setup_anndata", *WRITTEN_TO_ONE)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                adata = models["pair"](adata)
            assume(adata is not None)
        what = f"{name}({options})"
        with judged(adata, call.writes, what) as outcome:
            result = call.run(models, adata, **options)
        if outcome["error"] is None and not call.needs:
            finite(result, what, nan=call.nan or outcome["skipped"])
            call.check(result, adata, options | {"skipped": outcome["skipped"]})
            assert not was_writable or writable(adata, folder), f"{what}: not writable any more"

    check()


@pytest.mark.parametrize("name", BULK)
def test_bulk(name, models, bulk, tmp_path):
    tried(name, BULK[name], bulk, models, tmp_path)


@pytest.mark.parametrize("name", CELLS)
def test_cells(name, models, tmp_path):
    tried(name, CELLS[name], models["cells"], models, tmp_path, LABELS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_TABLE)
def test_slow_functions(name, models, bulk, tmp_path):
    is_bulk = name == "report"
    tried(name, SLOW_TABLE[name], bulk if is_bulk else models["cells"], models, tmp_path, () if is_bulk else LABELS)


NO_CELLS = ("setup_anndata", "transfer_fields", "_manager", *REFUSED)
MODEL_CELLS = [name for name in CELLS if name[0].isupper() and not name.endswith(NO_CELLS)]


@pytest.mark.parametrize("name", MODEL_CELLS)
def test_cells_of_the_other_kind_are_refused(name, models):
    """A MuData where the model was set up with an AnnData, and the other way round."""
    other = models["cells"].copy()
    other = other if name.startswith("RegularizedMultimodalVI") else models["pair"](other)
    with judged(other, (), name) as outcome:
        CELLS[name].run(models, other)
    assert isinstance(outcome["error"], TypeError)


NO_MUDATA = ("_manager", *REFUSED)  # None of data that were not set up; refused whatever comes
OF_ADATA = [name for name in (*BULK, *CELLS) if not name.startswith("RegularizedMultimodalVI")]


@pytest.mark.parametrize("name", [name for name in OF_ADATA if not name.endswith(NO_MUDATA)])
def test_a_mudata_is_refused_with_the_cure(name, models, bulk):
    mdata = models["pair"](bulk.copy() if name in BULK else models["cells"].copy())
    with judged(mdata, (), name) as outcome:
        (BULK | CELLS)[name].run(models, mdata)
    assert isinstance(outcome["error"], TypeError)
    assert re.search(
        r"is a MuData of 'rna', 'atac'; expected one of them\. Pass .*mdata\['rna'\]", str(outcome["error"])
    )


DRAWN = {f"pl.{name}": getattr(hp.pl, name) for name in hp.pl.__all__} | {"report": hp.report}


@pytest.mark.parametrize("name", [name for name, f in DRAWN.items() if "AnnData" in str(inspect.signature(f))])
def test_a_mudata_is_refused_by_plots_and_the_report(name, models, bulk, tmp_path):
    """Arguments that are needed beside the data are not looked at first."""
    first, *others = inspect.signature(DRAWN[name]).parameters.values()
    needed = [p.name for p in others if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    arguments = {key: tmp_path / "x.html" if key == "path" else [] for key in needed}
    assert "AnnData" in str(first.annotation)
    with pytest.raises(TypeError, match=r"is a MuData of 'rna', 'atac'.*Pass mdata\['rna'\]"):
        DRAWN[name](models["pair"](bulk.copy()), **arguments)


def takes_data(function) -> bool:
    """Whether a function has a parameter for data of the user, perhaps among ``*args``."""
    parameters = inspect.signature(function).parameters.values()
    return any(
        p.kind is p.VAR_POSITIONAL
        or re.search("AnnData|MuData", str(p.annotation))
        or p.name in ("adata", "mdata", "bulk", "bulk_adata")
        for p in parameters
    )


def without_entry(classes: dict[str, type]) -> set[str]:
    """Public methods that take data, are in no entry, and have no reason to be in none."""
    known = {name.split(" ")[0] for name in TABLE | SLOW_TABLE}
    return {
        f"{name}.{method}"
        for name, kind in classes.items()
        for method, value in inspect.getmembers(kind, callable)
        if not method.startswith("_") and takes_data(value)
        if not {method, f"{name}.{method}"} & {*known, *NO_DATA, *REFUSED}
    }


def test_every_public_function_is_in_the_table():
    known = {name.split(" ")[0] for name in TABLE | SLOW_TABLE}
    functions = {f"{room}.{name}" for room in ("pp", "tl") for name in getattr(hp, room).__all__}
    functions |= {f"datasets.{name}" for name in hp.datasets.__all__ if takes_data(getattr(hp.datasets, name))}
    functions |= {name for name in hp.__all__ if inspect.isfunction(getattr(hp, name))}
    assert functions - known - set(OTHER_FUNCTIONS) == set()
    assert without_entry({name: getattr(hp, name) for name in CLASSES.values()}) == set()


def test_a_new_method_that_takes_data_needs_an_entry():
    class New(hp.HPVADE):
        def by_annotation(self, cells: AnnData | None = None): ...

        def by_name(self, mdata=None): ...

        def passes_on(self, *args, **kwargs): ...

        def takes_none(self, n_samples: int): ...

    assert without_entry({"HPVADE": New}) == {"HPVADE.by_annotation", "HPVADE.by_name", "HPVADE.passes_on"}
