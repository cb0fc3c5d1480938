// What the dashboards may hold, from the types that Grafana itself publishes: a dashboard, and of each kind of panel
// that they use its options and how its fields are drawn. Names that Grafana does not know are errors, as literals.
import type { Dashboard, FieldConfig, Panel, RowPanel } from '@grafana/schema/raw/dashboard/x/dashboard_types.gen';
import type * as bargauge from '@grafana/schema/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type * as stat from '@grafana/schema/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

/** As it stands in JSON, where the values of enums are plain strings. */
type Json<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Json<T[K]> } : T;

/** Prometheus's queries are not in the package: these fields are ours to know. */
type Query = {
  refId: string;
  expr: string;
  legendFormat: string;
  instant: boolean;
  range: boolean;
  datasource: { type: 'prometheus'; uid: string };
};

type Of<Type, Options, Custom> = Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
  type: Type;
  options: Options;
  targets: Query[];
  fieldConfig: { defaults: Omit<FieldConfig, 'custom'> & Custom; overrides: [] };
};

type Shown =
  | Of<'stat', stat.Options, {}>
  | Of<'bargauge', bargauge.Options, {}>
  | Of<'timeseries', timeseries.Options, { custom: timeseries.FieldConfig }>;

type Row = Omit<RowPanel, 'panels'> & { panels: Shown[] };

export type Written = Json<Omit<Dashboard, 'panels'> & { panels: (Shown | Row)[] }>;
