"""The commands that need no model work where torch is not installed, as in the image of nodes."""

import json
import os
import subprocess
import sys

import pytest

NOBODY = ["--router", "127.0.0.1:1", "--set", "client.deadline=2"]
COMMANDS = [
    (["--help"], 0),
    (["config", "check"], 0),
    (["config", "show"], 0),
    (["keys", "new"], 0),
    (["token", "key", "signing"], 0),
    (["token", "create", "--key", "signing", "--identity", "me", "--namespace", "a"], 0),
    (["status", *NOBODY], 5),
    (["doctor", *NOBODY], 1),
    (["verify", "127.0.0.1:1", *NOBODY[2:]], 1),
    (["why", "abc", *NOBODY], 5),
    (["inventory", "--deadline", "2"], 5),
    (["pin", "document", *NOBODY], 5),
    (["drain", "127.0.0.1:1", *NOBODY[2:]], 5),
    (["config", "check", "--set", "router.policy=sideways"], 2),
    (["config", "check", "--set", "router.namespace=team"], 2),
    (["serve", "--set", "node.port=0", "--set", "router.port=0"], 2),
]
PROGRAM = """
import json, sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "accelerate", "gguf"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
from typer.testing import CliRunner
from kvquilt.cli.main import app

for command in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, command)
    print(json.dumps([result.exit_code, result.output + repr(result.exception)]), flush=True)
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Exit code and output of each command, in a process that cannot import torch."""
    folder = tmp_path_factory.mktemp("home")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "KVQUILT_ROUTER__NODES": "127.0.0.1:1"}
    command = [sys.executable, "-c", PROGRAM, json.dumps([words for words, _ in COMMANDS])]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, cwd=folder)
    assert result.returncode == 0, result.stderr
    return dict(
        zip([" ".join(words) for words, _ in COMMANDS], map(json.loads, result.stdout.splitlines()), strict=True)
    )


@pytest.mark.parametrize(("words", "code"), COMMANDS, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_a_command_ends_as_it_does_with_torch(ended, words, code):
    found, said = ended[" ".join(words)]
    assert found == code, said
    if words[0] not in ("--help", "serve") and words != ["config", "show"]:
        assert "torch" not in said


def test_what_needs_a_model_says_what_to_install(ended):
    (said,) = [said for name, (_, said) in ended.items() if name.startswith("serve")]
    assert "kvquilt[model]" in said
