"""acccmp: find the layer where a network that was moved to an NPU stops agreeing with its original."""

__version__ = "0.1.0"
