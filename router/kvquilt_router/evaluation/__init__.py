"""Blends beside full prefills: what each way to blend costs and does, on cases."""
