from pathlib import Path

import pytest
from tests.small_corpora import text

from unheard.data.manifest import Skip
from unheard.data.tables import ColumnChoice, Row, Table, open_table
from unheard.errors import ConfigError, ManifestError


def opened(path: Path, **told: str) -> Table:
    return open_table(
        path, choice=ColumnChoice(**told), names_audio=lambda cell: cell.endswith(".wav")
    )


def table(tmp_path: Path, content: str | bytes, name: str = "t.tsv", **told: str) -> Table:
    return opened(text(tmp_path / name, content), **told)


def pairs(read: Table) -> list[tuple[str, str]]:
    return [(row.cells["audio"], row.cells["text"]) for row in read.rows() if isinstance(row, Row)]


def skips(read: Table) -> list[tuple[int | None, str]]:
    return [(row.line, row.reason) for row in read.rows() if isinstance(row, Skip)]


TWO = [("a.wav", "one two"), ("b.wav", "three, four")]


@pytest.mark.parametrize(
    "content",
    [
        "path\tsentence\na.wav\tone two\nb.wav\tthree, four\n",
        "\ufeffpath\tsentence\r\na.wav\tone two\r\nb.wav\tthree, four\r\n",
        'path,sentence\na.wav,one two\nb.wav,"three, four"\n',
        "path;sentence\na.wav;one two\nb.wav;three, four\n",
        "Audio File | Transcript\na.wav|one two\nb.wav|three, four\n".replace(" | ", "|"),
        "sentence\tspeaker\tpath\none two\ts\ta.wav\nthree, four\ts\tb.wav\n",
        "a.wav\tone two\nb.wav\tthree, four\n",
        "a.wav\tone two\n\n\nb.wav\tthree, four",
        "a.wav|one two\nb.wav|three, four\n",
        "a.wav one two\nb.wav three, four\n",
        '{"audio_filepath": "a.wav", "text": "one two"}\n'
        '{"audio_filepath": "b.wav", "text": "three, four"}\n',
        "path\tsentence\na.wav\tone two\nb.wav\tthree, four\n".encode("utf-16"),
    ],
    ids=[
        "tsv",
        "bom-crlf",
        "csv",
        "semicolon",
        "bar",
        "order",
        "headerless",
        "blank-lines",
        "headerless-bar",
        "space",
        "jsonl",
        "utf-16",
    ],
)
def test_delimiter_and_columns_are_found(tmp_path: Path, content: str | bytes) -> None:
    read = table(tmp_path, content)
    assert pairs(read) == TWO
    assert skips(read) == []
    assert pairs(read) == TWO, "a table can be read twice"


def test_the_suffix_does_not_decide(tmp_path: Path) -> None:
    assert pairs(table(tmp_path, "path\ttext\na.wav\tx\n", name="t.csv")) == [("a.wav", "x")]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            "client_id\tpath\tsentence\tlocale\tsplit",
            {"speaker": "client_id", "language": "locale"},
        ),
        ("ID\tduration\twav\tspk_id\ttext", {"id": "ID", "duration": "duration"}),
        ("file_name\ttranscription\toffset\tduration", {"start": "offset"}),
        ("Audio Filename\tText\tStart Time\tEnd Time", {"start": "Start Time", "end": "End Time"}),
        ("wav_filename\twav_filesize\ttranscript", {"audio": "wav_filename"}),
    ],
)
def test_columns_are_known_by_many_names(
    tmp_path: Path, header: str, expected: dict[str, str]
) -> None:
    row = "\t".join(
        "x.wav" if "wav" in n or "file" in n.lower() else "1" for n in header.split("\t")
    )
    columns = table(tmp_path, f"{header}\n{row}\n").columns
    assert {"audio", "text"} <= set(columns)
    assert expected.items() <= columns.items()


def test_told_columns_win(tmp_path: Path) -> None:
    content = "path\ttext\tmine\twho\na.wav\tx\ty\tz\n"
    read = table(tmp_path, content, text="mine", speaker="Who")
    assert read.columns == {"text": "mine", "speaker": "who", "audio": "path"}
    with pytest.raises(ConfigError, match='no column "lost" for the text: found path, text, mine'):
        table(tmp_path, content, text="lost")


