"""Four repairs of how the Slurm executor plugin (2.8) reads job states; without them a sweep can wait forever or fail.

All were seen on a real Slurm 22.05. The first three are repaired in the one function that all state queries go through:

- sacct says "CANCELLED by <uid>", but the plugin only knows "CANCELLED", so a cancelled job counts as running for ever.
- When a query fails `slurm-status-attempts` times, which takes less than a second, the plugin forgets every active job: a restart
  of slurmctld is enough. Given an empty answer instead, it asks again at its next poll.
- It asks sacct for raw ids, which array tasks do not share with their array: a task without an answer of its own then gets
  the state of another one. Asked for plain ids, sacct names tasks as the plugin does.
- After a node was lost, it excludes the job's node from later submissions. But a job that waits to start again has no node: sacct
  says "None assigned", and with `--exclude=None assigned` every later sbatch is refused. What is not a node's name is left out.
"""

import functools
import re
import sys

PLUGIN = "snakemake_executor_plugin_slurm"


def plain(states: dict[str, str]) -> dict[str, str]:
    """States by job id without what sacct adds behind the first word."""
    return {job: state.split()[0] for job, state in states.items() if state}


def repaired(query):
    """The plugin's `query_job_status(command, logger)` → (states by job id, seconds), which then never answers (None, None)."""

    @functools.wraps(query)
    async def answer(command, logger):
        states, seconds = await query(command.replace("JobIdRaw", "JobID"), logger)
        if states is None:
            logger.warning("Slurm does not tell the states of the jobs at the moment; asking again at the next poll.")
            return {}, 0.0
        return plain(states), seconds

    answer.repaired = True
    return answer


def submittable(command):
    """The plugin's `get_submit_command`, given only those failed nodes that are names (n1, or a list such as n[1-3],m7)."""

    @functools.wraps(command)
    def build(job, params, settings=None, failed_nodes=None, **more):
        nodes = {node for node in failed_nodes or () if re.fullmatch(r"[\w.,\[\]-]+", node)}
        return command(job, params, settings=settings, failed_nodes=nodes, **more)

    return build


def repair() -> bool:
    """Repair the plugin where Snakemake has loaded it; True when it is (or was already) repaired, False when absent."""
    plugin = sys.modules.get(PLUGIN)
    query = getattr(plugin, "query_job_status", None)
    if query is None:
        return False
    if not hasattr(query, "repaired"):
        plugin.query_job_status = repaired(query)
        plugin.get_submit_command = submittable(plugin.get_submit_command)
    return True
