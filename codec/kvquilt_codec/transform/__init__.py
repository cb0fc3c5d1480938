"""From a layer's keys and values to the numbers that are quantised, and back."""
