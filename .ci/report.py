"""What .ci/run ends with: how long each tier took, what could not run and why, and how many tests passed.

    python .ci/report.py build/ci

Reads fast.xml, host.xml and slow.xml (pytest's JUnit files) and writes durations.json beside them: seconds of every test.
"""

import collections
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.comfyui import why_not

TIERS = ("fast", "host", "slow")


def main(results: Path) -> None:
    """Print the report."""
    durations, not_run, total = {}, collections.Counter(), collections.Counter()
    print("--- what ran ---")
    for tier in TIERS:
        file = results / f"{tier}.xml"
        if not file.exists():
            not_run[f"the tier {tier} broke off before its first test"] += 1
            continue
        suite = ElementTree.parse(file).getroot().find("testsuite")
        counts = collections.Counter()
        for case in suite.iter("testcase"):
            outcome = next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), "passed")
            counts["failed" if outcome in ("failure", "error") else outcome] += 1
            if outcome == "skipped":
                not_run[case.find("skipped").get("message", "no reason given")] += 1
            durations[f"{case.get('classname')}.{case.get('name')}"] = float(case.get("time", 0))
        seconds = float(suite.get("time", 0))
        print(f"{tier}: {told(counts)} in {seconds:.0f} s")
        total.update(counts)
        total["seconds"] += seconds
    (results / "durations.json").write_text(
        json.dumps(dict(sorted(durations.items(), key=lambda one: -one[1])), indent=1)
    )

    print("--- what did not run ---")
    if why_not() is not None:
        print(f"all of tests/host: {why_not()}")
    for reason, number in not_run.most_common():
        print(f"{number} {'test' if number == 1 else 'tests'}: {reason.removeprefix('Skipped: ')}")
    if not not_run and why_not() is None:
        print("nothing: everything ran")
    print(f"{told(total)} in {total['seconds']:.2f}s")


def told(counts: collections.Counter) -> str:
    """The counts as pytest says them, for instance "3 failed, 1200 passed, 2 skipped"."""
    said = [f"{counts[kind]} {kind}" for kind in ("failed", "passed", "skipped") if counts[kind] or kind == "passed"]
    return ", ".join(said)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
