"""Quantities of which a crossover is sought, one file each: the cells that measure one at a length, and its values.

A file defines

    cell(job, length, repeat)   the cell that measures it of an arm's job at a length, for the so manieth time
    values(rows, length)        its values in the rows of such a cell, one a turn; empty until the cell has them all
    ABOUT                       what it is in a few words, as "seconds of a training step"
    UNIT                        the unit of its values
    AXIS                        what the length is: "length" of the examples that are trained on, or "context"
    TIMED                       whether the two arms take turns in one process, and a repeat is a fresh process
    TRAINED                     whether its jobs are trained, each arm at its own learning rate; then a repeat is a seed
    EXACT                       whether it is without noise: then once is enough, and no interval is wanted
    ROUND                       whether a program runs at the length: then round lengths alone are asked for
    COMPARED                    how two arms are compared, by their "ratio" or their "difference"
    DEFAULTS                    fields of its jobs that no flag gives, where they are not those of launch.job

All but the functions are literals and are read without running the file. A file knows no arm and compares nothing: that
is done for all quantities alike by suite/judging/crossover.py.
"""
