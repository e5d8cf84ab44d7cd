"""Several studies: one scale, masked genes, types from other studies."""

import warnings

import numpy as np
import pytest

from hpvade.reference._studies import combine_studies, warn_of_few_genes
from hpvade.simulate import cells_as_chunks

N_GENES, N_TYPES = 60, 4


def cells_of(profiles, kinds, n=400, depth=3000, seed=0):
    """Poisson cells of some types around `profiles` (genes x types), scaled to a depth."""
    rng = np.random.default_rng(seed)
    types = np.repeat(kinds, n)
    return rng.poisson(depth * (profiles / profiles.sum(axis=0).mean()).T[types]), types


def studies_of(parts):
    """`combine_studies` on (counts, types) of each study, every study one donor."""
    counts = np.concatenate([counts for counts, _ in parts])
    types = np.concatenate([types for _, types in parts])
    study = np.repeat(np.arange(len(parts)), [len(types) for _, types in parts])
    chunks = cells_as_chunks(counts, types, study, N_TYPES)
    return combine_studies(chunks, chunks.donors, [f"study {s}" for s in range(len(parts))])


@pytest.fixture
def profiles():
    return np.random.default_rng(1).lognormal(0, 1, (N_GENES, N_TYPES)) + 0.2


def test_one_study_is_its_plain_means(profiles):
    counts, types = cells_of(profiles, range(N_TYPES))
    found = studies_of([(counts, types)])
    means = np.stack([counts[types == k].mean(axis=0) for k in range(N_TYPES)], axis=1)
    np.testing.assert_allclose(found.mean_counts[0], means, rtol=1e-6)
    np.testing.assert_allclose(found.combined.mean_counts, means, rtol=1e-6)
    np.testing.assert_allclose(found.combined.composition, np.full(N_TYPES, 1 / N_TYPES))
    assert found.measured.all() and found.own.all()


def test_depth_of_a_study_does_not_count_and_rna_content_does(profiles):
    profiles = profiles * [1, 2, 4, 1]
    found = studies_of([cells_of(profiles, range(N_TYPES), depth=d, seed=d) for d in (4000, 1000)])
    np.testing.assert_allclose(found.mean_counts[1], found.mean_counts[0], rtol=0.2)
    sizes = found.combined.mean_counts.sum(axis=0)
    np.testing.assert_allclose(sizes / sizes[0], profiles.sum(axis=0) / profiles[:, 0].sum(), rtol=0.02)


def test_genes_that_a_study_lacks_are_masked_and_not_averaged(profiles):
    first, second = (cells_of(profiles, range(N_TYPES), seed=s) for s in (0, 1))
    second[0][:, :20] = 0
    found = studies_of([first, second])
    np.testing.assert_array_equal(found.measured[1], np.arange(N_GENES) >= 20)
    np.testing.assert_allclose(found.combined.mean_counts[:20], found.mean_counts[0][:20])
    np.testing.assert_allclose(found.combined.mean_counts[20:], found.mean_counts[:, 20:].mean(axis=0))
    np.testing.assert_array_equal(found.mean_counts[1][:20], found.combined.mean_counts[:20])
    # what both have is on one scale though the first has more genes in its total
    np.testing.assert_allclose(np.median(found.mean_counts[1][20:] / found.mean_counts[0][20:]), 1, rtol=0.01)


def test_a_type_that_a_study_lacks_comes_from_the_other_as_the_study_sees_genes(profiles):
    """The second platform sees genes by a factor of their own, which its three types tell."""
    factor = np.random.default_rng(2).lognormal(0, 0.7, N_GENES)
    found = studies_of([cells_of(profiles, range(N_TYPES)), cells_of(profiles * factor[:, None], range(3), seed=3)])
    np.testing.assert_array_equal(found.own, [[True] * 4, [True, True, True, False]])
    expected = profiles[:, 3] * factor
    shares, plain = (x / x.sum() for x in (found.mean_counts[1][:, 3], profiles[:, 3]))
    assert np.corrcoef(np.log(shares), np.log(expected))[0, 1] > 0.97
    assert (
        np.abs(np.log(shares / (expected / expected.sum()))).mean()
        < 0.5 * np.abs(np.log(plain * expected.sum() / expected)).mean()
    )


def test_a_type_of_one_study_only_is_kept_in_all(profiles):
    found = studies_of([cells_of(profiles, [0, 1, 2]), cells_of(profiles, [0, 3], seed=1)])
    assert (found.mean_counts.sum(axis=1) > 0).all()
    assert (found.combined.mean_counts > 0).all()
    np.testing.assert_allclose(found.combined.mean_counts[:, 3], found.mean_counts[1][:, 3])


def test_studies_without_a_common_type_are_refused(profiles):
    with pytest.raises(ValueError, match="study 'study 1' shares no type with study 0; expected a type in common"):
        studies_of([cells_of(profiles, [0, 1]), cells_of(profiles, [2, 3])])


def test_studies_without_a_common_gene_are_refused(profiles):
    first, second = cells_of(profiles, [0, 1, 2]), cells_of(profiles, [0, 1])
    first[0][:, :30], second[0][:, 30:] = 0, 0
    with pytest.raises(ValueError, match="study 'study 1' shares 0 measured genes with study 0"):
        studies_of([first, second])


def test_a_study_whose_genes_tell_no_types_apart_is_refused(profiles):
    """200 genes of 2,000: where the types are alike the study is refused, where they differ it is taken."""
    rng = np.random.default_rng(0)
    profiles = np.repeat(rng.lognormal(0, 1, (2000, 1)), N_TYPES, axis=1)
    profiles[:400] *= rng.lognormal(0, 1.5, (400, N_TYPES))
    for genes, refused in ((slice(500, 700), True), (slice(0, 200), False)):
        whole, few = cells_of(profiles, range(N_TYPES), 50), cells_of(profiles, range(N_TYPES), 50, seed=1)
        few[0][:, np.setdiff1d(np.arange(2000), np.arange(2000)[genes])] = 0
        if refused:
            with pytest.raises(ValueError, match=r"study 'study 1' measures 200 of 2000 genes.*at least 3 are needed"):
                studies_of([whole, few])
        else:
            assert studies_of([whole, few]).measured.sum(axis=1).tolist() == [2000, 200]


def test_a_study_of_few_genes_is_named():
    """Half of the marker genes are enough, a twentieth is not."""
    rng = np.random.default_rng(0)
    profiles = np.repeat(rng.lognormal(0, 1, (2000, 1)), N_TYPES, axis=1)
    profiles[:400] *= rng.lognormal(0, 1.5, (400, N_TYPES))
    for n, named in ((200, False), (20, True)):
        whole, few = cells_of(profiles, range(N_TYPES), 50), cells_of(profiles, range(N_TYPES), 50, seed=1)
        few[0][:, n:400] = 0
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            warn_of_few_genes(studies_of([whole, few]), ["study 0", "study 1"])
        words = f"Study 'study 1' measures {1600 + n} of 2000 genes"
        assert [str(one.message).split(":")[0] for one in found] == [words] * named
