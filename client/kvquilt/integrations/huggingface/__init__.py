"""The parts of `kvquilt.integrations.transformers`."""
