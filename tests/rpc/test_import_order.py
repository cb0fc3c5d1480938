"""Whatever is imported first, no module needs one that is only half there."""

import subprocess
import sys

PROGRAM = """
import contextlib, importlib.util, os, pathlib, sys
import cryptography.x509, grpc.aio, msgspec, numpy
import kvquilt_proto.v1.cache_node_pb2_grpc, kvquilt_proto.v1.router_pb2_grpc
tried, failed = 0, []
for package in sys.argv[1:]:
    (folder,) = importlib.util.find_spec(package).submodule_search_locations
    names = []
    for path in pathlib.Path(folder).rglob("*.py"):
        name = ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        tried += 1
        names.append(name)
        child = os.fork()
        if not child:
            try:
                importlib.import_module(name)
            except ImportError as error:
                os._exit("circular" in str(error))
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            failed.append(name)
    for name in names:  # which the next packages stand on
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
print(tried, failed)
"""


def test_any_module_may_be_imported_first() -> None:
    packages = ("kvquilt_codec", "kvquilt_rpc", "kvquilt_cache_node")
    command = [sys.executable, "-c", PROGRAM, *packages]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    tried, failed = result.stdout.split(maxsplit=1)
    assert int(tried) > 200
    assert failed.strip() == "[]"
