"""Captions, metadata and cases as people's programs write them: encodings, byte order marks, line ends, names."""

import io
import json
import os
import tarfile

import pytest

pytest.importorskip("diffusers", reason="install it with: pip install '.[train]'")
for package in ("jsonargparse", "matplotlib", "scipy", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from support.drawn import draw, prepared, reasons, samples, settings_for, skin
from support.refused import refused

from training.data.plan import describe
from training.data.settings import PrepareSettings, Source
from training.data.sources import list_pictures
from training.evaluation.cases import read_cases
from training.evaluation.measure import read_records
from training.parsing import parse

TEXT = "A man@1 and a woman@2 stand in a garden; it\u2019s the man\u2019s caf\u00e9."
CERTAIN = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
UNCERTAIN = {
    "cp1252": TEXT,
    "gbk": "A man@1 and a woman@2，在花园里。",
    "gb18030": TEXT,
    "big5": "A man@1 and a woman@2，在花園裡。",
    "shift-jis": "A man@1 and a woman@2、庭で。",
    "iso-2022-jp": "A man@1 and a woman@2、庭で。",
    "euc-kr": "A man@1 and a woman@2 정원에서.",
}


def pictures(folder, *names):
    for name in names:
        draw(folder / name, [(32, 34, 12, skin(3)), (96, 34, 12, skin(4))], paper=(90, 120, 150))
    return folder


def listed(path, **fields):
    return list_pictures(Source(str(path), **fields))


@pytest.mark.parametrize("encoding", CERTAIN)
def test_captions_in_a_certain_encoding_are_read(tmp_path, encoding):
    pictures(tmp_path, "a.png")
    (tmp_path / "a.txt").write_bytes(f"{TEXT}\r\n".encode(encoding))
    ((picture,), _) = listed(tmp_path)
    assert (picture.caption, picture.problem) == (TEXT, "")


@pytest.mark.parametrize("encoding", UNCERTAIN)
def test_captions_in_an_uncertain_encoding_are_named(tmp_path, encoding):
    pictures(tmp_path, "a.png")
    (tmp_path / "a.txt").write_bytes(UNCERTAIN[encoding].encode(encoding))
    ((picture,), _) = listed(tmp_path)
    assert picture.caption == ""
    assert "a.txt is not UTF-8" in picture.problem


def test_unreadable_captions_are_set_aside_and_counted(tmp_path):
    folder = pictures(tmp_path / "data", "a.png", "b.png", "c.png", "d.png")
    (folder / "a.txt").write_bytes("A woman＠1 hugs another\r\nwoman＠2\r\n".encode("utf-8-sig"))
    (folder / "b.txt").write_bytes(TEXT.encode("cp1252"))
    (folder / "c.txt").write_bytes(UNCERTAIN["gbk"].encode("gbk"))
    (folder / "d.txt").write_text("A man@1 in a caf\ufffd and a woman@2")
    prepared(folder, tmp_path / "out")
    ((told, _),) = samples(tmp_path / "out").values()
    assert told["caption"] == "A woman hugs another\nwoman"
    found = reasons(tmp_path / "out")
    assert {name: reason for name, (reason, _) in found.items()} == dict.fromkeys(
        ("b.png", "c.png", "d.png"), "caption"
    )
    assert "b.txt is not UTF-8 (byte 0x92 at position" in found["b.png"][1]
    assert "letters of the caption were lost" in found["d.png"][1]
    assert (
        "| caption | 3 | the caption cannot be read: save it as UTF-8 |" in (tmp_path / "out" / "report.md").read_text()
    )


@pytest.mark.parametrize("ending", [".txt", ".json"])
@pytest.mark.parametrize("how", ["folder", "link that leads nowhere", "link to itself", "pipe"])
def test_a_text_that_is_no_file_is_not_passed_over(tmp_path, ending, how):
    """Or the picture would be trained on with a caption of nobody's."""
    folder = pictures(tmp_path / "data", "a.png", "b.png")
    (folder / "b.txt").write_text("A woman@1 hugs another woman@2")
    path = folder / f"a{ending}"
    make = {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link to itself": lambda: path.symlink_to(path)}
    make.get(how, lambda: path.symlink_to("nowhere"))()
    prepared(folder, tmp_path / "out")
    assert [told["picture"] for told, _ in samples(tmp_path / "out").values()] == ["b.png"]
    reason, sentence = reasons(tmp_path / "out")["a.png"]
    assert reason == ("caption" if ending == ".txt" else "annotation")
    assert "no file" in sentence


def test_a_text_of_megabytes_is_no_caption(tmp_path):
    folder = pictures(tmp_path / "data", "a.png", "b.png")
    (folder / "b.txt").write_text("A woman@1 hugs another woman@2")
    (folder / "a.txt").write_text("A woman@1 hugs another woman@2" + " x" * 2_000_000)
    prepared(folder, tmp_path / "out")
    assert "4,000,030 bytes" in reasons(tmp_path / "out")["a.png"][1]


def test_an_annotation_without_end_is_set_aside(tmp_path):
    folder = pictures(tmp_path / "data", "a.png", "b.png")
    (folder / "b.txt").write_text("A woman@1 hugs another woman@2")
    (folder / "a.json").write_text("[" * 100_000)
    prepared(folder, tmp_path / "out")
    assert reasons(tmp_path / "out")["a.png"][0] == "annotation"


@pytest.mark.parametrize("row", [{"file_name": "a.png", "text": ["A man"]}, {"file_name": 7, "text": "A man"}])
def test_a_list_in_the_place_of_a_caption_is_refused(tmp_path, row):
    pictures(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    with refused("unreadable-captions", "metadata.jsonl, line 1", "in the place of texts"):
        listed(tmp_path)


@pytest.mark.parametrize("name", ["metadata.jsonl", "captions.csv"])
def test_captions_behind_a_link_that_leads_nowhere_are_refused(tmp_path, name):
    pictures(tmp_path, "a.png")
    (tmp_path / name).symlink_to("nowhere")
    with refused("captions-not-readable", name):
        listed(tmp_path)


def test_a_dry_run_counts_unreadable_captions(tmp_path):
    folder = pictures(tmp_path / "data", "a.png", "b.png")
    (folder / "a.txt").write_bytes(TEXT.encode("cp1252"))
    assert "1 caption cannot be read: save as UTF-8" in describe(settings_for(folder, tmp_path / "out"))


@pytest.mark.parametrize("encoding", CERTAIN)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_metadata_in_a_certain_encoding_is_read(tmp_path, encoding, end):
    pictures(tmp_path, "a.png", "b.png")
    rows = [{"file_name": name, "text": f"{TEXT}\u2028\u0085{name}"} for name in ("a.png", "b.png")]
    text = end.join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "metadata.jsonl").write_bytes(text.encode(encoding))
    found, notes = listed(tmp_path)
    assert [picture.caption for picture in found] == [row["text"] for row in rows]
    assert notes == []


@pytest.mark.parametrize("encoding", UNCERTAIN)
def test_metadata_in_an_uncertain_encoding_is_refused(tmp_path, encoding):
    pictures(tmp_path, "a.png")
    row = json.dumps({"file_name": "a.png", "text": UNCERTAIN[encoding]}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_bytes(row.encode(encoding))
    with refused("captions-not-readable", "metadata.jsonl", "Save it as UTF-8"):
        listed(tmp_path)


@pytest.mark.parametrize(("encoding", "sign"), [("utf-8", ","), ("utf-8-sig", ";"), ("utf-16", "\t")])
def test_metadata_of_spreadsheets_is_read(tmp_path, encoding, sign):
    pictures(tmp_path, "a.png", "b.png")
    text = f'file_name{sign}text\r\na.png{sign}"A ""tall"" man@1{sign}\r\na woman@2"\r\nb.png{sign}"{TEXT}"{sign}{sign}\r\n'
    (tmp_path / "metadata.csv").write_bytes(text.encode(encoding))
    found, notes = listed(tmp_path)
    assert [picture.caption for picture in found] == [f'A "tall" man@1{sign}\na woman@2', TEXT]
    assert notes == []


def test_a_text_that_is_cut_by_its_own_signs_is_refused(tmp_path):
    pictures(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,A man, and a woman\n")
    with refused("unreadable-captions", "metadata.csv, line 2", "quotation marks"):
        listed(tmp_path)


def test_a_table_that_does_not_say_whose_rows_it_has_is_refused(tmp_path):
    pictures(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("id,width\n1,2\n")
    with refused("table-without-file-name", "metadata.csv", "id, width"):
        listed(tmp_path)


def test_names_of_pictures_are_those_of_any_system(tmp_path):
    pictures(tmp_path, "sub/caf\u00e9.png", "b.png")
    rows = [{"file_name": "sub\\cafe\u0301.png", "text": TEXT}, {"file_name": "gone.png", "text": "x"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "B.TXT").write_text("nobody's")
    (tmp_path / "b.TXT").write_text("b's")
    found, notes = listed(tmp_path)
    assert {picture.name: picture.caption for picture in found} == {"b.png": "b's", "sub/caf\u00e9.png": TEXT}
    assert len(notes) == 1
    assert "captions of 1 names that are no picture" in notes[0]
    assert "gone.png" in notes[0]


@pytest.mark.parametrize("encoding", [*CERTAIN, "cp1252"])
@pytest.mark.parametrize("way", ["beside", "one file"])
def test_annotations_are_read_or_named(tmp_path, encoding, way):
    pictures(tmp_path, "a.png")
    told = {"image_caption": {"text": TEXT}}
    place = tmp_path / ("a.json" if way == "beside" else "annotations.json")
    text = json.dumps(told if way == "beside" else {"a": told}, ensure_ascii=False)
    place.write_bytes(text.encode(encoding))
    if encoding == "cp1252":
        with refused("unreadable-annotation", place.name, "Save it as UTF-8"):
            listed(tmp_path)[0][0].read_annotation()
    else:
        assert listed(tmp_path)[0][0].read_annotation() == told


def test_captions_in_tars_are_read_or_named(tmp_path):
    image = pictures(tmp_path, "a.png") / "a.png"
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in (("1.txt", TEXT.encode("utf-16")), ("2.txt", TEXT.encode("cp1252"))):
            for member, content in ((name, data), (name.replace("txt", "png"), image.read_bytes())):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    first, second = listed(tmp_path / "x.tar")[0]
    assert (first.caption, second.caption) == (TEXT, "")
    assert "the caption of 2 in" in second.problem


@pytest.mark.parametrize("kind", ["binary", "string"])
def test_captions_in_parquet_are_read_or_named(tmp_path, kind):
    arrow, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    image = (pictures(tmp_path, "a.png") / "a.png").read_bytes()
    texts = arrow.array([TEXT.encode(), TEXT.encode("cp1252")], arrow.binary())
    if kind == "string":  # as writers do that do not look
        texts = arrow.Array.from_buffers(arrow.string(), 2, texts.buffers())
    pq.write_table(arrow.table({"image": [image, image], "text": texts}), tmp_path / "x.parquet")
    first, second = listed(tmp_path / "x.parquet")[0]
    assert (first.caption, second.caption) == (TEXT, "")
    assert "row 1, is not UTF-8" in second.problem


@pytest.mark.parametrize("encoding", [*CERTAIN, *UNCERTAIN])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_cases_are_read_or_named(tmp_path, encoding, end):
    pictures(tmp_path, "a.png", "b.png")
    sentence = UNCERTAIN.get(encoding, f"{TEXT}\u2028")
    rows = [{"id": str(i), "prompt": sentence, "references": ["a.png", "b.png"]} for i in range(2)]
    path = tmp_path / "cases.jsonl"
    path.write_bytes(end.join(json.dumps(row, ensure_ascii=False) for row in rows).encode(encoding))
    if encoding in UNCERTAIN:
        with refused("unreadable-cases", "cases.jsonl", "Save it as UTF-8"):
            read_cases(path)
    else:
        assert [case.sentence for case in read_cases(path)] == [sentence, sentence]


def test_names_of_files_in_another_encoding_stop_nothing(tmp_path):
    name = os.fsdecode("\u7537.png".encode("gbk"))
    try:
        folder = pictures(tmp_path / "data", name, "b.png")
    except (OSError, ValueError):
        pytest.skip("this file system has names in UTF-8 only")
    (folder / name).with_suffix(".txt").write_text("A woman@1 hugs another woman@2")
    (folder / "b.txt").write_text("A woman@1 hugs another woman@2")
    (folder / "references" / name).mkdir(parents=True)
    (folder / (name + ".jpg")).write_bytes(b"no picture")
    prepared(folder, tmp_path / "out")
    assert [told["picture"] for told, _ in samples(tmp_path / "out").values()] == ["\\udcc4\\udcd0.png", "b.png"]
    assert list(reasons(tmp_path / "out")) == ["\\udcc4\\udcd0.png.jpg"]


def test_texts_that_were_cut_within_a_letter_are_named(tmp_path):
    folder = pictures(tmp_path / "data", "a.png", "b.png")
    rows = [
        {"file_name": "a.png", "text": "A man@1 and a woman@2 \ud83d"},
        {"file_name": "b.png", "text": "A woman@1, a woman@2"},
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepared(folder, tmp_path / "out")
    assert reasons(tmp_path / "out")["a.png"][0] == "caption"
    case = {"prompt": "A man@1 \ud83d", "references": ["a.png"]}
    (folder / "cases.jsonl").write_text(json.dumps(case))
    with refused("case-with-lost-letters", "Line 1 of"):
        read_cases(folder / "cases.jsonl")


def test_scores_of_sentences_with_any_line_end_are_read_again(tmp_path):
    records = [{"id": "a", "sentence": "one\u2028two\u0085"}, {"id": "b", "sentence": ""}]
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (tmp_path / "scores.jsonl").write_text(f'{text}{{"id": "c', encoding="utf-8")
    assert read_records(tmp_path / "scores.jsonl") == records


@pytest.mark.parametrize("name", ["metadata.jsonl", "cases.jsonl"])
def test_marks_in_a_file_that_was_joined_are_no_letters(tmp_path, name):
    pictures(tmp_path, "a.png", "b.png")
    rows = [{"file_name": each, "text": TEXT, "prompt": TEXT, "references": [each]} for each in ("a.png", "b.png")]
    text = "\r\n".join("\ufeff" + json.dumps({**row, "id": row["file_name"]}) for row in rows)
    (tmp_path / name).write_text(text, encoding="utf-8-sig", newline="")
    if name.startswith("cases"):
        assert [case.sentence for case in read_cases(tmp_path / name)] == [TEXT, TEXT]
    else:
        assert [picture.caption for picture in listed(tmp_path)[0]] == [TEXT, TEXT]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "cp1252", "gbk"])
def test_settings_are_read_or_their_file_is_named(tmp_path, encoding):
    path = tmp_path / "prepare.yaml"
    path.write_bytes("# it\u2019s\r\nout: shards\r\nseed: 7\r\nsources: [{path: a}]\r\n".encode(encoding))
    if encoding.startswith("utf"):
        assert parse(PrepareSettings, "prepare", ["--config", str(path)])[0].seed == 7
    else:
        with refused("setting-refused", "prepare.yaml is not UTF-8", "Save it as UTF-8"):
            parse(PrepareSettings, "prepare", ["--config", str(path)])


@pytest.mark.parametrize(("text", "code"), [("out: [shards\n", "settings-no-yaml"), ("out\n", "settings-no-mapping")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_settings_that_are_no_yaml_are_refused_in_any_encoding(tmp_path, encoding, text, code):
    path = tmp_path / "prepare.yaml"
    path.write_bytes(text.encode(encoding))
    with refused(code, "prepare.yaml"):
        parse(PrepareSettings, "prepare", ["--config", str(path)])
