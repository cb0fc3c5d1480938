"""What the dashboards are made of: numbers, lines and bars over Grafana's own builders, laid out row by row.

A panel says what it shows, in which unit, and from which value on that is no longer well. Panels of a row that is
folded are read when something is wrong; what is seen first fits a small screen.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import ClassVar

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as grafana
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")

PanelBuilder = stat.Panel | timeseries.Panel | bargauge.Panel


_OF_INTERVALS = ("auto", "auto_count", "auto_min")
"""What the builders give to every variable, and Grafana knows of intervals only."""


def written(built: model.Dashboard) -> str:
    """A dashboard as Grafana imports it."""
    plain = json.loads(JSONEncoder().encode(built))
    for variable in plain["templating"]["list"]:
        for name in _OF_INTERVALS:
            variable.pop(name, None)
    return json.dumps(plain, sort_keys=True, indent=2) + "\n"


@dataclass(frozen=True)
class Query:
    """A PromQL expression and what its series are called, with labels as `{{label}}`."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel(ABC):
    """What one panel shows.

    Attributes:
        title: what is measured, in words.
        description: what it says and what to do about it, for the panel's info corner.
        unit: Grafana's name of the unit.
        queries: what is drawn.
        warn, bad: values from which it is yellow and red; `None`: no such value.
        low: it is small values that are bad, `warn` above `bad`.
        most: upper end of the scale, if it has one.
        decimals: of numbers, `None` for Grafana's choice.
        signed: values may be below 0.
        size: columns and rows of the grid.
        instant: whether the value of the moment is enough.
    """

    size: ClassVar[tuple[int, int]] = (12, 8)
    instant: ClassVar[bool] = True

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    warn: float | None = None
    bad: float | None = None
    low: bool = False
    most: float | None = None
    decimals: float | None = None
    signed: bool = False

    def built(self) -> PanelBuilder:
        """Of Grafana's builders."""
        builder, (width, height) = self._look(), self.size
        builder.title(self.title).description(self.description).unit(self.unit).datasource(SOURCE)
        builder.grid_pos(model.GridPos(h=height, w=width)).thresholds(self._thresholds()).no_value("none")
        if not self.signed:
            builder.min(0)
        if self.most is not None:
            builder.max(self.most)
        if self.decimals is not None:
            builder.decimals(self.decimals)
        for letter, query in zip("ABCDEFGH", self.queries, strict=False):
            builder.with_target(self._target(letter, query))
        return builder

    @abstractmethod
    def _look(self) -> PanelBuilder:
        """Of Grafana's builders, with what only this kind of panel has."""

    def _target(self, letter: str, query: Query) -> prometheus.Dataquery:
        target = prometheus.Dataquery().ref_id(letter).datasource(SOURCE).expr(query.expr).legend_format(query.legend)
        return target.instant() if self.instant else target.range()

    def _thresholds(self) -> grafana.ThresholdsConfig:
        if self.low:
            places = [(self.bad, "red"), (self.warn, "yellow")]
            known = [(value, colour) for value, colour in places if value is not None]
            steps = [
                *zip([None, *(value for value, _ in known)], [*(colour for _, colour in known), "green"], strict=True)
            ]
        else:
            known = [
                (value, colour) for value, colour in ((self.warn, "yellow"), (self.bad, "red")) if value is not None
            ]
            steps = [(None, "green" if known else "blue"), *known]
        thresholds = [model.Threshold(value, colour) for value, colour in steps]
        return grafana.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(thresholds)


@dataclass(frozen=True)
class Number(Panel):
    """One large number, of the moment."""

    size: ClassVar[tuple[int, int]] = (6, 4)

    def _look(self) -> PanelBuilder:
        panel = stat.Panel().graph_mode(options.BigValueGraphMode.NONE).color_mode(options.BigValueColorMode.VALUE)
        return panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))


@dataclass(frozen=True)
class Bars(Panel):
    """One bar for each series, of the moment."""

    def _look(self) -> PanelBuilder:
        panel = bargauge.Panel().orientation(options.VizOrientation.HORIZONTAL)
        panel.display_mode(options.BarGaugeDisplayMode.BASIC)
        return panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))


@dataclass(frozen=True)
class Lines(Panel):
    """Values over time; `stacked` where they are parts of a whole."""

    instant: ClassVar[bool] = False

    stacked: bool = False

    def _look(self) -> PanelBuilder:
        panel = timeseries.Panel().line_width(1).fill_opacity(30 if self.stacked else 0)
        legend = common.VizLegendOptions().display_mode(options.LegendDisplayMode.LIST).show_legend(True)
        panel.legend(legend.placement(options.LegendPlacement.BOTTOM))
        tooltip = common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI)
        panel.tooltip(tooltip.sort(options.SortOrder.DESCENDING))
        panel.stacking(
            common.StackingConfig().mode(options.StackingMode.NORMAL if self.stacked else options.StackingMode.NONE)
        )
        if self.warn is not None or self.bad is not None:
            panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(options.GraphThresholdsStyleMode.DASHED))
        return panel


@dataclass(frozen=True)
class Row:
    """Panels below a heading; `folded` until somebody looks."""

    title: str
    panels: Sequence[Panel]
    folded: bool = False


@dataclass(frozen=True)
class Variable:
    """A choice at the top of a dashboard: values of a label of a metric."""

    name: str
    label: str
    description: str
    metric: str
    of: str
    where: str = ""

    def built(self) -> grafana.QueryVariable:
        """Of Grafana's builders; several values may be chosen, and none matches series without the label too."""
        query = f"label_values({self.metric}{self.where}, {self.of})"
        variable = grafana.QueryVariable(self.name).label(self.label).description(self.description)
        variable.query(query).datasource(SOURCE).refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        variable.sort(model.VariableSort.ALPHABETICAL_ASC).multi(True).include_all(True).all_value(".*")
        return variable.current(model.VariableOption(selected=True, text="All", value="$__all"))


@dataclass(frozen=True)
class Dashboard:
    """One dashboard, with the variables `datasource` and those that it names."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    variables: Sequence[Variable] = field(default=())

    def json(self) -> str:
        """As Grafana imports it."""
        built = grafana.Dashboard(self.title).uid(self.uid).description(self.description).tags(["kvquilt"])
        built.editable().timezone("browser").refresh("30s").time("now-6h", "now")
        built.tooltip(model.DashboardCursorSync.CROSSHAIR)
        built.link(
            grafana.DashboardLink("kvquilt").type(model.DashboardLinkType.DASHBOARDS).tags(["kvquilt"]).keep_time(True)
        )
        built.with_variable(grafana.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        for variable in self.variables:
            built.with_variable(variable.built())
        numbers = count(1)
        for row in self.rows:
            heading = grafana.Row(row.title).id(next(numbers)).collapsed(row.folded)
            panels = [panel.built().id(next(numbers)) for panel in row.panels]
            if row.folded:
                for panel in panels:
                    heading.with_panel(panel)
            built.with_row(heading)
            if not row.folded:
                for panel in panels:
                    built.with_panel(panel)
        return written(built.build())
