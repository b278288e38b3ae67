"""What fits which chip: rules with figures, for networks that are to run without a clock."""

from .check import check_async
from .limits import chip_names
from .report import Finding, Layer, Report

__all__ = ["Finding", "Layer", "Report", "check_async", "chip_names"]
