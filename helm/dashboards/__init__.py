"""Dashboards for Grafana, which `make dashboards` writes into the chart."""
