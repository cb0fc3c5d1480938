"""What `make bench-blend` measures on, and how its rows are made."""
