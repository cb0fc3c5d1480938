"""The real servers that stores talk to, started for tests and drills on free ports of the loopback interface.

Each one is a context: it starts processes with a temporary folder of their own, waits until they answer, and ends
them by their process id. `Process.kill`, `pause`, `resume` and `restart` do to them what drills need.
"""

from tests.servers.certificates import Certificates, certificates
from tests.servers.process import HOST, Process, free_ports, listens
from tests.servers.redis import (
    REDIS,
    VALKEY,
    RedisServer,
    cluster_url,
    redis_tls,
    sentinel,
    valkey,
    valkey_cluster,
)
from tests.servers.seaweed import S3_BUCKET, S3_KEY_ID, S3_SECRET, S3Server, s3

__all__ = [
    "HOST",
    "REDIS",
    "S3_BUCKET",
    "S3_KEY_ID",
    "S3_SECRET",
    "VALKEY",
    "Certificates",
    "Process",
    "RedisServer",
    "S3Server",
    "certificates",
    "cluster_url",
    "free_ports",
    "listens",
    "redis_tls",
    "s3",
    "sentinel",
    "valkey",
    "valkey_cluster",
]
