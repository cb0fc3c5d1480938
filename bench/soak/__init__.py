"""A soak: mixed load with evictions all the time and random faults, and whether anything grows by it (`make soak`).

`load` is what asks, `faults` what happens to that, `sampling` what is watched, `verdict` what must hold of it, `run`
puts them together.
"""
