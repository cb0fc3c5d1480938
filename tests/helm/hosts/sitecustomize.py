"""Python's look-up of names as a cluster answers it: names of services stand in the file CLUSTER_NAMES."""

import json
import os
import socket
from pathlib import Path
from typing import Any

_system = socket.getaddrinfo


def _getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
    name = host.decode() if isinstance(host, bytes) else host
    if not isinstance(name, str) or not name.endswith(".svc"):
        return _system(host, port, *args, **kwargs)
    addresses = json.loads(Path(os.environ["CLUSTER_NAMES"]).read_text()).get(name)
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, f"the cluster has no addresses for {name}")
    return [found for address in addresses for found in _system(address, port, *args, **kwargs)]


socket.getaddrinfo = _getaddrinfo
