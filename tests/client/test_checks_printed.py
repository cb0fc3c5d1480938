"""`kvquilt doctor` and `verify` in a terminal of 80 columns: what was expected, what there is and what to do."""

import pytest

from kvquilt.checks import Check, Outcome
from kvquilt.cli.checks import print_checks
from kvquilt.cli.output import out

SETTING = "KVQUILT_NODE__A_NAME_THAT_IS_LONGER_THAN_THE_COLUMN_THAT_IT_STANDS_IN_AND_MUST_NOT_BE_CUT"
CHECKS = [
    Check("files", Outcome.PASSED, "Files can be read", "6 of them", ""),
    Check("addresses", Outcome.FAILED, "Somebody takes connections", "nobody [at all]", f"start it; see {SETTING}"),
    Check("ring", Outcome.SKIPPED, "", "there is one node", "name more"),
]


def test_each_check_says_what_was_expected_and_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out, "width", 80)
    print_checks("kvquilt doctor", CHECKS)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    cells = "".join(line.split("│")[-2].strip() for line in lines if line.startswith("│"))
    assert "Files can be read (6 of them)" in cells
    assert "expected: Somebody takes connectionsgot: nobody [at all]to do: start it; see" in cells
    assert SETTING in cells
    assert "there is one nodeto make it: name more" in cells
    assert lines[-1] == "1 passed, 1 failed, 1 skipped"
