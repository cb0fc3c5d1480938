"""The images' steps, run without an engine that builds images."""
