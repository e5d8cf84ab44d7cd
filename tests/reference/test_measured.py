"""What a bulk measures: information per pair against its formula, planted gaps and planted depths."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp
from hpvade.reference._measured import FLOOR, pair_information, read_measured, reads_needed

N_GENES, TYPES = 400, [f"type{k}" for k in range(5)]
GENES = pd.Index([f"GENE{i}" for i in range(N_GENES)])


def profiles(n_genes=N_GENES, n_types=5, seed=10):
    rng = np.random.default_rng(seed)
    p = (rng.gamma(0.4, 1.0, (n_genes, 1)) + 0.01) * np.exp(rng.normal(0, 0.2, (n_genes, n_types)))
    block = n_genes // (2 * n_types)
    for k in range(n_types):
        p[k * block : (k + 1) * block, k] *= 8
    return p / p.sum(axis=0)


SHARE = profiles()
W = np.random.default_rng(5).dirichlet(np.full(5, 2.0), 12)


def mixtures(depth=2e6, share=SHARE, seed=2, n=12) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    mean = share * np.exp(rng.normal(0, 0.4, (len(share), 1))) @ W[:n].T
    X = rng.poisson((mean / mean.sum(axis=0)).T * np.broadcast_to(depth, n)[:, None]).astype(np.float32)
    return ad.AnnData(
        X, obs=pd.DataFrame(index=[f"s{i}" for i in range(n)]), var=pd.DataFrame(index=GENES[: len(share)])
    )


def read(bulk, **options):
    """Batches, and the texts of the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        batches = read_measured(bulk, GENES, TYPES, SHARE, np.ones(N_GENES, dtype=bool), **options)
    assert all(w.category is UserWarning and w.filename == __file__ for w in caught)
    return batches, [str(w.message) for w in caught]


def test_genes_lost_to_upper_and_lower_case_are_named():
    bulk = mixtures()
    bulk.var_names = [name.lower() if i % 2 else name for i, name in enumerate(GENES)]
    (_, (said,)) = read(bulk)
    assert "200 of these are there in other upper or lower case, as 'GENE1': write the names" in said
    bulk.var_names = [f"other{i}" if i % 2 else name for i, name in enumerate(GENES)]
    (_, (said,)) = read(bulk)
    assert "case" not in said


def test_names_that_two_species_share_are_no_reason_to_answer():
    known = pd.Index(hp.datasets.pbmc_bulk().var_names)
    same = known[known == known.str.capitalize()][:80]  # C1orf112 and the like
    genes = same.append(known[known != known.str.capitalize()][: N_GENES - 80])
    bulk = mixtures()
    bulk.var_names = genes.str.capitalize()  # as mouse genes are written
    with pytest.raises(ValueError, match="The bulk has mouse genes, the model human ones"):
        read_measured(bulk, genes, TYPES, SHARE, np.ones(N_GENES, dtype=bool))
    bulk.var_names = genes
    with pytest.warns(UserWarning, match="80 of the model's 400 genes"):  # few human genes are few, and an answer
        assert len(read_measured(bulk[:, :80].copy(), genes, TYPES, SHARE, np.ones(N_GENES, dtype=bool))) == 1


def test_information_is_the_capped_square_of_log_ratios():
    rng = np.random.default_rng(0)
    share, genes = rng.gamma(0.3, 1, (50, 4)), np.arange(5, 30)
    share /= share.sum(axis=0)
    expected = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            for g in genes:
                r = (share[g, i] + FLOOR) / (share[g, j] + FLOOR)
                expected[i, j] += min((np.log(r) / np.log(8)) ** 2, 1)
    np.testing.assert_allclose(pair_information(share, genes), expected)


def test_reads_needed_is_where_a_multinomial_fit_is_three_times_as_good_as_equal_parts():
    """Types with genes of their own are counts of a multinomial, whose variance at equal parts is known."""
    K, own = 4, 3
    share = np.kron(np.eye(K), np.full((own, 1), 1 / own))
    variance = (1 / K) * (1 - 1 / K)  # times one over the reads
    expected = 3 * variance / (variance / (2 * K + 1))
    assert reads_needed(share, np.arange(K * own)) == pytest.approx(expected, rel=1e-3)


def test_a_complete_bulk_is_read_in_silence():
    (batch,), said = read(mixtures())
    assert said == [] and batch.present.all() and batch.name == ""
    np.testing.assert_array_equal(batch.samples, np.arange(12))


# missing genes


def test_a_few_missing_genes_only_say_so():
    (batch,), said = read(mixtures()[:, 20:].copy())
    assert len(said) == 1 and "missing are 20 (5.0%)" in said[0] and "pairs" not in said[0]
    np.testing.assert_array_equal(batch.present, np.arange(N_GENES) >= 20)


def test_pairs_that_suffer_are_named():
    """Without the markers of two types, these cannot be told apart; others can."""
    kept = np.arange(N_GENES) >= 80
    _, said = read(mixtures()[:, kept].copy())
    left = pair_information(SHARE, np.flatnonzero(kept))
    assert left[0, 1] < 10 < left[2, 3]
    assert len(said) == 1 and "1 of 10 pairs" in said[0] and said[0].endswith("type0 / type1.")


@pytest.mark.parametrize("missing", ["mean", "zero"])
def test_too_little_information_is_refused_with_its_amount(missing):
    few = mixtures()[:, 200:300].copy()  # no marker of any type
    with pytest.raises(ValueError, match=r"100 of the model's 400 genes .25\.0%.; the typical pair .* genes' worth"):
        read(few, missing=missing)


