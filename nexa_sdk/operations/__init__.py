"""The specification's functions, thin over the objects."""
