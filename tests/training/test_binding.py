"""Captions of every wording, of drawn pictures whose truth is known: the right face, or set aside; never the other one."""

from collections import Counter

from dhumandiff.errors import PromptError
from dhumandiff.evaluation.assignment import assign_by_clothes
from dhumandiff.faces import Face
from dhumandiff.miniature.world import sample_pair
from training.data.naming import PersonAttributes, name_people

# {a} and {b}: the nouns, {l} and {o}: their sides, {c} and {d}: what they wear. Which of the two is named first is left to chance.
CLEAR = (
    "A {a} on the {l} and another {b} on the {o}.",
    "On the {l} a {a}, on the {o} another {b}.",
    "On the {l} a {a} in a navy tie, on the {o} another {b} in a blue tie.",
    "A {a}@1 on the {l} and a {b}@2 on the {o}.",
    "A {b}@2 on the {o} and a {a}@1 on the {l}.",
    "A {a}@1 and a {b}@2 hug. The {b}@2 is on the {o} side of the picture.",
    "A {a}, on the {l}, and another {b}, on the {o}, hold hands.",
    "{L}: a {a}. {O}: another {b}.",
    "A {a} ({l}) and another {b} ({o}).",
    "A {a} to the {l} of another {b}.",
    "A {a} on the {l} hugs another {b}.",
    "From {l} to {o}: a {a} and another {b}.",
    "A {a} and another {b}, from {l} to {o}.",
    "The {l}most {a}@1 smiles at a {b}@2.",
    "A {a} in a {c} and another {b} in a {d}.",
    "A {a}@1 and a {b}@2 in a park. The {b}@2 wears a {d}, the {a}@1 a {c}.",
    "A {a} in a {c} on the {l} and another {b} in a {d} on the {o}.",
    "On the {l} of the bench a {a} sits beside another {b}.",
    "To the {l} of the young {b}@2 a {a}@1 smiles.",
    "On the {l} stands a tall, smiling {a} with a lamp, and another {b} is on the {o}.",
)
HARD = (
    "A {a} on the {o} in a {c} and another {b} on the {l} in a {d}.",  # sides and clothes contradict each other
    "A {a} on the {o} and another {b} on the {o}.",
    "A {a}@1 on the {l} and a {b}@2. The {a}@1 is on the {o}.",
    "A {a} and another {b}, a lamp on the {o}.",
    "On the {o} a lamp, a {a} and another {b}.",
    "A {a} looks to the {o}, another {b} at the camera.",
    "A {a} with another {b} to her {o}.",
    "The {a} standing {l} hugs another {b}.",
    "A {a} in a {c} hugs another {b}.",
    "Two {a}s on a bench.",
    "The couple, he on the {l}, she on the {o}.",
    "右边 {a}@1 和 {b}@2",
    "A {a}@1 and the {b}@2 at the {l}-hand man's elbow.",
    "A {a}, {l}, and another {b}, {o}.",
    "A photo with someone on the {o}.",
    "A {a}'s dog on the {o}, another {b}.",
    "A {b}@2's reflection on the {l}, a {a}@1.",
    "A {a} holds a sign that says turn {o}, another {b} laughs.",
    "A {a} and another {b} in a suit and a lamp on the {o}.",
    "A {a} beside another {b}. On the {o} is a tree.",
    "A {a} beside another {b}, with a dog to the {o}.",
    "A {a} hugs another {b} near the {o} edge of a pier.",
    "To the {o} of a tree, a {b}@2 hugs a {a}@1.",
    "There is a car on the {o}, a {a} and another {b}.",
)


def outcome(wording, sample, one, known):
    """ "right", "aside" or "wrong": whether the first of `one` and the other was bound to the face that was drawn for it."""
    other = 1 - one
    at = [float(person.landmarks[:, 0].mean()) for person in sample.people]
    worn = [f"{outfit.color} {outfit.garment}" for outfit in sample.script.outfits]
    genders = ["male" if person.gender == "man" else "female" for person in sample.script.people]
    nouns = [person.gender if known else "person" for person in sample.script.people]
    side = "left" if at[one] < at[other] else "right"
    opposite = {"left": "right", "right": "left"}[side]
    words = {"a": nouns[one], "b": nouns[other], "l": side, "o": opposite, "c": worn[one], "d": worn[other]}
    caption = wording.format(**words, L=side.capitalize(), O=opposite.capitalize())
    across = sorted((0, 1), key=at.__getitem__)  # as `two_faces` gives them
    faces = [Face(sample.people[n].face_box, sample.people[n].landmarks) for n in across]
    people = [PersonAttributes(genders[n] if known else "", "", at[n]) for n in across]
    try:
        named = name_people(
            caption, (), people, by_clothes=lambda colors: assign_by_clothes(colors, faces, sample.picture)
        )
    except PromptError:
        return "aside", caption
    bare = caption.replace("@1", "").replace("@2", "")
    order = [across[n] for n in named.order]
    first = one if wording.find("{a}") < wording.find("{b}") or "{b}" not in wording else other
    return ("right" if order == [first, 1 - first] else "wrong"), bare


def measured(wordings, times):
    found, examples = Counter(), []
    for seed in range(times):
        sample = sample_pair(seed, references=0)
        for number, wording in enumerate(wordings):
            told, caption = outcome(wording, sample, (seed // 2 + number) % 2, known=seed % 2 == 1)
            found[told] += 1
            if told != "right":
                examples.append((told, caption))
    return found, examples


def test_clear_captions_bind_the_face_they_mean():
    found, examples = measured(CLEAR, 34)
    assert found.total() >= 650
    assert found["wrong"] == 0, examples
    assert found["right"] >= 0.99 * found.total(), examples


def test_hard_captions_bind_nobody_silently_to_another():
    found, examples = measured(HARD, 20)
    assert found.total() >= 360
    assert found["wrong"] == 0, [one for one in examples if one[0] == "wrong"]
