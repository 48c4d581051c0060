"""Measurements: time and memory of camlib, beside plain inference and the other libraries.

``python -m benchmarks inference`` prints a table. A row is a `Setting` (network, layer, input) and
a column of cases (`cases.py`); another network, method or size is another entry there.
"""
