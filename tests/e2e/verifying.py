"""`kvquilt verify` in this process."""

import json

from typer.testing import CliRunner

from kvquilt.cli.main import app


def verified(*arguments, code):
    """Outcomes by name, and the whole answer."""
    result = CliRunner().invoke(app, ["verify", *map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == code, result.output
    found = json.loads(result.stdout)
    assert found["ok"] == (code == 0)
    return {check["name"]: check for check in found["checks"]}, found


def outcomes(checks, outcome):
    return {name for name, check in checks.items() if check["outcome"] == outcome}
