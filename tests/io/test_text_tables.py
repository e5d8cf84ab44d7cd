import numpy as np
import pandas as pd
import pytest

import hpvade as hp
from hpvade.io._text_tables import is_number, looks_numeric, parse_cells, to_numbers


def numbers(text):
    cells = parse_cells(text, "t")
    table = cells.rows.iloc[:, 1:]
    return to_numbers(table, pd.Index(cells.rows[0]), pd.Index(cells.first[1:]), "t")


@pytest.mark.parametrize("text", ["1", "-1.5", "1e5", "1.2E-3", "1,5", "1,234,567.8", "1.234,5", ".5", "1 234"])
def test_numbers(text):
    assert is_number(text)


@pytest.mark.parametrize("text", ["", "NA", "a1", "1a", "-", "1-2", "e5", "chr1", "０", "²"])
def test_what_is_no_number(text):
    assert not is_number(text)


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1,5", 1.5),
        ("0,125", 0.125),
        ("1,234,567", 1234567),
        ("1.234.567", 1234567),
        ("1,234.5", 1234.5),
        ("1.234,5", 1234.5),
        ("12'345,5", 12345.5),
        ("1e-05", 1e-5),
        ("1,5e3", 1500),
    ],
)
def test_notations(cell, value):
    values, _ = numbers(f"gene;a;b\nx;{cell};2\ny;3;4\nz;5;6\n")
    np.testing.assert_allclose(values, [[value, 2], [3, 4], [5, 6]], rtol=1e-14)


def test_one_notation_holds_for_all_columns():
    values, notes = numbers("gene;a;b\nx;1.234.567;1.234\ny;3;2.000\n")
    np.testing.assert_array_equal(values, [[1234567, 1234], [3, 2000]])
    assert notes == ["thousands separated by '.'"]


@pytest.mark.parametrize("cells", [("1,234", "2"), ("1,5", "1.5"), ("1,234.5", "1.234,5")])
def test_doubtful_notations_are_refused(cells):
    with pytest.raises(ValueError, match="t: (numbers such as|decimal commas|commas and dots)"):
        numbers(f"gene;a;b\nx;{cells[0]};{cells[1]}\ny;3;4\nz;5;6\n")


def test_three_decimals_are_no_thousands():
    values = np.random.default_rng(0).gamma(2, 100, (50, 3)).round(3)
    text = "gene\ta\tb\tc\n" + "".join(f"g{i}\t" + "\t".join(map(str, row)) + "\n" for i, row in enumerate(values))
    np.testing.assert_array_equal(numbers(text)[0], values)


def test_the_name_of_a_cell_keeps_its_zeros():
    cells = parse_cells("sample,a,b\n001,1,2\n002,3,4\n", "t")
    assert cells.rows[0].tolist() == ["001", "002"]


def test_columns_of_text():
    assert not looks_numeric(pd.Series(["a", "b", "1"])) and not looks_numeric(pd.Series([True, False]))
    assert looks_numeric(pd.Series(["1,5", "2", "NA"])) and looks_numeric(pd.Series([1.0, 2.0]))
    assert not looks_numeric(pd.Series(["", "NA"]))


def test_quoted_fields_may_hold_the_delimiter():
    cells = parse_cells('gene,description,a\nx,"a, b",1\ny,"c",2\n', "t")
    assert cells.rows[1].tolist() == ["a, b", "c"] and cells.rows[2].tolist() == [1, 2]


def test_a_space_before_a_decimal_comma_and_a_name_of_two_words():
    values, _ = numbers('"s1"\n"CD3E" 3,75e+03\n"CD19" 0,5\n')
    assert values.tolist() == [[3750], [0.5]]
    cells = parse_cells("sample,a\npatient 1,15\npatient 2,20\n", "t")
    assert cells.rows[0].tolist() == ["patient 1", "patient 2"] and cells.rows[1].tolist() == [15, 20]


def test_a_quotation_mark_that_is_not_closed(tmp_path):
    path = tmp_path / "bulk.csv"
    path.write_text('gene,s1,s2\nCD3E,1,2\nACTB,"3,4\nMS4A1,5,6\n')
    with pytest.raises(ValueError, match=r"bulk\.csv"):
        hp.io.read_bulk(path)


def test_a_first_line_with_more_fields_than_the_others_is_named():
    with pytest.raises(ValueError, match=r"line 1 has 6 fields, the others have 3 .*'b 7 1 0 0 1'.*damaged, truncated"):
        parse_cells("b 7 1 0 0 1\nCD3E 0 7\nb 1 1\nCD4 0 0", "t")
