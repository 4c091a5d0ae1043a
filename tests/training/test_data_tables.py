"""Tables of image folders: metadata.csv, .jsonl and .parquet with all their columns, and what is refused in them."""

import json

import pytest

pytest.importorskip("diffusers", reason="install it with: pip install '.[train]'")
for package in ("jsonargparse", "matplotlib", "scipy", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from support.drawn import draw, prepared, samples, skin
from support.refused import refused

from training import TrainingError
from training.data.settings import Source
from training.data.sources import list_pictures

CAPTION = "A man@1 hugs another man@2"
ROWS = [
    {"file_name": "a.png", "text": CAPTION, "identity_1": "ben", "identity_2": "carl", "place": "beach"},
    {"file_name": "sub/b.png", "text": "Zwei Leute: 男人 und 女人", "identity_1": "", "identity_2": "", "place": ""},
]


def pictures(folder, *names):
    for name in names:
        draw(folder / name, [(32, 34, 12, skin(3)), (96, 34, 12, skin(4))])
    return folder


def listed(folder, **fields):
    return list_pictures(Source(str(folder), **fields))


def as_csv(rows, sign=","):
    return "\n".join(sign.join(map(str, row)) for row in [rows[0].keys(), *(row.values() for row in rows)]) + "\n"


def write(folder, ending, rows=ROWS):
    path = folder / f"metadata.{ending}"
    if ending == "parquet":
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist(rows), path)
    elif ending == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    else:
        path.write_text(as_csv(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_all_columns_of_a_table_are_read(tmp_path, ending):
    write(pictures(tmp_path, "a.png", "sub/b.png"), ending)
    (first, second), notes = listed(tmp_path)
    assert (first.caption, first.identities, first.columns) == (CAPTION, ("ben", "carl"), {"place": "beach"})
    assert (second.caption, second.identities, second.columns) == (ROWS[1]["text"], ("", ""), {})
    assert notes == []


def test_samples_keep_the_columns_that_mean_nothing_to_training(tmp_path):
    write(pictures(tmp_path / "data", "a.png", "sub/b.png"), "csv")
    prepared(tmp_path / "data", tmp_path / "out")
    told = {sample["picture"]: sample for sample, _ in samples(tmp_path / "out").values()}
    assert told["a.png"]["columns"] == {"place": "beach"}
    assert [person["identity"] for person in told["a.png"]["persons"]] == ["ben", "carl"]


@pytest.mark.parametrize(
    ("column", "value"), [("identity", "ben;carl"), ("identity", "ben | carl"), ("identities", ["ben", "carl"])]
)
def test_two_identities_may_stand_in_one_column(tmp_path, column, value):
    write(pictures(tmp_path, "a.png"), "jsonl", [{"file_name": "a.png", column: value}])
    assert listed(tmp_path)[0][0].identities == ("ben", "carl")


def test_a_spreadsheet_may_say_its_separator_and_have_a_mark_in_front(tmp_path):
    pictures(tmp_path, "a.png", "sub/b.png")
    text = "sep=;\r\n" + as_csv(ROWS, ";").replace("\n", "\r\n")
    (tmp_path / "metadata.csv").write_bytes(text.encode("utf-8-sig"))
    assert [picture.caption for picture in listed(tmp_path)[0]] == [row["text"] for row in ROWS]


def test_two_tables_of_one_picture_complete_each_other(tmp_path):
    write(pictures(tmp_path, "a.png"), "csv", [{"file_name": "a.png", "identity": "ben;carl", "place": "beach"}])
    write(tmp_path, "jsonl", [{"file_name": "a.png", "text": CAPTION, "place": "harbor"}])
    ((picture,), _) = listed(tmp_path)
    assert (picture.caption, picture.identities, picture.columns) == (CAPTION, ("ben", "carl"), {"place": "harbor"})


def test_annotations_may_stand_in_a_table(tmp_path):
    told = {"image_caption": {"text": CAPTION}}
    write(pictures(tmp_path, "a.png"), "jsonl", [{"file_name": "a.png", "annotation": told}])
    assert listed(tmp_path)[0][0].read_annotation() == told


def test_rows_of_pictures_that_are_not_there_are_named_with_their_line(tmp_path):
    write(pictures(tmp_path, "a.png"), "csv", [{"file_name": name, "text": CAPTION} for name in ("a.png", "gone.png")])
    (note,) = listed(tmp_path)[1]
    assert "gone.png" in note
    assert "metadata.csv, line 3" in note


def test_a_picture_with_two_rows_is_named(tmp_path):
    write(pictures(tmp_path, "a.png"), "csv", [{"file_name": "a.png", "text": text} for text in ("old", "new")])
    ((picture,), (note,)) = listed(tmp_path)
    assert picture.caption == "new"
    assert "metadata.csv, line 3 names a.png once more, after" in note
    assert "line 2" in note


@pytest.mark.parametrize(
    ("name", "text", "code", "named"),
    [
        ("metadata.csv", "file_name,text,text\na.png,x,y\n", "columns-doubled", ("metadata.csv", "text")),
        ("metadata.csv", "picture,text\na.png,x\n", "table-without-file-name", ("metadata.csv", "picture, text")),
        ("metadata.csv", "file_name,text\n,x\n", "unreadable-captions", ("line 2", "no file_name")),
        ("metadata.csv", "file_name,identity\na.png,ben\n", "identities-not-two", ("line 2", "ben")),
        ("metadata.csv", "file_name,identity\na.png,ben;ben\n", "identities-alike", ("line 2", "ben")),
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "text": "x", "text": "y"}',
            "unreadable-captions",
            ("line 1", "twice"),
        ),
        ("metadata.jsonl", '{"file_name": "a.png", "identity": ["a", ["b"]]}', "identities-not-two", ("line 1",)),
        ("metadata.jsonl", '{"file_name": "a.png", "annotation": "{"}', "annotation-no-json", ("line 1",)),
        ("metadata.parquet", "no parquet", "unreadable-parquet", ("metadata.parquet",)),
    ],
)
def test_what_a_table_cannot_mean_is_refused_with_file_and_row(tmp_path, name, text, code, named):
    pictures(tmp_path, "a.png")
    (tmp_path / name).write_text(text, encoding="utf-8")
    with refused(code, *named, error=TrainingError):
        listed(tmp_path)


def test_a_table_without_captions_and_identities_is_noted(tmp_path):
    write(pictures(tmp_path, "a.png"), "csv", [{"file_name": "a.png", "place": "beach"}])
    assert "metadata.csv has no column of captions" in listed(tmp_path)[1][0]


def test_a_table_may_tell_of_pictures_in_parquet_files(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = pictures(tmp_path, "a.png") / "a.png"
    rows = [
        {"image": {"bytes": path.read_bytes(), "path": "a.png"}, "text": CAPTION, "identity_1": "ben", "place": "beach"}
    ]
    (tmp_path / "data").mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "p.parquet")
    (tmp_path / "more.csv").write_text("file_name,identity\np.parquet:00000000,ben;carl\n")
    ((picture,), _) = listed(tmp_path / "data")
    assert (picture.caption, picture.identities, picture.columns) == (CAPTION, ("ben", ""), {"place": "beach"})
    ((picture,), _) = listed(tmp_path / "data", captions=str(tmp_path / "more.csv"))
    assert (picture.caption, picture.identities) == (CAPTION, ("ben", "carl"))
