"""docs/metrics.md has every metric that is declared, with its type and its labels, and no other."""

import pytest

from kvquilt_cache_node.metrics import names as of_nodes
from kvquilt_router.metrics import names as of_routers
from kvquilt_rpc.metrics import names as of_both
from kvquilt_rpc.metrics.types import Kind
from tests.docs.pages import rows, section, words

PAGE = "metrics.md"
QUESTIONS = ("Does it help?", "Is it right?", "Is it full?", "Who uses it?", "Is it healthy?")
DECLARED = {
    metric.name: (component, metric)
    for component, module in (("both", of_both), ("node", of_nodes), ("router", of_routers))
    for metric in module.METRICS
}


def documented() -> list[list[str]]:
    return [row for question in QUESTIONS for row in rows(section(PAGE, question))]


def test_every_metric_is_in_one_table_with_what_it_is() -> None:
    found = {next(iter(words(row[0]))): row for row in documented()}
    assert len(found) == len(documented()), "none is in two tables"
    assert found.keys() == DECLARED.keys()
    for name, (component, metric) in DECLARED.items():
        _, of, kind, labels, meaning = found[name]
        assert (of, kind) == (component, metric.kind.value), name
        assert words(labels) == set(metric.labels), name
        assert meaning, name


def test_those_of_the_process_are_named() -> None:
    assert {word for word in words(section(PAGE, "Of the process")) if word.startswith("process_")} == set(
        of_both.PROCESS
    )


@pytest.mark.parametrize("name", DECLARED)
def test_names_follow_the_conventions(name: str) -> None:
    _, metric = DECLARED[name]
    assert name.startswith("kvquilt_")
    assert name.endswith("_total") == (metric.kind is Kind.COUNTER)
    assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert not {"le", "quantile", "instance", "job"} & set(metric.labels)
    assert metric.help.endswith(".")
