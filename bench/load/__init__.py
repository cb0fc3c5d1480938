"""How much nodes and routers take, and what becomes of what is more: the parts of `make bench-load`."""
