"""Measurements, each beside a baseline that is taken in the same run; bench/README.md."""
