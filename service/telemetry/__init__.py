"""Log events, metrics and traces: all names are defined here."""

from service.telemetry.events import Event
from service.telemetry.logs import Log, configure_logs, flush_logs, lost_log_lines, where
from service.telemetry.metrics import FastCounter, FastHistogram, Metrics

__all__ = [
    "Event",
    "FastCounter",
    "FastHistogram",
    "Log",
    "Metrics",
    "configure_logs",
    "flush_logs",
    "lost_log_lines",
    "where",
]
