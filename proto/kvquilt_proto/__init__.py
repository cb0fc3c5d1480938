"""The wire vocabulary of kvquilt: `v1/*.proto` and the stubs generated from them by `make proto`."""
