"""docs/operations.md, from nothing to a verified installation and on: its commands are run as they stand."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from kvquilt_router.engine.model import resolve
from tests.docs.pages import section
from tests.router.families import SUPPORTED, tiny
from tests.servers import free_ports

SECTIONS = ("From nothing to verified", "Upgrade", "Backup and restore", "Changing keys")
_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_END = "echo ended\n"
LLAMA = (SUPPORTED["llama"][0], {"vocab_size": 49152})
"""With as many tokens as the demo model's tokenizer."""


def commands(router: int, node: int) -> list[str]:
    """The blocks of the sections, in their order; the ports are free ones of this machine."""
    blocks = [block for name in SECTIONS for block in _BLOCK.findall(section("operations.md", name))]
    return [block.replace(":7411", f":{node}").replace(":7410", f":{router}") for block in blocks]


def test_every_command_from_nothing_to_a_verified_installation_and_on(tmp_path: Path) -> None:
    router, node = free_ports(2)
    blocks = commands(router, node)
    assert len(blocks) > 8
    program = "set -euo pipefail\n" + "".join(f"echo 'block {n}'\n{block}" for n, block in enumerate(blocks)) + _END
    model = tmp_path / "tiny"  # in the demo model's place, with its tokenizer
    tiny(*LLAMA).save_pretrained(model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(resolve("smollm2") / name, model)
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONSAFEPATH": "1",
        "COLUMNS": "200",
        "KVQUILT_NODE__PORT": str(node),
        "KVQUILT_ROUTER__PORT": str(router),
        "KVQUILT_ROUTER__NODES": f"127.0.0.1:{node}",
        "KVQUILT_ROUTER__MODEL": str(model),
        "KVQUILT_ROUTER__HEALTH_SECONDS": "0.5",
        "KVQUILT_CLIENT__ROUTER": f"127.0.0.1:{router}",
    }
    folder = tmp_path / "work"
    folder.mkdir()
    process = subprocess.Popen(
        ["bash", "-c", program],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=840)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started, should it have failed
        process.wait(30)
    logs = "".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
    assert process.returncode == 0, f"{said[-4000:]}\n{logs}"
    assert said.endswith("ended\n")
    assert "handbook.txt" not in (folder / "node.log").read_text()
    secrets = [(folder / name).read_text().strip() for name in ("master.secret", "store.key", "app-1.token")]
    assert not any(secret in logs + said for secret in secrets)
    assert all((folder / name).stat().st_mode & 0o077 == 0 for name in ("master.secret", "store.key", "app-1.token"))
