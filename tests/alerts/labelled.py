"""Which labels the series of a PromQL expression have, from those of the metrics in it.

So a name that nobody exports, a label that a metric does not have, and two sides that can never match are found
without any data. Rules of https://prometheus.io/docs/prometheus/2.42/querying/operators/.
"""

from collections.abc import Mapping

import promql_parser as promql

TARGET = frozenset({"job", "instance", "namespace"})
"""Labels of the scraped target; `namespace` is that of Kubernetes, and is absent elsewhere."""

Labels = frozenset[str]
Metrics = Mapping[str, Labels]
"""Labels by the name of each sample, `_bucket`, `_sum`, `_count` and `_total` included."""

_SCALARS = {"time", "scalar", "pi"}


class WrongExpressionError(Exception):
    """What cannot be what was meant, in words."""


def labels_of(expression: str, metrics: Metrics) -> Labels | None:
    """Labels of what an expression gives; `None` for a number.

    Raises:
        WrongExpressionError: it names what no metric has, or joins what cannot match.
        ValueError: it is no PromQL.
    """
    return _of(promql.parse(expression), metrics)


def _of(node: promql.Expr, metrics: Metrics) -> Labels | None:
    match node:
        case promql.NumberLiteral() | promql.StringLiteral():
            return None
        case promql.VectorSelector():
            return _selected(node, metrics)
        case promql.MatrixSelector():
            return _selected(node.vector_selector, metrics)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return _of(node.expr, metrics)
        case promql.Call():
            return _called(node, metrics)
        case promql.AggregateExpr():
            return _aggregated(node, metrics)
        case promql.BinaryExpr():
            return _joined(node, metrics)
    raise WrongExpressionError(f"{type(node).__name__} is not known here")


def _selected(node: promql.VectorSelector, metrics: Metrics) -> Labels:
    if node.name not in metrics:
        raise WrongExpressionError(f"no metric is called {node.name}")
    found = metrics[node.name] | TARGET
    for matcher in node.matchers.matchers:
        _has(found, [matcher.name], node.name)
    return found


def _called(node: promql.Call, metrics: Metrics) -> Labels | None:
    name = node.func.name
    found = [_of(argument, metrics) for argument in node.args]
    vectors = [labels for labels in found if labels is not None]
    if name in _SCALARS:
        return None
    if name == "vector":
        return frozenset()
    if name in ("absent", "absent_over_time"):
        return frozenset()
    if name == "label_replace":
        return vectors[0] | {node.args[1].val}
    if name == "histogram_quantile":
        _has(vectors[0], ["le"], "the argument of histogram_quantile")
        return vectors[0] - {"le"}
    return vectors[0]


def _aggregated(node: promql.AggregateExpr, metrics: Metrics) -> Labels:
    inner = _of(node.expr, metrics)
    if inner is None:
        raise WrongExpressionError(f"{node.expr.prettify()} is a number")
    if str(node.op) in ("topk", "bottomk"):
        return inner
    if node.modifier is None:
        return frozenset()
    named = list(node.modifier.labels)
    _has(inner, named, node.expr.prettify())
    return frozenset(named) if node.modifier.type == promql.AggModifierType.By else inner - set(named)


def _joined(node: promql.BinaryExpr, metrics: Metrics) -> Labels | None:
    left, right = _of(node.lhs, metrics), _of(node.rhs, metrics)
    if left is None or right is None:
        return left if right is None else right
    text, operator = node.prettify(), str(node.op)
    matching = node.modifier.matching if node.modifier is not None else None
    if matching is None:
        if left != right:
            raise WrongExpressionError(f"{sorted(left)} never matches {sorted(right)}: {text}")
        return left
    named = list(matching.labels)
    if matching.type == promql.LabelModifierType.Include:
        _has(left, named, node.lhs.prettify())
        _has(right, named, node.rhs.prettify())
        matched = frozenset(named)
    else:
        matched = left - set(named)
        if matched != right - set(named):
            raise WrongExpressionError(f"{sorted(matched)} never matches {sorted(right)}: {text}")
    taken = frozenset(node.modifier.group_labels or ())
    match node.modifier.card:
        case promql.VectorMatchCardinality.ManyToOne:
            _has(right, taken, node.rhs.prettify())
            return left | taken
        case promql.VectorMatchCardinality.OneToMany:
            _has(left, taken, node.lhs.prettify())
            return right | taken
        case promql.VectorMatchCardinality.ManyToMany:
            return left & right if operator == "or" else left
    return matched


def _has(found: Labels, named: "frozenset[str] | list[str]", what: str) -> None:
    if missing := sorted(set(named) - found):
        raise WrongExpressionError(f"{what} has no label {', '.join(missing)}; it has {', '.join(sorted(found))}")
