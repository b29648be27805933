"""A repair of Snakemake: a job whose output is older than one of its inputs is only warned about.

Snakemake lets such a job fail and removes its output. So a single file with a date in the future (copied from a machine whose clock
is ahead, say) ruins every training that reads it, after hours. Here checksums that are recorded with the output, not dates, decide
whether it is made again, so a warning is enough.
"""

import functools


def warned(check, error, warn):
    """Snakemake's `check_output_mtime(job, files)`, with warn(text) called where it would raise `error`."""

    @functools.wraps(check)
    async def answer(self, job, files):
        try:
            await check(self, job, files)
        except error as found:
            warn(f"Kept, though: {found}")

    return answer


def repair() -> None:
    """Repair Snakemake's class, once."""
    from snakemake.dag import DAG
    from snakemake.exceptions import WorkflowError
    from snakemake.logging import logger

    if not hasattr(DAG.check_output_mtime, "__wrapped__"):
        DAG.check_output_mtime = warned(DAG.check_output_mtime, WorkflowError, logger.warning)
