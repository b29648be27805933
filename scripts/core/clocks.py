"""A repair to what Snakemake makes of a job whose output is older than an input: it failed, and what it made is removed.

One file dated in the future (copied from a machine whose clock is ahead, say) costs so each training that reads it, hours after its
start. The checksums that are recorded with the output decide here whether it is made again, so a warning will do.
"""

import functools


def warned(check, error, warn):
    """Snakemake's `check_output_mtime(job, files)`, whose `error` becomes a call of warn(text)."""

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
