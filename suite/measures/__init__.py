"""Measures, one file each: raw numbers of a job, as rows. The report divides, and takes medians.

A file defines

    measure(rig, *, knobs) -> Iterator[Row]   may stop between two rows and take turns with another measure
    check(job, task, *, knobs)                optional: raises ValueError for a job that cannot be measured
    NEEDS                                     the measures that must be done before
    PLACED                                    whether the rows depend on the place as well as on the job, as all do
                                              where a budget in seconds ends the training
    RESUMES                                   whether it goes on from its own rows; otherwise it starts afresh
    SECONDS                                   its cost on two CPU cores: a number, or a formula of its knobs, the job's
                                              numbers, and the seconds of a training `step` and of its `compilation`
    CONDITIONS                                {column: unit} of what a row says of itself: {"context": "tokens"}; the
                                              unit n marks over how many the quantities are a mean
    QUANTITIES                                {phase: {column: unit}} of what was measured: {"test": {"loss": "nats"}}

The last six are literals and are read without running the file. A quantity's unit may go on: results.csv divides one
of `s per read` by the condition `read`, and names one of `1 as norm_at_{distance}` norm_at_8 instead of phase_column.

Rows are flat. Each has an `outcome` ("ok", "diverged", "oom", "did_not_compile", "crashed"), a `phase` of QUANTITIES,
columns that are declared and, where it repeats another, its `turn`; one without a number may say why as `error`, and
`estimate_bytes` with `estimated_from`. The worker adds `rig.conditions`, the measure, its
repeat and group. Where a measure of NEEDS ended without a number, one row with its outcome stands for all.
"""
