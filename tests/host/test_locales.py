"""Every node speaks every language that the pack comes in."""

import re

import pytest

from tools import interface

INFOS = interface.node_infos()
LANGUAGES = ("en", "zh", "ja", "ko", "es", "fr")
QUOTED = re.compile(r"\{'.'\}")


def locale(language):
    return interface.read(interface.LOCALES / language / "nodeDefs.json")


def texts(content, path=()):
    """(path, text) of everything in a file, in its order."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from texts(value, (*path, key))
        else:
            yield (*path, key), value


def wanted():
    """The path of every name, description and tooltip of the schemas, in their order."""
    for node, info in INFOS.items():
        yield from ((node, key) for key in ("display_name", "description"))
        for group, names in (("inputs", interface.inputs_of(info)), ("outputs", range(len(info["output"])))):
            yield from ((node, group, str(name), key) for name in names for key in ("name", "tooltip"))


def test_there_are_files_for_these_languages_and_no_others():
    assert {path.name for path in interface.LOCALES.iterdir()} == set(LANGUAGES)


def test_english_is_what_the_schemas_say():
    path = interface.LOCALES / "en" / "nodeDefs.json"
    assert path.read_text(encoding="utf-8") == interface.written(interface.english(INFOS)), (
        f"names or tooltips have changed. Write that down with: {interface.COMMAND}, then translate them in locales/"
    )


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_a_translation_has_every_text_in_order(language):
    """And no other."""
    there, complete = [path for path, _ in texts(locale(language))], list(wanted())
    missing = [".".join(path) for path in complete if path not in there]
    superfluous = [".".join(path) for path in there if path not in complete]
    assert (missing, superfluous) == ([], [])
    assert there == complete


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_can_read_every_text(language):
    """Where it expects a message, characters with a meaning are quoted; tooltips, which newer pages show as they are, have none."""
    for path, text in texts(locale(language)):
        assert text.strip() == text != "", path
        assert "<" not in text, path  # taken for HTML
        unquoted = text if path[-1] == "tooltip" else QUOTED.sub("", text)
        assert not interface.SYNTAX & set(unquoted), path


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_file_reads_well_in_a_diff(language):
    path = interface.LOCALES / language / "nodeDefs.json"
    assert path.read_text(encoding="utf-8") == interface.written(interface.read(path))


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_a_translation_is_one(language):
    english = dict(texts(interface.english(INFOS)))
    same = [path for path, text in texts(locale(language)) if path[-1] != "name" and english.get(path) == text]
    assert same == []


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_choices_and_files_keep_their_names(language):
    """A translation says `one_pass`, `buffalo_l` and `models/dhumandiff` where English does: the page does not translate them."""
    word = re.compile(r"models/[\w/]+|buffalo_l|one_pass|two_strength|released:|by index|\.safetensors|ViT-\w+(?:/14)?")
    english, translated = dict(texts(interface.english(INFOS))), dict(texts(locale(language)))
    for path, text in english.items():
        for found in word.findall(text):
            assert found.rstrip(":") in translated[path], (path, found)


def test_the_server_hands_out_every_language(server):
    served = server.get("i18n")
    for language in LANGUAGES:
        for node, content in locale(language).items():
            assert served[language]["nodeDefs"][node] == content
