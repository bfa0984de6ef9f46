"""The training engine: one loop, one checkpoint format, one log format. Knows no task, method or
data set.
"""