def test_columns_without_header_are_told_by_number(tmp_path: Path) -> None:
    content = "a.wav\tshort\ta far longer remark\nb.wav\tlittle\tanother remark\n"
    assert pairs(table(tmp_path, content))[0] == ("a.wav", "a far longer remark")
    assert pairs(table(tmp_path, content, text="2"))[0] == ("a.wav", "short")
    with pytest.raises(ConfigError, match="Name it by its number, 1 to 3"):
        table(tmp_path, content, text="text")


def test_an_unknown_header_above_recordings_is_a_header(tmp_path: Path) -> None:
    read = table(tmp_path, "Fichier\tPhrase dite\na.wav\tun\nb.wav\tdeux\n")
    assert read.has_header
    assert pairs(read) == [("a.wav", "un"), ("b.wav", "deux")]


def test_a_table_of_letters_apart_is_not_taken_for_the_text(tmp_path: Path) -> None:
    content = "1\ta.wav\tHello there!\thello there\th e l l o | t h e r e\n"
    assert pairs(table(tmp_path, content * 3))[0][1] == "Hello there!"


def test_bare_quotes_in_tab_separated_text_are_letters(tmp_path: Path) -> None:
    said = ['"Yes," she said.', 'He said "no"', '"All of it"', 'a 5" nail']
    content = "path\tsentence\n" + "".join(f"{n}.wav\t{line}\n" for n, line in enumerate(said))
    assert [line for _, line in pairs(table(tmp_path, content))] == said


def test_quotes_that_only_csv_writes_are_quotes(tmp_path: Path) -> None:
    content = 'path\tsentence\na.wav\t"He said ""no"""\nb.wav\t"tab\there"\nc.wav\tplain\n'
    assert [line for _, line in pairs(table(tmp_path, content))] == [
        'He said "no"',
        "tab\there",
        "plain",
    ]


def test_quoted_cells_run_over_lines(tmp_path: Path) -> None:
    content = 'path,text\na.wav,"one\ntwo"\nb.wav,three\n'
    read = table(tmp_path, content)
    assert pairs(read) == [("a.wav", "one\ntwo"), ("b.wav", "three")]
    assert [row.line for row in read.rows()] == [2, 4]


def test_rows_that_do_not_fit_are_listed_with_their_lines(tmp_path: Path) -> None:
    content = (
        "path,text\n"
        "a.wav,fine\n"
        "b.wav,a comma, inside\n"
        'c.wav,"never closed\n'
        'd.wav,"closed" and more\n'
        "lonely\n"
        "e.wav,fine\n"
    )
    read = table(tmp_path, content)
    assert pairs(read) == [("a.wav", "fine"), ("e.wav", "fine")]
    assert skips(read) == [(3, "columns"), (4, "quotes"), (5, "quotes"), (6, "columns")]


def test_a_tab_inside_a_text_costs_its_row(tmp_path: Path) -> None:
    read = table(tmp_path, "path\ttext\na.wav\tone\ttwo\nb.wav\tfine\n")
    assert skips(read) == [(2, "columns")]
    assert pairs(read) == [("b.wav", "fine")]


def test_empty_cells_at_the_end_may_be_missing(tmp_path: Path) -> None:
    read = table(tmp_path, "path\ttext\tspeaker\na.wav\tone\nb.wav\ttwo\ts\n")
    assert [row.cells["speaker"] for row in read.rows() if isinstance(row, Row)] == ["", "s"]


def test_json_lines_that_are_none_are_listed(tmp_path: Path) -> None:
    content = '{"audio": "a.wav", "text": "x"}\nnonsense\n[1]\n{"audio": "b.wav", "text": "y"}\n'
    read = table(tmp_path, content)
    assert [name for name, _ in pairs(read)] == ["a.wav", "b.wav"]
    assert skips(read) == [(2, "json"), (3, "json")]


def test_a_huge_line_is_listed(tmp_path: Path) -> None:
    content = b"path\ttext\na.wav\t" + b"x" * (17 << 20) + b"\nb.wav\ty\n"
    read = table(tmp_path, content)
    assert skips(read) == [(2, "long_line")]
    assert pairs(read) == [("b.wav", "y")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("name,age\nx,1\n", "found the columns name, age"),
        ('{"name": 1}\n', "found the columns name"),
    ],
)
def test_a_file_that_names_no_recordings_is_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        table(tmp_path, content)


def test_other_columns_are_kept(tmp_path: Path) -> None:
    row = next(iter(table(tmp_path, "path\ttext\tage\na.wav\tx\t40\n").rows()))
    assert isinstance(row, Row)
    assert row.others == {"age": "40"}
