"""Every alert has a page of its name, all pages have one shape, and what they tell to do can be done."""

import re

import pytest

from kvquilt.doctoring.run import CHECKS
from tests.alerts.exported import declared
from tests.alerts.labelled import labels_of
from tests.alerts.rules import RUNBOOKS, alerts
from tests.docs.commands import WHOLE, refused
from tests.docs.pages import rows
from tests.docs.test_reference import COMMANDS

PARTS = [
    "What it means",
    "Who notices",
    "In two minutes",
    "Look at",
    "Likely causes",
    "It is over when",
    "What it is not",
]
SEVERITIES = {"critical", "warning"}
OTHERS = {"df", "du", "journalctl", "kubectl", "openssl", "redis-cli"}
"""Programs of others."""

each = pytest.mark.parametrize("name", sorted(alerts()))


def test_alerts_and_pages_are_of_the_same_names() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"} == alerts().keys()


def test_the_list_of_pages_says_of_each_alert_what_the_rule_says() -> None:
    listed = {row[0].split("]")[0].strip("["): row[1] for row in rows((RUNBOOKS / "README.md").read_text())}
    assert listed == {name: rule["labels"]["severity"] for name, rule in alerts().items()}


@each
def test_a_rule_says_how_bad_it_is_what_happened_and_where_to_read_on(name: str) -> None:
    rule = alerts()[name]
    assert name.startswith("Kvquilt")
    assert rule["labels"]["severity"] in SEVERITIES
    said = rule["annotations"]
    assert said.keys() == {"summary", "description", "runbook_url"}
    assert "{{" not in said["summary"], "a summary groups alerts; values are in the description"
    assert "{{" in said["description"]
    assert said["runbook_url"] == f"docs/runbooks/{name}.md"


@each
def test_a_page_has_the_parts_of_all_pages(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == PARTS
    assert len(rows(text)) >= 3, "causes"


def blocks(name: str, language: str) -> list[str]:
    """Lines of a page's code blocks."""
    text = (RUNBOOKS / f"{name}.md").read_text()
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [line for of, block in found if of == language for line in block.splitlines()]


@each
def test_queries_of_a_page_ask_for_what_is_exported(name: str) -> None:
    queries = blocks(name, "promql")
    assert queries
    for query in queries:
        labels_of(query, declared())


@pytest.mark.parametrize("name", [*sorted(alerts()), "README"])
def test_commands_of_a_page_are_such_as_the_program_takes(name: str) -> None:
    inside = re.findall(r"`((?:kvquilt|kubectl|journalctl|df) [^`]+)`", (RUNBOOKS / f"{name}.md").read_text())
    for line in (*blocks(name, ""), *inside):
        program, _, own = line.partition(" -- ")
        assert program.split()[0] in OTHERS | {"kvquilt"}, line
        asked = own or program
        if asked.startswith("kvquilt ") and asked.removeprefix("kvquilt ") not in {*COMMANDS, *WHOLE.commands}:
            assert refused(asked) == "", line


@each
def test_a_page_begins_with_steps_that_ask_kvquilt_itself(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    (steps,) = re.findall(r"^## In two minutes$(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    assert [line.split(".")[0] for line in steps.strip().splitlines()] == ["1", "2", "3"]
    assert "`kvquilt " in steps


@each
def test_checks_that_a_page_names_are_the_doctors(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    for step in re.findall(r"^\d\. .*kvquilt doctor.*$", text, re.MULTILINE):
        for said in re.findall(r":((?:,? ?(?:and |or )?`[a-z-]+`(?: \([^)]*\))?)+)", step):
            assert set(re.findall(r"`([a-z-]+)`", said)) <= CHECKS.keys(), step


@each
def test_metrics_that_a_page_names_are_exported(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    known = {re.sub("_(bucket|count|sum)$", "", metric) for metric in declared()} | declared().keys()
    assert set(re.findall(r"\bkvquilt_\w+", text)) <= known
