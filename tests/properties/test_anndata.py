"""Whatever AnnData comes in: a right answer, or a documented error with a remedy; and the data as they were."""

import inspect
import warnings
import zlib

import pytest
from hypothesis import assume, given, note, seed
from hypothesis import strategies as st
from property_inputs import LABELS, finite, judged, nasty, writable
from property_table import BULK, CELLS, CLASSES, NO_DATA, OTHER_FUNCTIONS, REFUSED, SLOW_TABLE, TABLE

import hpvade as hp


def tried(name, call, base, models, folder, more=()):
    """Try one callable on faulty copies of `base`."""

    @seed(zlib.crc32(name.encode()))
    @given(nasty(base, more), st.fixed_dictionaries({}, optional=call.options))
    def check(case, options):
        adata, faults = case
        note(f"{name}: {faults}, {options}")
        was_writable = writable(adata, folder)
        if name in CELLS and name.startswith("RegularizedMultimodalVI") and not name.endswith("setup_anndata"):
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


def takes_data(function) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any("AnnData" in str(p.annotation) or p.name in ("adata", "bulk", "bulk_adata") for p in parameters)


def test_every_public_function_is_in_the_table():
    known = {name.split(" ")[0] for name in TABLE | SLOW_TABLE}
    functions = {f"{room}.{name}" for room in ("pp", "tl") for name in getattr(hp, room).__all__}
    assert functions - known - set(OTHER_FUNCTIONS) == set()
    methods = {
        f"{name}.{method}"
        for name in CLASSES.values()
        for method, value in inspect.getmembers(getattr(hp, name), callable)
        if not method.startswith("_") and takes_data(value) and method not in (*NO_DATA, *REFUSED)
    }
    assert methods - known == set()
