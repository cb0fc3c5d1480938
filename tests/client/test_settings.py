"""Settings: defaults < file < environment < flags, each value with its source."""

import pytest

from kvquilt.cli.options import overrides
from kvquilt.cli.settings import leaves, load, value_of
from kvquilt.errors import BadRequestError, NotFoundError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "kvquilt.yaml"
    path.write_text("router:\n  port: 1\n  policy: none\nnode: {port: 2, capacity: 5MiB}\n")
    return path


def test_each_layer_overrides_the_one_below_and_is_named(file):
    environment = {"KVQUILT_ROUTER__PORT": "3", "KVQUILT_NODE__PORT": "4", "UNRELATED": "x"}
    loaded = load(file, ["node.port=5"], environment)
    expected = {
        "router.policy": ("none", str(file)),
        "router.port": ("3", "KVQUILT_ROUTER__PORT"),
        "node.port": ("5", "flag"),
        "node.capacity": (str(5 << 20), str(file)),
        "router.host": ("127.0.0.1", "default"),
    }
    for name, (value, source) in expected.items():
        assert (value_of(loaded.settings, name), loaded.sources[name]) == (value, source)


def test_nodes_are_a_list_or_a_text_with_commas(tmp_path):
    path = tmp_path / "nodes.yaml"
    path.write_text("router:\n  nodes: ['a:1=2', 'dns:///b:3']\n")
    loaded = [
        load(path, [], {}),
        load(None, overrides(None, router__nodes=["a:1=2", "dns:///b:3"]), {}),
        load(None, overrides(None, router__nodes=["a:1=2,dns:///b:3"]), {}),
        load(None, [], {"KVQUILT_ROUTER__NODES": "a:1=2, dns:///b:3"}),
    ]
    assert {value_of(given.settings, "router.nodes") for given in loaded} == {"a:1=2,dns:///b:3"}
    assert load(None, ["router.nodes="], {}).settings.router.nodes == ()


def test_every_setting_has_a_meaning():
    assert all(text for _, text in leaves())


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        (["router.prot=1"], {}, "router.prot"),
        ([], {"KVQUILT_ROUTER__PROT": "1"}, "KVQUILT_ROUTER__PROT"),
        ([], {"KVQUILT_PORT": "1"}, "KVQUILT_PORT"),
        (["router.port=high"], {}, r"router\.port.*flag"),
        (["router.port=70000"], {}, "65535"),
        (["node.capacity=0"], {}, "node.capacity"),
        (["router.recompute_ratio=2"], {}, "recompute_ratio"),
        (["router.level=huge"], {}, "lossless"),
        (["router.level=kl<0"], {}, "above 0"),
        (["router.held_bytes=-1"], {}, "held_bytes"),
        (["router.port"], {}, "name=value"),
        (["router.nodes=a:1,b"], {}, r"router\.nodes.*HOST:PORT.*'b'"),
        (["router.nodes=a:1=0"], {}, "weight above 0"),
        ([], {"KVQUILT_ROUTER__NODES": "http://a:1"}, r"dns:///NAME:PORT.*KVQUILT_ROUTER__NODES"),
    ],
)
def test_unknown_names_and_impossible_values_are_refused_with_their_source(flags, environment, words):
    with pytest.raises(BadRequestError, match=words):
        load(None, flags, environment)


def test_files_must_exist_and_hold_sections(tmp_path):
    with pytest.raises(NotFoundError):
        load(tmp_path / "missing.yaml", [], {})
    with pytest.raises(NotFoundError):
        load(None, [], {"KVQUILT_CONFIG": str(tmp_path / "missing.yaml")})
    for text in ("- a\n- b\n", "router: [1]\n", "{unclosed", "other:\n  x: 1\n"):
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        with pytest.raises(BadRequestError):
            load(path, [], {})
    path = tmp_path / "empty.yaml"
    path.write_text("")
    assert load(path, [], {}).settings == load(None, [], {}).settings


def test_secrets_are_masked():
    secret = "0123456789abcdef" * 2
    flags = ["router.namespace=team", f"router.master_secret={secret}", f"router.node_credentials.token={secret}"]
    settings = load(None, flags, {"KVQUILT_TOKEN": secret}).settings
    assert settings.client.credentials.token is not None
    assert settings.client.credentials.token.get_secret_value() == secret
    for name, _ in leaves():
        assert secret not in value_of(settings, name)
    assert secret not in repr(settings)


def test_settings_within_settings_come_from_every_source(tmp_path):
    path = tmp_path / "kvquilt.yaml"
    path.write_text("node:\n  security:\n    tls_cert: cert.pem\n    calls_at_once: 7\n")
    loaded = load(path, ["client.credentials.tls=true"], {"KVQUILT_NODE__SECURITY__CALLS_AT_ONCE": "8"})
    security = loaded.settings.node.security
    assert (str(security.tls_cert), security.calls_at_once) == ("cert.pem", 8)
    assert loaded.settings.client.credentials.tls
    assert loaded.sources["node.security.calls_at_once"] == "KVQUILT_NODE__SECURITY__CALLS_AT_ONCE"
    with pytest.raises(BadRequestError, match=r"node\.security\.tls_certificate"):
        load(None, ["node.security.tls_certificate=x"], {})


def test_a_setting_that_is_a_mapping_is_read_from_a_file_a_variable_and_a_flag(tmp_path):
    file = tmp_path / "kvquilt.yaml"
    file.write_text('node:\n  namespaces:\n    team.a: {floor: 1GiB, share: 3}\n    "*": {cap: 2GiB}\n')
    written = load(file, environment={})
    assert written.sources["node.namespaces"] == str(file)
    quotas = written.settings.node.quotas
    assert (quotas.of("team.a").floor, quotas.of("team.a").share, quotas.of("b").cap) == (1 << 30, 3.0, 2 << 30)
    text = value_of(written.settings, "node.namespaces")
    for given in (
        load(environment={"KVQUILT_NODE__NAMESPACES": text}),
        load(flags=[f"node.namespaces={text}"], environment={}),
    ):
        assert given.settings.node.namespaces == written.settings.node.namespaces
    for bad in ("{", '{"a": {"floor": "much"}}', '{"a/b": {}}'):
        with pytest.raises(BadRequestError, match=r"node\.namespaces|expected a namespace"):
            load(flags=[f"node.namespaces={bad}"], environment={})
