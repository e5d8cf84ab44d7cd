import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

from hpvade.models.ivae._metrics import clustering_metrics, mean_correlation


@pytest.fixture
def latent():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=(40, 3)) + 2.5 * k for k in range(3)])


LABELS = np.repeat(["a", "b", "c"], 40)


def test_iv_09_ari_is_sklearns_on_the_same_partitions(latent):
    found = clustering_metrics(latent, LABELS, 3, seed=7)
    partition = KMeans(3, n_init=10, random_state=7).fit_predict(latent)
    assert found["ARI"] == pytest.approx(adjusted_rand_score(LABELS, partition), abs=1e-12)
    assert 0.3 < found["ARI"] < 1  # a value that mutual information would not have by chance
    assert found["ARI"] != pytest.approx(found["NMI"], abs=0.01)
    assert found["ASW"] == pytest.approx((silhouette_score(latent, LABELS) + 1) / 2)


def test_iv_09_labels_that_mean_nothing_score_nothing(latent):
    """The partition is never scored against a clustering of the same latent vectors."""
    shuffled = np.random.default_rng(1).permutation(LABELS)
    found = clustering_metrics(latent, shuffled, 3, seed=0)
    assert abs(found["ARI"]) < 0.05 and found["NMI"] < 0.05


def test_without_labels(latent):
    assert list(clustering_metrics(latent, None, 3, 0)) == ["C_H", "D_B", "P_C"]


def test_mean_correlation_equals_numpy(latent):
    r = np.corrcoef(latent.T)
    expected = np.mean([abs(r[i, j]) for i in range(3) for j in range(3) if i != j])
    assert mean_correlation(latent) == pytest.approx(expected)
    assert mean_correlation(np.array([[0, 0], [1, -2], [2, -4.0]])) == pytest.approx(1)
    assert np.isnan(mean_correlation(latent[:, :1]))
    assert np.isnan(mean_correlation(np.c_[latent[:, 0], np.ones(120)]))
