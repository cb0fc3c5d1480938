"""What nodes deliver beside their stores by themselves (docs/performance.md, "Throughput"); what is below a node."""
