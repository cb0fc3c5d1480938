"""What nodes deliver beside their stores by themselves (docs/operations.md, "Throughput"); what is below a node."""
