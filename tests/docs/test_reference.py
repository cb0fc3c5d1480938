"""docs/reference.md names everything there is and nothing that is not."""

import dataclasses
import re
from collections.abc import Iterator

import pytest
from pydantic import BaseModel
from typer.core import TyperCommand, TyperGroup

import kvquilt
import kvquilt.errors
from kvquilt import AsyncClient, Client, prefetching, worker
from kvquilt.cli.output import EXIT_CODES, INTERRUPTED, PARTIAL
from kvquilt.cli.settings import KvquiltSettings, text_of
from kvquilt.integrations import dual_stage, langchain, transformers
from kvquilt.worker import types as worker_types
from kvquilt_cache_node import types as node_types
from kvquilt_codec import errors
from kvquilt_codec.types import Level
from kvquilt_proto.v1 import cache_node_pb2, common_pb2, router_pb2
from kvquilt_router import counters as router_counters
from kvquilt_router import types as router_types
from kvquilt_router.gate.types import REFUSALS
from kvquilt_router.policies import EVALUATION_ONLY, POLICIES
from kvquilt_router.why.types import CAUSES
from kvquilt_rpc import status
from tests.docs.commands import WHOLE
from tests.docs.pages import ROOT, first_words, rows, section, words

PAGE = "reference.md"


def commands() -> Iterator[tuple[str, TyperCommand]]:
    for name, command in WHOLE.commands.items():
        if isinstance(command, TyperGroup):
            yield from ((f"{name} {inner}", sub) for inner, sub in command.commands.items())
        else:
            yield name, command


COMMANDS = dict(commands())


def flags(command: TyperCommand | TyperGroup) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts if name.startswith("--")}


def described() -> dict[str, str]:
    """Section of each command by its name, without its argument's name."""
    text = section(PAGE, "Command line")
    headings = re.findall(r"^### `kvquilt ([^`]+)`$", text, re.MULTILINE)
    return {re.sub(r" \[?[A-Z]+.*", "", heading): section(PAGE, f"`kvquilt {heading}`") for heading in headings}


def test_every_command_has_a_section_and_every_section_a_command() -> None:
    assert described().keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_section_names_its_flags_and_no_other(name: str) -> None:
    text = described()[name]
    mentioned = {word.split()[0] for word in words(text) if word.startswith("--")}
    assert mentioned == flags(COMMANDS[name]) - {"--help"}


def test_shared_flags_are_those_that_several_commands_have() -> None:
    head = section(PAGE, "Command line").split("### ")[0]
    shared = {word.split()[0] for word in first_words(head)}
    for flag in shared - {"--help"}:
        assert sum(flag in flags(command) for command in COMMANDS.values()) > 1
    assert flags(WHOLE) <= {word.split()[0] for word in words(head)}


def test_exit_codes_are_the_programs() -> None:
    documented = {int(row[0]): words(row[2]) for row in rows(section(PAGE, "Exit codes"))}
    for kind, code in EXIT_CODES:
        assert kind.__name__ in documented[code]
    assert documented.keys() == {0, *(code for _, code in EXIT_CODES), PARTIAL, INTERRUPTED}


def test_settings_and_their_defaults_are_the_programs() -> None:
    table = {next(iter(words(row[0]))): row[1].strip("`") for row in rows(section(PAGE, "Settings"))}
    fields: dict[str, object] = {}
    for section_name, part in KvquiltSettings():
        for field, value in part:
            if not isinstance(value, BaseModel):
                fields[f"{section_name}.{field}"] = value
                continue
            assert table.pop(f"{section_name}.{field}.NAME") == ""
            # What both servers, or both kinds of clients, have is described once, by its own name.
            fields |= dict(value)
    assert table.keys() == fields.keys()
    for name, value in fields.items():
        if name == "node.path":
            continue  # depends on the environment
        text = "unset" if value is None else text_of(value)
        text = text.lower() if isinstance(value, bool) else text
        large = isinstance(value, int) and value >= 1 << 30
        assert table[name] == (f"{int(value) >> 30} GiB" if large else text), name


FILES = (common_pb2.DESCRIPTOR, cache_node_pb2.DESCRIPTOR, router_pb2.DESCRIPTOR)


