"""`kvquilt doctor` of a node's Redis and object storage: real servers that are set wrong."""

import re
import subprocess
import time

import obstore
import pytest
from obstore.store import S3Store

from kvquilt.doctoring import CHECKS, Part, Patient
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store.redis_format import FORMAT
from kvquilt_cache_node.store.redis_rights import BLOB_COMMANDS, CLUSTER_COMMANDS, INDEX_COMMANDS
from kvquilt_router.settings import RouterSettings
from kvquilt_rpc.security import Credentials
from tests import servers
from tests.docs.pages import section
from tests.e2e.doctoring import doctor, outcomes, settings

NODE = ("--before-start", "--part", "node")


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    with servers.valkey(tmp_path_factory.mktemp("valkey"), "--maxmemory", "64mb") as server:
        yield server


def user(server, name, rights):
    """A user with these rights of an ACL; the flags of a node that is called so."""
    assert server.command("ACL", "SETUSER", name, "reset", "on", ">secret", "resetkeys", *rights.split()) == "+OK\r\n"
    url = server.url.replace("redis://", f"redis://{name}:secret@")
    return settings(node__store="redis", node__redis_url=url, node__capacity="32MiB")


def documented():
    """The rights that docs/stores.md gives: of objects, and what an index takes beside them."""
    text = section("stores.md", "Redis and Valkey")
    (objects,) = re.findall(r"ACL SETUSER kvquilt on >PASSWORD resetkeys (.*)", text)
    (index,) = re.findall(r"For `node.index=redis` also `(.*?)` and `(.*?)`", text)
    return objects, " ".join(index)


def commands(rights):
    return {word[1:] for word in rights.split() if word.startswith("+")}


def test_the_documented_rights_are_enough_and_are_all_that_is_looked_at(redis, tmp_path):
    objects, index = documented()
    assert commands(objects) == BLOB_COMMANDS.keys() | CLUSTER_COMMANDS.keys() | {"client|setinfo"}
    assert commands(index) == INDEX_COMMANDS.keys()
    flags = [*NODE, *user(redis, "documented", objects), *settings(node__path=tmp_path)]
    assert doctor(*flags, code=0)["redis-rights"]["outcome"] == "passed"
    flags = [*NODE, *user(redis, "both", f"{objects} {index}"), *settings(node__path=tmp_path)]
    checks = doctor(*flags, *settings(node__index="redis", node__eviction="lru"), code=0)
    assert {"redis-rights", "redis-settings"} <= outcomes(checks, "passed")
    assert redis.command("DBSIZE") == ":0\r\n", "nothing is left"


@pytest.mark.parametrize("missing", ["+getrange", "+unlink", "+eval", "+scan", "+persist"])
def test_a_right_that_is_missing_is_named(redis, tmp_path, missing):
    objects, _ = documented()
    rights = " ".join(word for word in objects.split() if word != missing)
    checks = doctor(*NODE, *user(redis, "lacking", rights), *settings(node__path=tmp_path), code=1)
    assert missing in checks["redis-rights"]["got"].split()
    assert "ACL SETUSER" in checks["redis-rights"]["advice"]


def test_rights_of_an_index_and_of_keys_that_are_missing(redis, tmp_path):
    objects, index = documented()
    shared = [*NODE, *settings(node__path=tmp_path, node__index="redis", node__eviction="lru")]
    rights = f"{objects} {index}".replace(" +zrangebylex", "")
    got = doctor(*shared, *user(redis, "lacking", rights), code=1)["redis-rights"]["got"]
    assert got.endswith("no right to +zrangebylex")
    rights = f"{objects} {index}".replace("~{kvquilt:index}*", "")
    assert "~{kvquilt:index}:*" in doctor(*shared, *user(redis, "lacking", rights), code=1)["redis-rights"]["got"]


def test_a_server_that_refuses_the_password_or_is_not_there(redis, tmp_path):
    flags = [*NODE, *settings(node__store="redis", node__path=tmp_path)]
    wrong = redis.url.replace("redis://", "redis://documented:wrong@")
    checks = doctor(*flags, *settings(node__redis_url=wrong), code=1)
    assert {"redis-rights"} <= outcomes(checks, "failed")
    assert "store_refused" in checks["redis-rights"]["got"]
    (port,) = servers.free_ports(1)
    checks = doctor(*flags, *settings(node__redis_url=f"redis://127.0.0.1:{port}"), code=1)
    assert {"addresses", "redis-rights"} <= outcomes(checks, "failed")


def test_a_server_that_evicts_by_itself_or_is_smaller_than_the_cap(redis, tmp_path):
    flags = [*NODE, *settings(node__store="redis", node__redis_url=redis.url, node__path=tmp_path)]
    checks = doctor(*flags, *settings(node__capacity="48MiB"), code=0)
    assert "NOTHING SURVIVES" in checks["redis-settings"]["got"]
    checks = doctor(*flags, *settings(node__capacity="60MiB"), code=1)
    assert outcomes(checks, "failed") == {"redis-settings"}
    assert "maxmemory is" in checks["redis-settings"]["got"]
    redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        checks = doctor(*flags, *settings(node__capacity="32MiB"), code=1)
        assert outcomes(checks, "failed") == {"redis-settings"}
        assert "noeviction" in checks["redis-settings"]["advice"]
    finally:
        redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")


