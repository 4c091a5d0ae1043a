"""Sentences that say an expression and a turn of the head, and pictures that show them."""

from dataclasses import replace

import numpy as np

from dhumandiff.miniature.world import (
    EXPRESSIONS,
    HEAD_WORDS,
    draw_script,
    head_of,
    people,
    reference_pose,
    sample_couple,
    sample_pair,
    sample_script,
    sample_strangers,
    say_faces,
    tell_faces,
    write_caption,
)
from dhumandiff.miniature.world.caption import EXPRESSION_WORDS
from dhumandiff.miniature.world.shape import Pose
from dhumandiff.prompts import parse_prompt


def scripts(count=60):
    return [(seed, sample_script(seed, sample_strangers(seed))) for seed in range(count)]


def test_every_expression_and_turn_has_words():
    assert set(EXPRESSION_WORDS) == set(EXPRESSIONS)
    assert set(HEAD_WORDS) == {"inward", "outward", "ahead"}


def test_a_told_sentence_says_both_of_each_person_in_their_order():
    for seed, script in scripts():
        told = tell_faces(script, seed)
        marked, prompt = write_caption(told, seed)
        last = marked.rsplit(". ", 1)[-1]
        first, second = last.split(", ")
        for clause, person in ((first, 0), (second, 1)):
            assert f"@{person + 1}" in clause
            assert any(words in clause for words in EXPRESSION_WORDS[told.expressions[person]])
            assert any(words in clause for words in HEAD_WORDS[told.heads[person]])
        assert parse_prompt(marked, mentions="all").text == prompt.text


def test_one_told_face_is_said_of_that_person_alone():
    seed, script = scripts(1)[0]
    marked, _ = write_caption(replace(script, expressions=("", "laugh")), seed)
    last = marked.rsplit(". ", 1)[-1]
    assert "laugh" in last
    assert "@1" not in last


def test_what_is_not_told_leaves_sentence_and_picture_as_they_were():
    for seed, script in scripts(5):
        told = tell_faces(script, seed)
        before, after = write_caption(script, seed)[0], write_caption(told, seed)[0]
        start = before.split(".")[0]
        assert after.startswith(start)
        untold = replace(told, expressions=("", ""), heads=("", ""), both_smile=script.both_smile)
        assert untold == script


def test_a_told_face_changes_the_picture_at_the_faces_alone():
    seed, script = scripts(1)[0]
    script = replace(script, both_smile=False)
    plain = draw_script(script, seed)
    for expression in ("laugh", "eyes closed"):
        told = draw_script(replace(script, expressions=(expression, "")), seed)
        moved = np.flatnonzero((told.picture != plain.picture).any(-1).any(0))
        box = told.people[0 if script.first_is_left else 1].face_box
        assert not len(moved) or (moved.min() >= box[0] - 6 and moved.max() <= box[2] + 6)
        assert np.array_equal(told.people[0].mask, plain.people[0].mask)


def test_a_head_is_turned_as_told():
    for side, yaw, head in (
        ("left", 0.6, "inward"),
        ("left", -0.6, "outward"),
        ("right", 0.6, "outward"),
        ("right", -0.6, "inward"),
        ("left", 0.1, "ahead"),
        ("right", -0.1, "ahead"),
    ):
        assert head_of(Pose(yaw=yaw), side) == head
    seed, script = scripts(1)[0]
    left = 0 if script.first_is_left else 1
    heads = ["ahead", "ahead"]
    heads[left] = "inward"
    inward = draw_script(replace(script, heads=tuple(heads)), seed).people[0]
    heads[left] = "outward"
    outward = draw_script(replace(script, heads=tuple(heads)), seed).people[0]
    assert inward.landmarks[2, 0] > outward.landmarks[2, 0] + 2  # the nose


def test_what_is_told_is_not_what_the_photos_show():
    pool = people("test", 20)
    for seed in range(10):
        couple = sample_couple(seed, pool)
        poses = [reference_pose(who, 1) for who in couple]
        told = tell_faces(sample_script(seed, couple), seed, unlike=poses)
        for person, pose in enumerate(poses):
            assert told.expressions[person] != pose.expression
            assert told.heads[person] != head_of(pose, told.side(person))


def test_the_annotation_says_the_expression():
    script = tell_faces(sample_script(3, sample_strangers(3)), 3)
    sample = sample_pair(3, script=script, references=0)
    assert tuple(person["expression"] for person in sample.annotation["people"]) == script.expressions


def test_what_is_said_of_faces_is_what_the_picture_shows_anyway():
    for seed, script in scripts(6):
        said, drawn = say_faces(script, seed), draw_script(script, seed)
        expressions = replace(said, heads=("", ""))  # a head that is told to turn has dice of its own
        assert np.array_equal(draw_script(expressions, seed).picture, drawn.picture)
        for person, portrait in enumerate(drawn.people if said.first_is_left else drawn.people[::-1]):
            left_eye, right_eye, nose = portrait.landmarks[:3]
            along = (2 * nose - left_eye - right_eye) @ (right_eye - left_eye)  # of the eyes' line, whatever the roll
            turned = along if said.side(person) == "left" else -along
            if said.heads[person] != "ahead":
                assert (turned > 0) == (said.heads[person] == "inward")
