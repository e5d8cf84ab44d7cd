import anndata as ad
import pandas as pd


def test_a_page_from_tables(run, files, model, tmp_path):
    bulk = ad.read_h5ad(files.bulk)
    bulk.to_df().T.to_csv(tmp_path / "bulk.tsv", sep="\t", index_label="gene")
    pd.DataFrame({"id": bulk.obs_names, "group": ["a", "b"] * 3}).to_csv(tmp_path / "samples.csv", index=False)
    more = ["--truth", files.truth, "--samples", tmp_path / "samples.csv", "--groupby", "group", "--title", "My page"]
    result = run("report", tmp_path / "bulk.tsv", "--model", model, "-o", tmp_path / "r.html", *more)
    assert "r.html: 6 samples x 3 types." in result.stdout
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<h1>My page</h1>" in page and "a (n = 3)" in page and "Against measured proportions" in page
    assert "bulk.tsv" in page and "fields separated by tabs" in page


def test_what_is_refused(run, files, model, tmp_path):
    page = ["--model", model, "-o", tmp_path / "r.html"]
    pd.DataFrame({"id": ["x"], "group": ["a"]}).to_csv(tmp_path / "samples.csv", index=False)
    samples = ["--samples", tmp_path / "samples.csv"]
    assert "--groupby KEY" in run("report", files.bulk, *page, *samples, code=2).stderr
    said = run("report", files.bulk, *page, "--groupby", "g", code=2).stderr
    assert "has no column 'g' for its samples" in said and "Pass --samples TABLE" in said and "hpvade_qc" not in said
    assert "no column 'g'" in run("report", files.bulk, *page, *samples, "--groupby", "g", code=2).stderr
    assert "share no name" in run("report", files.bulk, *page, *samples, "--groupby", "group", code=1).stderr
    assert "ends in .html" in run("report", files.bulk, "--model", model, "-o", tmp_path / "r.pdf", code=2).stderr
    (tmp_path / "t.csv").write_text("sample,type_0\nx,1\n")
    assert "lacks 6 of the 6 samples" in run("report", files.bulk, *page, "--truth", tmp_path / "t.csv", code=1).stderr
    assert not (tmp_path / "r.html").exists()


def test_pairs_and_a_checked_reference(run, files, model, tmp_path):
    bulk = ad.read_h5ad(files.bulk)
    names = list(bulk.obs_names)
    pairs = pd.DataFrame({"group": ["a", "b"] * 3, "subject": [f"p{i // 2}" for i in range(6)]}, index=names)
    pairs.to_csv(tmp_path / "samples.csv", index_label="sample")
    run("check-labels", files.ref, "--labels-key", "cell_type", "--markers", "none", "-o", tmp_path / "checked.h5ad")
    more = ["--samples", tmp_path / "samples.csv", "--groupby", "group", "--paired", "subject"]
    more += ["--checked", tmp_path / "checked.h5ad"]
    run("report", files.bulk, "--model", model, "-o", tmp_path / "r.html", *more)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "subject" in page and "a (n = 3)" in page
    said = run("report", files.bulk, "--model", model, "-o", tmp_path / "s.html", "--paired", "subject", code=2).stderr
    assert "--paired KEY serves --groupby KEY" in said