def test_an_index_in_redis_of_another_format(redis, tmp_path):
    flags = settings(node__store="redis", node__redis_url=redis.url, node__capacity="32MiB", node__path=tmp_path)
    flags = [*NODE, *flags, *settings(node__index="redis", node__eviction="lru", node__redis_prefix="other")]
    assert doctor(*flags, code=0)["formats"]["outcome"] == "skipped"
    for version, outcome in ((FORMAT, "passed"), ("1", "warned"), ("99", "failed")):
        redis.command("SET", "{other:index}:version", version)
        assert doctor(*flags)["formats"]["outcome"] == outcome
    redis.command("DEL", "{other:index}:version")


def test_a_cluster_is_looked_at_too(tmp_path):
    with servers.valkey_cluster(tmp_path / "cluster") as cluster:
        flags = settings(node__store="redis", node__redis_url=servers.cluster_url(cluster), node__path=tmp_path / "n")
        checks = doctor(*NODE, *flags, *settings(node__index="redis", node__eviction="lru"), code=0)
        assert {"redis-rights", "redis-settings", "clocks", "addresses"} <= outcomes(checks, "passed")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with servers.s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


def of_bucket(bucket, tmp_path, **more):
    named = {"node__store": "object", "node__object_url": f"{bucket.url}/prefix", "node__path": tmp_path}
    named |= {"node__object_endpoint": bucket.endpoint, "node__object_key_id": servers.S3_KEY_ID}
    return [*NODE, *settings(**{**named, "node__object_secret": servers.S3_SECRET, **more})]


def listed(bucket):
    keys = {"access_key_id": servers.S3_KEY_ID, "secret_access_key": servers.S3_SECRET}
    options = {"allow_http": True}
    return obstore.list(S3Store(servers.S3_BUCKET, endpoint=bucket.endpoint, client_options=options, **keys)).collect()


def test_a_bucket_with_all_rights_and_nothing_left_in_it(bucket, tmp_path):
    checks = doctor(*of_bucket(bucket, tmp_path), code=0)
    assert checks["object-storage"]["outcome"] == "passed", checks["object-storage"]
    assert "clocks" in outcomes(checks, "passed")
    assert listed(bucket) == []


def test_a_bucket_that_refuses_and_a_service_that_is_not_there(bucket, tmp_path):
    other = {"node__object_secret": "another"}
    checks = doctor(*of_bucket(bucket, tmp_path, **other), code=1)
    assert outcomes(checks, "failed") == {"object-storage"}
    assert "put: " in checks["object-storage"]["got"]
    assert "another" not in checks["object-storage"]["got"]
    (port,) = servers.free_ports(1)
    gone = of_bucket(bucket, tmp_path, node__object_endpoint=f"http://127.0.0.1:{port}")
    assert outcomes(doctor(*gone, code=1), "failed") == {"addresses", "object-storage"}


def test_a_bucket_that_keeps_versions(bucket, tmp_path):
    """Made so by the service's own shell."""
    named = dict(word.lstrip("-").split("=", 1) for word in bucket.process.arguments if word.startswith("-"))
    command = [bucket.process.arguments[0], "shell"]
    command += [f"-{part}={servers.HOST}:{named[f'{part}.port']}" for part in ("master", "filer")]
    words = "s3.bucket.create -name versions\ns3.bucket.versioning -name versions -enable\nexit\n"
    subprocess.run(command, input=words, text=True, check=True, capture_output=True, timeout=120, cwd=tmp_path)
    check = doctor(*of_bucket(bucket, tmp_path, node__object_url="s3://versions/a"), code=0)["object-storage"]
    assert (check["outcome"], "stays in the bucket" in check["got"]) == ("warned", True), check


async def skewed(node, seconds):
    """The check of clocks where this machine's is wrong."""
    patient = Patient(node, RouterSettings(), "127.0.0.1:1", Credentials(), parts=frozenset({Part.NODE}))
    patient.clock = lambda: time.time() - seconds
    return await CHECKS["clocks"](patient)


async def test_clocks_of_stores(redis, bucket, tmp_path):
    node = NodeSettings(store="redis", redis_url=redis.url, path=tmp_path)
    for seconds, outcome in ((0, "passed"), (3, "warned"), (-60, "failed")):
        found = await skewed(node, seconds)
        assert found.outcome == outcome, found
        assert f"{seconds:+.1f} s" in found.got or not seconds
    node = NodeSettings(store="object", object_url=bucket.url, object_endpoint=bucket.endpoint, path=tmp_path)
    for seconds, outcome in ((60, "warned"), (1000, "failed")):
        found = await skewed(node, seconds)
        assert found.outcome == outcome, found
    assert "15 min" in found.got