def test_every_call_is_described_and_every_described_call_exists() -> None:
    for file, heading in ((cache_node_pb2, "CacheNodeService"), (router_pb2, "RouterService")):
        calls, messages = section(PAGE, heading).split("| message |")
        service = file.DESCRIPTOR.services_by_name[heading]
        assert first_words(calls) == {method.name for method in service.methods}
        for row in rows(calls):
            method = service.methods_by_name[next(iter(words(row[0])))]
            assert words(row[1]) == {method.input_type.name}
            assert words(row[2]) == {method.output_type.name}
            assert ("stream" in row[1]) == method.client_streaming
            assert ("stream" in row[2]) == method.server_streaming
        assert first_words("| message |" + messages) == set(file.DESCRIPTOR.message_types_by_name)


def test_every_field_of_every_message_is_described() -> None:
    text = section(PAGE, "Protocol")
    fields = {next(iter(words(row[0]))): words(row[1]) for row in rows(text) if len(row) == 2}
    for file in FILES:
        for message in file.message_types_by_name.values():
            assert set(message.fields_by_name) <= fields[message.name], message.name
            named = {word for word in fields[message.name] if re.fullmatch("[a-z_]+", word)}
            strangers = named - set(message.fields_by_name) - {"native", "reference"}
            assert not strangers, (message.name, strangers)
        for enum in file.enum_types_by_name.values():
            assert enum.name in words(text)
            assert {value.name for value in enum.values if value.number} <= words(text)


def test_errors_are_those_of_the_tree() -> None:
    tree = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    table = rows(section(PAGE, "Status codes and reasons"))
    assert {word for row in table for word in words(row[1])} == {kind.__name__ for kind in tree}
    for row in table:
        kind = getattr(errors, next(iter(words(row[1]))))
        assert words(row[2]) == {kind.reason}
        assert dict(status._CODES)[kind].name in words(row[0])
    assert set(kvquilt.errors.__all__) == {kind.__name__ for kind in tree} <= words(section(PAGE, "`kvquilt.errors`"))


def test_every_reason_that_an_error_is_given_is_listed() -> None:
    listed = words(section(PAGE, "Status codes and reasons"))
    for folder in ("rpc", "router", "cache_node"):
        for file in (ROOT / folder).rglob("*.py"):
            given = set(re.findall(r'\breason="([a-z_]+)"', file.read_text()))
            assert given <= listed | set(router_types.MISS_REASONS), file


def test_names_of_levels_policies_reasons_and_counters() -> None:
    policies = {*POLICIES, *EVALUATION_ONLY}
    assert words(section(PAGE, "Policies")) >= policies
    concepts = section("concepts.md", "Words")
    assert first_words(concepts) == policies | {level.value for level in Level}
    assert first_words(section(PAGE, "Miss reasons")) == set(router_types.MISS_REASONS) <= words(concepts)
    assert first_words(section(PAGE, "Miss causes")) == set(CAUSES)
    assert first_words(section(PAGE, "Gate refusals")) == set(REFUSALS)
    of_router, of_node = section(PAGE, "Counters").split("`GetNodeStatus` shows the node's")
    assert first_words(of_router) == set(router_counters.COUNTERS)
    assert first_words(of_node) == set(node_types.COUNTERS)


def test_names_of_the_python_interface() -> None:
    text = section(PAGE, "Python")
    package = {name.split("(")[0] for name in first_words(section(PAGE, "`kvquilt`"))}
    methods = {name.split("(")[0] for name in package if not hasattr(kvquilt, name.split("(")[0])}
    assert package - methods == set(kvquilt.__all__) - {"__version__"}
    for client in (Client, AsyncClient):
        own = {name for kind in client.__mro__[:-1] for name in vars(kind)}
        public = {name for name in own if not name.startswith("_")}
        assert public == methods
    part = section(PAGE, "`kvquilt.worker`")
    named = {word.split("(")[0] for word in words(part)}
    assert set(worker.__all__) <= named
    assert {name for name in vars(worker.WorkerCache) if not name.startswith("_")} <= named
    for kind in (worker.LoadPlan, worker.LoadReport, worker.WorkerRequest, worker.KvToSave, worker.WorkerOptions):
        assert {field.name for field in dataclasses.fields(kind)} <= named, kind
    assert first_words(part.split("| counter of")[1]) == set(worker_types.COUNTERS)
    nothing = first_words(section(PAGE, "Why nothing is offered"))
    assert nothing == set(worker_types.REASONS) >= set(router_types.NOTHING_REASONS)
    for module in (transformers, dual_stage, langchain, prefetching):
        own = {name for name, what in vars(module).items() if getattr(what, "__module__", "") == module.__name__}
        assert {name for name in own if not name.startswith("_")} <= {word.split("(")[0] for word in words(text)}
