"""Anomaly detection with normalizing flows that survives mislabelled training images."""

__version__ = "0.1.0"
