import anndata as ad
import pandas as pd

import hpvade as hp
from hpvade._cli._words import in_words


def test_the_words_and_numbers_of_the_python_interface(run, files, model, tmp_path):
    result = run("diagnose", files.bulk, "--model", model, "-o", tmp_path / "q.csv", "-o", tmp_path / "q.h5ad")
    bulk = ad.read_h5ad(files.bulk)
    hp.tl.diagnose(bulk, hp.HPVADE.load(model))
    messages, flagged = bulk.uns["hpvade_qc"]["messages"], bulk.obs["hpvade_qc_flagged"]
    first, *rest = result.stdout.splitlines()
    assert first == f"6 samples, {flagged.sum()} to look at; {len(messages)} remarks on the cohort."
    for message in messages:
        assert f"- {in_words(message, frozenset())}" in rest
    for name in bulk.obs_names[flagged]:
        assert f"- {name}: {bulk.obs.loc[name, 'hpvade_qc_verdict']}" in rest
    table = pd.read_csv(tmp_path / "q.csv", index_col="sample")
    pd.testing.assert_series_equal(
        table["residual"], bulk.obs["hpvade_qc_residual"], check_names=False, check_index_type=False, rtol=1e-4
    )
    assert list(ad.read_h5ad(tmp_path / "q.h5ad").uns["hpvade_qc"]["messages"]) == list(messages)


def test_one_file_twice_is_refused(run, files, model, tmp_path):
    twice = ["-o", tmp_path / "q.csv", "-o", tmp_path / "q.csv"]
    assert "one file twice" in run("diagnose", files.bulk, "--model", model, *twice, code=2).stderr
