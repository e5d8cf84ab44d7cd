import numpy as np
import pytest

import hpvade as hp
from hpvade.io._quantifiers import sample_name

GENES = [f"ENSG{number:011d}.2" for number in (198851, 177455, 75624)]
TPM, COUNTS = [5e5, 3e5, 2e5], [10.5, 6.0, 4.0]


def rsem(scale=1):
    rows = [
        f"{gene}\tENST0001,ENST0002\t1000.5\t900.5\t{count * scale}\t{tpm}\t{tpm / 2}"
        for gene, count, tpm in zip(GENES, COUNTS, TPM, strict=True)
    ]
    return "\n".join(["gene_id\ttranscript_id(s)\tlength\teffective_length\texpected_count\tTPM\tFPKM", *rows]) + "\n"


def salmon():
    rows = [f"{gene}\t1000\t900\t{tpm}\t{count}" for gene, count, tpm in zip(GENES, COUNTS, TPM, strict=True)]
    return "\n".join(["Name\tLength\tEffectiveLength\tTPM\tNumReads", *rows]) + "\n"


def kallisto():
    rows = [
        f"ENST0000000000{i}.1|{GENES[i // 2]}|OTT|-|name|gene|10|protein_coding|\t1000\t900\t{i + 1}\t{10 * i}"
        for i in range(6)
    ]
    return "\n".join(["target_id\tlength\teff_length\test_counts\ttpm", *rows]) + "\n"


def star(second=1):
    rows = [f"{key}\t9\t9\t9" for key in ("N_unmapped", "N_multimapping", "N_noFeature", "N_ambiguous")]
    return "\n".join([*rows, *(f"{gene}\t{i + 5}\t{i}\t{second}" for i, gene in enumerate(GENES))]) + "\n"


def test_rsem_gives_tpm_and_counts(tmp_path):
    (tmp_path / "s1.genes.results").write_text(rsem())
    bulk = hp.io.read_bulk(tmp_path / "s1.genes.results")
    np.testing.assert_allclose(bulk.X, [TPM])
    np.testing.assert_allclose(bulk.layers["counts"], [COUNTS])
    assert list(bulk.obs_names) == ["s1"] and list(bulk.var_names) == GENES
    assert bulk.var["length"].tolist() == [1000.5] * 3


def test_salmon_is_named_by_its_folder(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "quant.genes.sf").write_text(salmon())
    bulk = hp.io.read_bulk(tmp_path)
    assert list(bulk.obs_names) == ["a", "b"]
    np.testing.assert_allclose(bulk.X, [TPM, TPM])


def test_transcripts_with_their_gene_in_the_name_are_added_up(tmp_path):
    (tmp_path / "abundance.tsv").write_text(kallisto())
    bulk = hp.io.read_bulk(tmp_path / "abundance.tsv")
    assert list(bulk.var_names) == [gene.split(".")[0] for gene in GENES]
    np.testing.assert_allclose(bulk.X, [[0 + 10, 20 + 30, 40 + 50]])
    np.testing.assert_allclose(bulk.layers["counts"], [[1 + 2, 3 + 4, 5 + 6]])
    assert "length" not in bulk.var


def test_star_gives_its_unstranded_counts(tmp_path):
    (tmp_path / "s1_ReadsPerGene.out.tab").write_text(star())
    (tmp_path / "s2_ReadsPerGene.out.tab").write_text(star(100))
    bulk = hp.io.read_bulk(tmp_path)
    np.testing.assert_array_equal(bulk.X, [[5, 6, 7]] * 2)
    assert list(bulk.obs_names) == ["s1", "s2"]
    assert "stranded" in " ".join(hp.io.read_bulk(tmp_path / "s2_ReadsPerGene.out.tab").uns["hpvade_read"]["notes"])


def test_files_are_joined_by_gene(tmp_path):
    for name, text in {"s1": rsem(), "s2": rsem(2)}.items():
        head, *rows = text.splitlines()
        (tmp_path / f"{name}.genes.results").write_text(
            "\n".join([head, *(rows if name == "s1" else rows[::-1])]) + "\n"
        )
    bulk = hp.io.read_bulk([tmp_path / "s1.genes.results", tmp_path / "s2.genes.results"])
    np.testing.assert_allclose(bulk.layers["counts"], [COUNTS, np.multiply(2, COUNTS)])
    np.testing.assert_allclose(bulk.X, [TPM, TPM])
    (tmp_path / "s3.genes.results").write_text("\n".join(rsem().splitlines()[:-1]) + "\n")
    with pytest.raises(ValueError, match="one annotation"):
        hp.io.read_bulk(tmp_path)
    with pytest.raises(ValueError, match="Two files are of sample 's1'"):
        hp.io.read_bulk([tmp_path / "s1.genes.results"] * 2)
    with pytest.raises(ValueError, match="No files"):
        hp.io.read_bulk([])


def test_names_of_samples(tmp_path):
    assert (
        sample_name(tmp_path / "p7" / "quant.sf") == "p7" and sample_name(tmp_path / "p7" / "abundance.tsv.gz") == "p7"
    )
    assert sample_name(tmp_path / "s1.genes.results") == sample_name(tmp_path / "s1ReadsPerGene.out.tab") == "s1"
    assert sample_name(tmp_path / "my.table.csv") == "my.table"
