"""The Python API: what people ask of a store, and what they read from it."""
