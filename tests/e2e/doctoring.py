"""`kvquilt doctor` in this process."""

import json

from typer.testing import CliRunner

from kvquilt.cli.main import app


def doctor(*arguments, code=None):
    """What it found, by the name of the check. The exit code says whether anything failed."""
    result = CliRunner().invoke(app, ["doctor", *map(str, arguments), "--json"], catch_exceptions=False)
    found = json.loads(result.stdout)
    checks = {check["name"]: check for check in found["checks"]}
    failed = any(check["outcome"] == "failed" for check in checks.values())
    assert result.exit_code == int(failed), result.output
    assert found["ok"] is not failed
    assert code in (None, result.exit_code), [check for check in checks.values() if check["outcome"] == "failed"]
    for check in checks.values():
        assert check["got"]
        if check["outcome"] in ("failed", "warned"):
            assert check["expected"], check
            assert check["advice"], check
    return checks


def settings(**values):
    """Flags of settings; two underscores for a dot."""
    return [word for name, value in values.items() for word in ("--set", f"{name.replace('__', '.')}={value}")]


def outcomes(checks, outcome):
    return {name for name, check in checks.items() if check["outcome"] == outcome}
