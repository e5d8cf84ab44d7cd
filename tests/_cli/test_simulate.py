import anndata as ad
import numpy as np

from hpvade._cli._io import read_table


def test_hp25_simulate_writes_counts_and_truth(run, files, tmp_path):
    options = ["--labels-key", "cell_type", "--n-samples", 5, "--n-cells", 50, "--seed", 4]
    outputs = ["-o", tmp_path / "b.h5ad", "--truth", tmp_path / "t.csv"]
    result = run("simulate", files.ref, *outputs, *options)
    assert f"{tmp_path / 'b.h5ad'}: 5 samples x 200 genes, 50 cells each." in result.stdout
    bulk = ad.read_h5ad(tmp_path / "b.h5ad")
    assert bulk.shape == (5, 200)
    truth = bulk.obsm["proportions"].to_numpy()
    # realised fractions: whole numbers of cells
    np.testing.assert_allclose(50 * truth, np.round(50 * truth), atol=1e-4)
    np.testing.assert_allclose(bulk.obsm["rna_proportions"].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(read_table(tmp_path / "t.csv"), truth)
    run("simulate", files.ref, "-o", tmp_path / "again.h5ad", *options)
    again = ad.read_h5ad(tmp_path / "again.h5ad")
    np.testing.assert_array_equal(np.asarray(again.X.sum(axis=0)), np.asarray(bulk.X.sum(axis=0)))


def test_hp25_alpha_and_sparse_lower_the_entropy(run, files, tmp_path):
    def entropy(*options):
        common = ["--labels-key", "cell_type", "--n-samples", 60, "--n-cells", 100]
        run("simulate", files.ref, "-o", tmp_path / "b.h5ad", "--truth", tmp_path / "t.csv", *common, *options)
        p = read_table(tmp_path / "t.csv").to_numpy()
        return -(p * np.log(np.clip(p, 1e-12, None))).sum(axis=1).mean()

    even = entropy("--alpha", 50)
    assert entropy("--alpha", 0.2) < 0.6 * even
    assert entropy("--alpha", 50, "--sparse", 1) < 0.95 * even


def test_bad_input_writes_nothing(run, files, tmp_path):
    result = run("simulate", files.ref, "-o", tmp_path / "b.h5ad", "--labels-key", "no", code=1)
    assert "--labels-key no is not a column of REF.obs" in result.stderr and result.stderr.count("\n") == 1
    result = run("simulate", files.ref, "-o", tmp_path / "b.csv", "--labels-key", "cell_type", code=2)
    assert "ends in .h5ad" in result.stderr
    result = run("simulate", files.ref, "-o", tmp_path / "b.h5ad", "--labels-key", "cell_type", "--alpha", -1, code=1)
    assert "alpha" in result.stderr
    assert list(tmp_path.iterdir()) == []
