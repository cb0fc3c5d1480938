"""The command line: `kvquilt --help`."""
