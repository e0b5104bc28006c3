"""Profiling: spans recorded while frames run, and what comes out: a summary, a table, a trace, a report."""

from sharedbb.profiling.recording import Recording, SpanRecord
from sharedbb.profiling.report import Section, html_report, write_report
from sharedbb.profiling.spans import NullProfiler, Profiler, Span
from sharedbb.profiling.summary import SUMMARY_SCHEMA, HeadSummary, Latency, StageSummary, Summary
from sharedbb.profiling.table import stage_table
from sharedbb.profiling.trace import chrome_trace, write_trace

__all__ = [
    "SUMMARY_SCHEMA",
    "HeadSummary",
    "Latency",
    "NullProfiler",
    "Profiler",
    "Recording",
    "Section",
    "Span",
    "SpanRecord",
    "StageSummary",
    "Summary",
    "chrome_trace",
    "html_report",
    "stage_table",
    "write_report",
    "write_trace",
]
