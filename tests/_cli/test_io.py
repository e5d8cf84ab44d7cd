import numpy as np
import pandas as pd
import pytest

from hpvade._cli._errors import UsageError
from hpvade._cli._io import (
    as_text,
    check_folder,
    check_output,
    complete,
    read_bulk,
    read_reference,
    read_table,
    show,
    write_table,
)


def test_an_output_appears_only_when_complete(tmp_path):
    path = tmp_path / "new" / "out.csv"
    with pytest.raises(ValueError, match="half"), complete(path) as partial:
        partial.write_text("half")
        raise ValueError("half")
    assert list(path.parent.iterdir()) == []
    with complete(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


def test_a_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match="half"), complete(path) as partial:
        partial.write_text("half")
        raise ValueError("half")
    assert path.read_text() == "old"


def test_a_folder_is_merged_and_never_emptied(tmp_path):
    target = tmp_path / "results"
    (target / "model").mkdir(parents=True)
    (target / "mine.txt").write_text("mine")
    (target / "model" / "a").write_text("old")
    with complete(target) as partial:
        (partial / "model").mkdir(parents=True)
        (partial / "model" / "a").write_text("new")
        (partial / "plot.png").write_text("p")
        # beside the files, not in a parent folder that may be somebody else's
        assert partial.is_relative_to(target)
    assert sorted(p.name for p in target.iterdir()) == ["mine.txt", "model", "plot.png"]
    assert (target / "model" / "a").read_text() == "new"


def test_a_table_survives_the_round_trip(tmp_path):
    table = pd.DataFrame({"B": [0.1, 1 / 3], "CD4 T": [0.9, 2 / 3]}, index=["001", "NA"])
    write_table(table, tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text().startswith("sample,B,CD4 T\n")
    pd.testing.assert_frame_equal(read_table(tmp_path / "p.csv"), table, check_names=False, check_exact=True)


def test_a_table_may_have_other_delimiters_and_decimal_commas(tmp_path):
    (tmp_path / "p.csv").write_text("sample;B;CD4 T\n001;0,25;0,75\n002;1;0\n")
    table = read_table(tmp_path / "p.csv")
    assert list(table.index) == ["001", "002"] and table.to_numpy().tolist() == [[0.25, 0.75], [1, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample\ns1\n", "one field per line"),
        ("sample,B\ns1,much\ns2,little\n", "'B' is not numeric"),
        ("sample,B\ns1,\ns2,1\n", "empty or NA"),
        ("sample,B\ns1,0\ns1,1\n", "sample 's1' more than once"),
        ("sample,B,B\ns1,0,1\n", "column 'B' more than once"),
        ("", "empty"),
        (bytes(range(256)), "binary"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path, text, message):
    path = tmp_path / "p.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as caught:
        read_table(path)
    assert "p.csv" in str(caught.value)


@pytest.mark.parametrize("read", [read_bulk, read_reference])
def test_files_that_cannot_be_read_are_named(read, tmp_path):
    (tmp_path / "no.h5ad").write_text("text")
    with pytest.raises(ValueError, match=r"no\.h5ad has one field per line"):
        read(tmp_path / "no.h5ad")
    with pytest.raises(UsageError, match=r"none\.h5ad does not exist"):
        read(tmp_path / "none.h5ad")
    with pytest.raises(ValueError, match="is a folder with"):
        read(tmp_path)


def test_what_was_found_out_is_said(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("gene;s1;s2\nENSG00000198851.1;1,5;2\nENSG00000177455.2;3;4\nENSG00000075624;5;6\n")
    bulk = read_bulk(tmp_path / "a.csv", genes=pd.Index(["CD3E", "CD19", "LYZ"]))
    said = capsys.readouterr().err
    assert "a.csv: 2 x 3 genes; fields separated by semicolons; genes are the rows; decimal commas" in said
    assert "genes: human, 67% of the reference's found" in said
    assert list(bulk.var_names) == ["CD3E", "CD19", "ENSG00000075624"]


def test_outputs_are_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UsageError, match=r"ends in \.csv or \.h5ad"):
        check_output(tmp_path / "out.txt", ".csv", ".h5ad")
    with pytest.raises(UsageError, match="is a folder"):
        check_output(tmp_path / "folder.csv", ".csv")
    with pytest.raises(UsageError, match="file is a file; expected a folder"):
        check_output(tmp_path / "file" / "deep" / "out.csv", ".csv")
    check_output(tmp_path / "not" / "yet" / "out.CSV", ".csv")
    assert not (tmp_path / "not").exists()


def test_folders_are_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"is not empty\. Choose another folder"):
        check_folder(tmp_path, overwrite=False)
    with pytest.raises(UsageError, match="is a file"):
        check_folder(tmp_path / "file", overwrite=True)
    check_folder(tmp_path, overwrite=True)
    (tmp_path / "empty").mkdir()
    check_folder(tmp_path / "empty", overwrite=False)


def test_numbers_are_formatted_and_undefined_is_a_dash(capsys):
    table = pd.DataFrame({f"column_{i}": [0.12345, np.nan] for i in range(12)}, index=["a [b]", "constant"])
    show(table, "Title")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "Title"
    assert any("column_11" in line for line in lines) and "…" not in "".join(lines)
    row = next(line for line in lines if "a [b]" in line)
    assert row.count("0.123") == 12 and "0.1234" not in row
    assert next(line for line in lines if "constant" in line).split() == ["constant", *["-"] * 12]
    assert as_text(table).splitlines()[2].split() == ["constant", *["-"] * 12]
