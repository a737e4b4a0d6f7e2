"""Tests of the memory prediction."""
