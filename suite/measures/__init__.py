"""Measures, one file each: raw facts about a job, as rows. What is divided by what is the report's affair.

A file defines

    check(job, task, *, knobs)                raises ValueError where nothing could be measured: before anything is run
    measure(rig, *, knobs) -> Iterator[Row]   may stop between two rows and be interleaved with another's
    NEEDS                                     measures that must be done before
    PLACED                                    whether the rows depend on the place as well as on the job
    RESUMES                                   whether it goes on from its own rows; otherwise it starts afresh

Rows are flat; who appends them adds the conditions: `rig.facts`, the measure, its repeat and group. A row has an
`outcome` ("ok", "diverged", "oom", "did_not_compile", "crashed") and, where rows differ in kind, a `phase`.
"""
