"""Trains many detectors and classifiers at once on GPUs of mixed size."""

__all__ = ["__version__"]

__version__ = "0.1.0"
