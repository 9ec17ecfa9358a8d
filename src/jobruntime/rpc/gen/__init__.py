"""Code generated from proto/service.proto by `make proto`; not edited by hand."""
