"""What an engine must be told to use a running router: `kvquilt connect`. Start with `types`."""