def test_a_panel_of_markers_is_enough_where_as_many_other_genes_are_not():
    panel = mixtures()[:, np.r_[0:200:2]].copy()  # a quarter of the names
    (batch,), said = read(panel)
    assert batch.present.sum() == 100 and len(said) == 1
    with pytest.raises(ValueError, match="genes' worth"):
        read(mixtures()[:, np.r_[200:300]].copy())


def test_mixed_up_names_are_still_explained():
    bulk = mixtures()
    bulk.var_names = [f"ENSG{i:011d}" if i > 15 else name for i, name in enumerate(bulk.var_names)]  # a few are shared
    with pytest.raises(ValueError, match="The bulk has Ensembl ids, the model gene symbols"):
        read(bulk)


# genes that were filled with zeros


@pytest.mark.parametrize("n", [1, 12])
@pytest.mark.parametrize("genes", [np.arange(130), np.arange(0, 400, 3), np.arange(150, 200)])
def test_genes_filled_with_zeros_count_as_missing(genes, n):
    bulk = mixtures(n=n)
    bulk.X[:, genes] = 0
    (batch,), said = read(bulk)
    assert len(said) == 1 and "no read in any sample" in said[0] and "missing='zero'" in said[0]
    np.testing.assert_array_equal(batch.present, bulk.X.any(axis=0))


def test_zeros_are_measurements_on_request():
    bulk = mixtures()
    bulk.X[:, :60] = 0
    (batch,), said = read(bulk, missing="zero")
    assert batch.present.all() and said == []


def test_an_absent_type_is_no_missing_gene():
    """Markers without a read are what an absent type looks like."""
    share = SHARE.copy()
    share[:40, 1:] = 0  # markers of type0 that no other type shows
    share /= share.sum(axis=0)
    w = W.copy()
    w[:, 0] = 0
    X = np.random.default_rng(0).poisson(1e6 * (w / w.sum(axis=1, keepdims=True)) @ share.T).astype(np.float32)
    assert not X[:, :40].any()
    bulk = ad.AnnData(X, var=pd.DataFrame(index=GENES))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (batch,) = read_measured(bulk, GENES, TYPES, share, np.ones(N_GENES, dtype=bool))
    assert batch.present.all()


def test_shallow_samples_have_zeros_but_miss_nothing():
    batches, said = read(mixtures(depth=3000))
    assert len(batches) == 1 and batches[0].present.all() and said == []


GAPS = {"one": (np.arange(100), None), "both": (np.arange(0, 60), np.arange(100, 350)), "few": (np.arange(40), None)}


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("order", ["blocks", "mixed"])
def test_batches_of_an_outer_join_are_found(gap, order):
    first = np.arange(12) < 5 if order == "blocks" else np.arange(12) % 3 == 0
    bulk = mixtures()
    for rows, genes in zip((first, ~first), GAPS[gap], strict=True):
        if genes is not None:
            bulk.X[np.ix_(rows, genes)] = 0
    batches, said = read(bulk)
    assert len(batches) == 2 and len(said) == 1
    found = {tuple(batch.samples): batch for batch in batches}
    for rows, genes in zip((first, ~first), GAPS[gap], strict=True):
        batch = found[tuple(np.flatnonzero(rows))]
        assert list(batch.bulk.obs_names) == list(bulk.obs_names[rows])
        lacks = np.zeros(N_GENES, dtype=bool)
        lacks[[] if genes is None else genes] = True
        np.testing.assert_array_equal(batch.present, ~lacks)
    named, _ = read(bulk, batch_key=None, split=False)
    common = np.logical_and.reduce([batch.present for batch in batches])
    np.testing.assert_array_equal(named[0].present, common)


def test_named_batches_are_cohorts_of_their_own():
    bulk = mixtures()
    bulk.obs["study"] = pd.Categorical(["a", "b", "c"] * 4)
    batches, said = read(bulk, batch_key="study")
    assert [batch.name for batch in batches] == ["a", "b", "c"] and said == []
    np.testing.assert_array_equal(batches[1].samples, [1, 4, 7, 10])
    with pytest.raises(KeyError, match=r"batch_key='site' is not a column of bulk\.obs; found \['study'\]"):
        read(bulk, batch_key="site")
    bulk.obs.loc["s3", "study"] = None
    with pytest.raises(ValueError, match=r"missing for 's3'"):
        read(bulk, batch_key="study")


def test_skipped_samples_keep_the_others_in_place():
    bulk = mixtures()
    bulk.obs["study"] = ["a", "b"] * 6
    bulk.X[2] = np.nan
    batches, said = read(bulk, batch_key="study", on_bad_sample="skip")
    assert len(said) == 1
    np.testing.assert_array_equal(batches[0].samples, [0, 4, 6, 8, 10])
    assert list(batches[0].bulk.obs_names) == ["s0", "s4", "s6", "s8", "s10"]


# reads


def test_samples_with_too_few_reads_are_named():
    depth = np.full(12, 1e5)
    depth[[1, 7]] = 40, 60
    _, said = read(mixtures(depth=depth))
    assert len(said) == 1 and said[0].startswith("2 samples have too few reads") and "'s1' (" in said[0]
    assert "'s7' (" in said[0]


def test_scale_does_not_hide_few_reads_and_intensities_are_no_counts():
    bulk = mixtures(depth=50)
    bulk.X *= 1e3 / 7
    assert "12 samples have too few reads" in read(bulk)[1][0]
    intensities = mixtures()
    intensities.X = 200 + 0.01 * intensities.X  # background: largest over smallest is small, but nothing was counted
    assert read(intensities)[1] == []


def test_a_panel_needs_fewer_reads_because_all_are_in_markers():
    panel = mixtures(depth=np.full(12, 400))[:, :200].copy()
    assert not any("too few reads" in text for text in read(panel)[1])
