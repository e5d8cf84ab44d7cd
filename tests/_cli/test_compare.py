import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """Proportions of 12 samples with their intervals, as csv and as h5ad; type_0 is planted to be more in the ill."""
    folder = tmp_path_factory.mktemp("groups")
    names = [f"s{i}" for i in range(12)]
    p = np.random.default_rng(0).dirichlet([60, 100, 40], 12)
    p[6:] *= [3, 1, 1]
    table = pd.DataFrame(p / p.sum(axis=1, keepdims=True), names, ["type_0", "type_1", "type_2"])
    bounds = {"lower": table * 0.9, "median": table, "upper": table * 1.1}
    wide = pd.concat([frame.add_suffix(f"_{bound}") for bound, frame in bounds.items()], axis=1)
    table.to_csv(folder / "p.csv", index_label="sample")
    wide.to_csv(folder / "p.intervals.csv", index_label="sample")
    obs = pd.DataFrame({"condition": ["well"] * 6 + ["ill"] * 6, "donor": [f"d{i % 6}" for i in range(12)]}, names)
    obs.to_csv(folder / "samples.csv", index_label="sample")
    data = ad.AnnData(np.ones((12, 1)), obs=obs)
    data.obsm["hpvade_proportions"] = table
    for bound in ("lower", "upper"):
        data.obsm[f"hpvade_proportions_{bound}"] = bounds[bound]
    data.write_h5ad(folder / "p.h5ad")
    return folder


OPTIONS = ["--groupby", "condition", "--reference", "well"]


@pytest.mark.parametrize("more", [[], ["--paired", "donor"], ["--method", "ols"]])
def test_the_table_of_the_python_interface(run, groups, tmp_path, more):
    table = ["--samples", groups / "samples.csv", *OPTIONS, *more]
    result = run("compare", groups / "p.csv", *table, "-o", tmp_path / "a.csv")
    run("compare", groups / "p.h5ad", *OPTIONS, *more, "-o", tmp_path / "b.csv")
    data = ad.read_h5ad(groups / "p.h5ad")
    options = {name.removeprefix("--"): value for name, value in zip(more[::2], more[1::2], strict=True)}
    expected = hp.tl.compare_groups(data, "condition", reference="well", **options)
    for name in ("a.csv", "b.csv"):
        written = pd.read_csv(tmp_path / name)
        pd.testing.assert_frame_equal(written, expected.reset_index(drop=True), check_dtype=False, rtol=1e-6)
    assert "- type_0: more in ill than in well" in result.stdout
    inputs = json.loads((tmp_path / "a.csv.provenance.json").read_text())["inputs"]
    assert len(inputs) == 3


def test_what_is_refused(run, groups, tmp_path):
    output = ["-o", tmp_path / "g.csv"]
    said = run("compare", groups / "p.csv", "--groupby", "condition", *output, code=2).stderr
    assert "no column 'condition'" in said and "--samples TABLE" in said
    said = run("compare", groups / "p.h5ad", "--groupby", "donor", "--reference", "d9", *output, code=1).stderr
    assert "d9" in said and "--reference" in said
    said = run("compare", groups / "p.h5ad", *OPTIONS, "--method", "mixed", *output, code=1).stderr
    assert "--paired" in said and not (tmp_path / "g.csv").exists()


@pytest.mark.parametrize("nothing", ["", "NA", "nan"])
def test_an_empty_cell_is_no_group(run, groups, tmp_path, nothing):
    table = pd.read_csv(groups / "samples.csv", index_col=0)
    table.loc[["s2", "s9"], "condition"] = nothing
    table.to_csv(tmp_path / "samples.csv", index_label="sample")
    inputs = [groups / "p.csv", "--samples", tmp_path / "samples.csv", "--groupby", "condition"]
    said = run("compare", *inputs, "-o", tmp_path / "x.csv", code=1).stderr
    assert "is missing (NaN) for 2 samples: s2, s9. Fill it in, or leave these samples out." in said


def test_samples_of_another_table_are_named(run, groups, tmp_path):
    pd.DataFrame({"sample": ["x1", "x2"], "condition": ["a", "b"]}).to_csv(tmp_path / "samples.csv", index=False)
    inputs = [groups / "p.csv", "--samples", tmp_path / "samples.csv", "--groupby", "condition"]
    said = run("compare", *inputs, "-o", tmp_path / "x.csv", code=1).stderr
    assert "samples.csv and the samples share no name: samples are ['s0', 's1', 's2']" in said
