import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from hpvade.reference import _transfer


def planted(n=120, n_genes=150, shift=0.0, seed=0):
    """Three types; every gene of a block of 30 is three times higher in one type. `shift`: gene factors (log sd)."""
    rng = np.random.default_rng(seed)
    base = rng.lognormal(1, 0.5, n_genes)
    profiles = np.tile(base, (3, 1))
    for k in range(3):
        profiles[k, 30 * k : 30 * k + 30] *= 3
    labels = rng.integers(0, 3, n)
    counts = rng.poisson(profiles[labels] * np.exp(shift * rng.standard_normal(n_genes)))
    genes = pd.Index([f"G{i}" for i in range(n_genes)])
    return counts.astype(np.float32), genes, np.array(["a", "b", "c"])[labels]


def dense_log(counts):
    return np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)


def test_moments_are_those_of_numpy():
    counts, genes, _ = planted()
    keep, groups = np.arange(120) % 3 > 0, np.arange(80) % 2
    mean, sd = _transfer.moments(sparse.csr_matrix(counts), np.arange(5), keep, groups)
    values = dense_log(counts)[keep][:, :5]
    for g in range(2):
        np.testing.assert_allclose(mean[g], values[groups == g].mean(0), rtol=1e-5)
        np.testing.assert_allclose(sd[g], values[groups == g].std(0), rtol=1e-4)


@pytest.mark.parametrize("n_types", [2, 3])
def test_probabilities_are_those_of_scikit_learn(n_types):
    """Sparse blocks and folded-in standardisation give what the textbook order of steps gives."""
    counts, genes, labels = planted()
    other, _, _ = planted(n=90, shift=0.3, seed=1)
    keep = np.isin(labels, ["a", "b", "c"][:n_types])
    everything = np.ones(90, dtype=bool)
    used = _transfer.shared_genes(other, genes, everything, counts, genes, keep)
    classifier = _transfer.fit_classifier(counts, genes, labels, keep, used)
    found = _transfer.predict(classifier, sparse.csr_matrix(other), genes, everything)
    train, test = dense_log(counts)[keep], dense_log(other)
    model = LogisticRegression(C=0.002, class_weight="balanced", max_iter=1000)
    model.fit((train - train.mean(0)) / train.std(0), labels[keep])
    np.testing.assert_allclose(found, model.predict_proba((test - test.mean(0)) / test.std(0)), atol=2e-4)
    assert classifier.types.tolist() == model.classes_.tolist()


def test_platform_factors_do_not_matter():
    counts, genes, labels = planted()
    other, _, truth = planted(n=300, shift=1.0, seed=2)
    everything = np.ones(300, dtype=bool)
    classifier = _transfer.fit_classifier(counts, genes, labels, np.ones(120, dtype=bool), genes)
    found = _transfer.predict(classifier, other, genes, everything)
    assert (classifier.types[found.argmax(1)] == truth).mean() > 0.98


def test_batches_are_standardised_by_themselves():
    counts, genes, labels = planted()
    first, _, _ = planted(n=100, seed=3)
    second, _, _ = planted(n=100, shift=0.5, seed=4)
    classifier = _transfer.fit_classifier(counts, genes, labels, np.ones(120, dtype=bool), genes)
    both = _transfer.predict(classifier, np.vstack([first, second]), genes, np.ones(200, bool), np.repeat([0, 1], 100))
    alone = [_transfer.predict(classifier, part, genes, np.ones(100, bool)) for part in (first, second)]
    np.testing.assert_allclose(both, np.vstack(alone), atol=1e-6)


def test_tables_of_the_anchor():
    held_out = np.array([[0.9, 0.1], [0.45, 0.55], [0.2, 0.8], [0.52, 0.48]])
    classifier = _transfer.Classifier(
        np.array(["a", "b"]), np.array(["G"]), np.zeros((2, 1)), np.zeros(2), np.array([0, 0, 1, 1]), held_out
    )
    table = _transfer.calibration(classifier)
    assert table["n_cells"].to_dict() == {"0.5-0.6": 2, "0.7-0.8": 1, "0.8-0.9": 1}
    assert table["correct"].to_dict() == {"0.5-0.6": 0.0, "0.7-0.8": 1.0, "0.8-0.9": 1.0}
    assert table.loc["0.5-0.6", "probability"] == pytest.approx(0.535)
    assert _transfer.right_below(classifier, 0.54) == 0 and _transfer.right_below(classifier, 0.85) == 1 / 3
    assert np.isnan(_transfer.right_below(classifier, 0.5))
    per_type = _transfer.accuracy(classifier, 0.54)
    assert per_type.loc["a"].tolist() == [2, 1.0, 0.5, 1.0]
    assert per_type.loc["b"].tolist() == [2, 0.5, 1.0, 0.5]


def test_entropy():
    np.testing.assert_allclose(_transfer.entropy(np.array([[1, 0, 0], [1 / 3] * 3])), [0, 1], atol=1e-12)


def test_too_little_is_shared():
    counts, genes, _ = planted()
    keep = np.ones(120, dtype=bool)
    few = genes[:60].append(pd.Index([f"H{i}" for i in range(90)]))
    with pytest.raises(ValueError, match="share 60 genes, 60 of them expressed on both sides; at least 100"):
        _transfer.shared_genes(counts, few, keep, counts, genes, keep)
    with pytest.raises(ValueError, match="upper and lower case only"):
        _transfer.shared_genes(counts, genes.str.lower(), keep, counts, genes, keep)
    ids = pd.Index([f"ENSG{i:011d}" for i in range(150)])
    with pytest.raises(ValueError, match="share 0 genes.*Ensembl ids"):
        _transfer.shared_genes(counts, ids, keep, counts, genes, keep)
