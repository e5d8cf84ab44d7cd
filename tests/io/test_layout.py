import numpy as np
import pytest

from hpvade.io._layout import lay_out, normalise
from hpvade.io._text_tables import parse_cells


def laid(text, genes="auto"):
    return lay_out(parse_cells(text, "t"), "t", "stem", genes)


def test_heads_are_compared_without_their_dress():
    assert normalise("Gene ID ") == "gene_id" and normalise("transcript_id(s)") == "transcript_id_s"


def test_samples_called_by_numbers():
    layout = laid("gene,1,2,3\nCD3E,4,5,6\nCD19,7,8,9\n")
    assert list(layout.obs.index) == ["1", "2", "3"] and list(layout.var.index) == ["CD3E", "CD19"]


def test_a_first_line_of_a_gene_is_no_header():
    layout = laid("CD3E\t4\nCD19\t7\nACTB\t8\n")
    assert list(layout.obs.index) == ["stem"] and layout.values.tolist() == [[4, 7, 8]]
    assert "no header line" in " ".join(layout.notes)


def test_a_first_line_in_another_notation_than_the_rows():
    layout = laid("CD3E;1,5;2\nCD19;7;3\nACTB;8;4\n")
    assert layout.values.tolist() == [[1.5, 7, 8], [2, 3, 4]] and "decimal commas" in layout.notes


def test_a_first_line_in_doubt_is_refused():
    with pytest.raises(ValueError, match=r"cannot tell whether the first line \(thing, 4, 5"):
        laid("thing,4,5\nx1,7,8\nx2,8,9\n")


def test_a_first_line_unlike_genes_below_is_a_header():
    layout = laid("my_column,4,5\nCD3E,7,8\nCD19,8,9\n")
    assert list(layout.obs.index) == ["4", "5"]


def test_the_names_of_genes_are_the_ids_where_there_are_two_kinds():
    layout = laid(
        "gene_name,gene_id,a,b\nCD3E,ENSG00000198851,1,2\nCD19,ENSG00000177455,3,4\nCD19,ENSG00000075624,5,6\n"
    )
    assert list(layout.var.index)[0] == "ENSG00000198851"  # each once
    assert layout.var["gene_name"].tolist() == ["CD3E", "CD19", "CD19"]


def test_numbers_that_are_annotation():
    layout = laid("gene\tEntrez Gene ID\tstart\ta\nCD3E\t916\t5\t1\nCD19\t930\t6\t2\nACTB\t60\t7\t3\n")
    np.testing.assert_array_equal(layout.values, [[1, 2, 3]])
    assert "Entrez Gene ID, start" in " ".join(layout.notes)


def test_repeated_genes_are_said():
    layout = laid("gene,a,b\nCD3E,1,2\nCD3E,3,4\nCD19,5,6\n")
    assert "1 names of genes come again" in " ".join(layout.notes) and layout.values.shape == (2, 3)
