"""Policies judged on published job lists and measured applications, without any cluster."""
