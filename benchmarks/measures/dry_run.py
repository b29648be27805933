"""A dry run of a sweep, from start to end, against bare Snakefiles that ask for as many jobs; ratio: times their cost."""

from benchmarks import dry_run
from benchmarks.harness import Pairs, Row

ORDER = 80
SIZES = ("tiny", "demo")
CELLS = {"tiny": 24, "demo": 600}
TABLE = "Cost of a dry run (baseline: a bare Snakefile; ratio: times its cost)"


def run(context):
    """A row against each bare workflow."""
    commands = dry_run.prepare(context.folder / "dry_run", CELLS[context.size])
    rounds = [{name: dry_run.seconds(command) for name, command in commands.items()} for _ in range(min(3, context.count))]
    for name, what in (("files", "the same jobs and files"), ("jobs", "as many jobs of one file each")):
        pairs = Pairs([took[name] for took in rounds], [took["ours"] for took in rounds])
        yield Row.timed(f"dry run of {CELLS[context.size]} cells, baseline with {what}", pairs, table=TABLE).turned()
