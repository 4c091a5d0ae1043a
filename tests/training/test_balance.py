"""The re-weighted sampler: people of rare groups are drawn as often as others, and never beyond what was asked."""

import json
from collections import Counter
from pathlib import Path

import pytest
from support.refused import refused
from support.shards import make_shards
from support.small_base import make_config

for package in ("jsonargparse", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from training import TrainingError
from training.data.balance import FIELDS, Balance, count_couples
from training.data.config import DataConfig
from training.data.dataset import open_dataset
from training.data.stream import SampleStream
from training.run.loop import train


def person(gender, age="adult"):
    return {"gender": gender, "age_group": age}


def balance_of(couples, fields=("gender",), most=1000.0, folders=1):
    header = {"couples": count_couples(couples)}
    return Balance([header] * folders, ["folder"] * folders, [1.0] * folders, fields, most)


def drawn(balance, couples, field="gender"):
    """The share of each group among the people of couples that are drawn by their weights."""
    found = Counter()
    for couple in couples:
        for one in couple:
            found[one[field]] += balance.weight(couple)
    total = sum(found.values())
    return {group: share / total for group, share in found.items()}


MEN = [(person("male"), person("male"))] * 80
MIXED = [(person("male"), person("female"))] * 15
WOMEN = [(person("female"), person("female"))] * 5


@pytest.mark.parametrize("couples", [MEN + WOMEN, MEN + MIXED + WOMEN])
def test_groups_are_drawn_alike(couples):
    assert drawn(balance_of(couples), couples) == pytest.approx({"male": 0.5, "female": 0.5}, abs=0.01)


def test_three_groups_that_mix_are_drawn_alike():
    ages = ("child", "adult", "old")
    couples = [(person("", ages[n % 7 % 3]), person("", ages[n % 5 % 3])) for n in range(105)]
    shares = drawn(balance_of(couples, ("age_group",)), couples, "age_group")
    assert shares == pytest.approx(dict.fromkeys(ages, 1 / 3), abs=0.02)


def test_both_fields_make_a_group():
    couples = MEN + WOMEN + [(person("male", "child"), person("female", "child"))] * 2
    balance = balance_of(couples, FIELDS, most=1e6)
    assert len(balance.describe()) == 4
    found = Counter()
    for couple in couples:
        for one in couple:
            found[one["gender"], one["age_group"]] += balance.weight(couple)
    assert max(found.values()) / min(found.values()) < 1.05


def test_no_picture_is_drawn_more_often_than_allowed():
    couples = MEN + WOMEN
    balance = balance_of(couples, most=4.0)
    weights = [balance.weight(couple) for couple in couples]
    assert max(weights) == 1
    assert min(weights) == pytest.approx(0.25)


def test_the_order_of_the_two_says_nothing():
    couples = [(person("female"), person("male")), (person("male"), person("female"))]
    assert count_couples(couples) == [{"people": [person("female"), person("male")], "samples": 2}]


def test_groups_that_only_come_together_rise_together():
    couples = MEN + [(person("female"), person("other"))] * 5
    shares = drawn(balance_of(couples), couples)
    assert shares["female"] == pytest.approx(shares["other"])
    assert shares["female"] > 0.2  # 0.03 in the data; a third cannot be reached by half of the people
    assert shares["male"] >= 1 / 3 - 0.01


def test_of_whom_nothing_is_known_stays_as_it_is():
    couples = [(person("male"), person("male")), (person(""), person(""))] * 5
    balance = balance_of(couples)
    assert {balance.weight(couple) for couple in couples} == {1.0}
    assert any(line.startswith("unknown") for line in balance.describe())


def test_the_lines_say_what_is_drawn():
    couples = MEN + WOMEN
    lines = balance_of(couples).describe()
    assert lines[0] == "female: 5.9% of the people, drawn as 50.0%"
    assert drawn(balance_of(couples), couples)["female"] == pytest.approx(0.5, abs=0.001)


def test_folders_count_by_their_share():
    men, women = ({"couples": count_couples(couples)} for couples in (MEN, WOMEN))
    balance = Balance([men, women], ["a", "b"], [3.0, 1.0], ["gender"], 1000.0)
    assert balance.weight(MEN[0]) == pytest.approx(1 / 3, rel=0.01)


def test_a_folder_without_counts_is_refused_with_the_command():
    with refused("couples-not-counted", "shards", "prepare --merge", error=TrainingError):
        Balance([{}], ["shards"], [1.0], ["gender"], 10.0)


@pytest.mark.parametrize(
    ("settings", "named"), [({"balance": ["skin"]}, "skin"), ({"balance": ["gender"], "balance_most": 0.5}, "0.5")]
)
def test_settings_that_cannot_be_are_refused(settings, named):
    with refused("setting-out-of-range", named, error=TrainingError):
        DataConfig(**settings)


# --- in the stream ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """60 samples of a man and a woman, either named first."""
    return open_dataset(str(make_shards(tmp_path / "shards", samples=60, per_shard=20)))


class MenFirst:
    """Weighs samples whole that name a man first, and the others a tenth."""

    def weight(self, people):
        return 1.0 if people[0]["gender"] == "male" else 0.1


def test_the_stream_takes_what_weighs_more(folder):
    shares = []
    for balance in (None, MenFirst()):
        stream = SampleStream([folder], [1.0], batch_size=1, buffer_size=4, balance=balance)
        first = [next(stream)[0][0].metadata["persons"][0]["gender"] for _ in range(240)]
        shares.append(first.count("male") / len(first))
    assert shares == [pytest.approx(0.5, abs=0.02), pytest.approx(10 / 11, abs=0.05)]


def test_a_balanced_stream_is_resumed_exactly(folder):
    settings = {"batch_size": 2, "buffer_size": 5, "balance": MenFirst()}
    stream = SampleStream([folder], [1.0], **settings)
    for _ in range(9):
        next(stream)
    again = SampleStream([folder], [1.0], position=stream.position(), **settings)
    for _ in range(9):
        (one, draws), (other, same) = next(stream), next(again)
        assert [sample.name for sample in one] == [sample.name for sample in other]
        assert draws == same


@pytest.mark.usefixtures("one_thread", "fresh_accelerate")
def test_a_run_says_how_it_is_balanced(small_base, folder, tmp_path, capsys):
    counted = {**folder.header, "couples": count_couples([(person("male"), person("female"))] * 60)}
    (Path(folder.path) / "dataset.json").write_text(json.dumps(counted))
    config = make_config(small_base, folder.path, tmp_path / "run", steps=1, data={"balance": ["gender"]})
    train(config)
    assert "Balanced: female: 50.0% of the people, drawn as 50.0%." in capsys.readouterr().out
