"""The numerics that mixers are made of: recurrent scans, linear recurrences, attention, convolution."""
