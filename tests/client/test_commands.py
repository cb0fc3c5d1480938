"""The program imports the commands that are asked for, and knows all others by name."""

import json
import re
import subprocess
import sys

from typer.testing import CliRunner

from kvquilt.cli.main import COMMANDS, app

PROGRAM = """
import json, sys
from typer.testing import CliRunner
from kvquilt.cli.main import COMMANDS, app

result = CliRunner().invoke(app, sys.argv[1:])
print(json.dumps([result.exit_code, sorted({source.module for source in COMMANDS.values()} & sys.modules.keys())]))
"""


def imported(*words: str) -> list[str]:
    command = [sys.executable, "-c", PROGRAM, *words]
    code, modules = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert code == 0
    return modules


def test_a_command_is_run_without_the_code_of_the_others() -> None:
    assert imported("--version") == []
    assert imported("node", "--help") == ["kvquilt.cli.servers"]
    assert imported("profile", "show", "--help") == ["kvquilt.cli.profiles"]


def test_help_lists_all_commands_in_their_order() -> None:
    panels_of_help = CliRunner().invoke(app, ["--help"]).output.partition(" Run ")[2]
    listed = re.findall(r"^│ ([a-z]+) ", panels_of_help, re.MULTILINE)
    panels = dict.fromkeys(source.panel for source in COMMANDS.values())
    assert listed == [name for panel in panels for name, source in COMMANDS.items() if source.panel == panel]


def test_a_mistyped_command_is_answered_with_the_one_that_was_meant() -> None:
    result = CliRunner().invoke(app, ["sttus"])
    assert result.exit_code == 2
    assert "Did you mean 'status'" in " ".join(result.output.split())
