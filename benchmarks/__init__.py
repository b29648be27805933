"""How much faster and smaller than the published code's way: `make bench`, or `python -m benchmarks --help`.

The published code evaluates one prompt at a time, reads one token's log-probability at a time, trains with two whole models
in memory and full float32 logits, and keeps full checkpoints. benchmarks/baseline/ does the same work that way, written anew
from that description; each measure times it against this project's way, side by side in one process.

A measure is one file in benchmarks/measures/, found by its name. It has

    \"\"\"First line: what is compared.\"\"\"   shown under the table
    ORDER = 50                             place in the table (default 50; ties by name)
    SIZES = ("tiny", "demo")               sizes it makes sense for (default: all of benchmarks.sizes.SIZES)
    def run(context): yield Row(…)         rows of the table

`context` (benchmarks.harness.Context) has size, device, folder (scratch, kept for the run), model(), tokenizer, corpus and

    pairs = context.pairs(baseline, ours)      two callables, each timed in turn: A B, B A, A B, …
    pairs.baseline, pairs.ours                 seconds of each run
    pairs.results                              [(what baseline returned, what ours returned), …]: raise if they differ
    Row.timed("KnowMem", pairs)                median seconds, median ratio of the pairs, smallest and largest ratio
    Row("peak memory", baseline, ours, "MiB")  two numbers that were measured once
    row.turned()                               ratios say how many times more ours costs

A ratio is baseline / ours for what costs (seconds, bytes): 2.0 means half. For rates (`more_is_better=True`) it is ours / baseline.
Work that both sides share (building a model, imports) stays outside the callables. A measure that raises is shown as failed and
makes the command fail; the others are still written. Keep a measure under a minute or so at size "demo" on one thread.
"""
