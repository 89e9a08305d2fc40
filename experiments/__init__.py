"""Launchers: absl flags in, one call of the library out."""
