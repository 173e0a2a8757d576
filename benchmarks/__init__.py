"""Benchmarks: figures to quote, and ratios measured side by side."""
