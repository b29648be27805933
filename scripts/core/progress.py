"""How far a program is, on stderr: a bar on a terminal, lines in a log."""

import sys

from tqdm import tqdm

SECONDS = 30  # between the lines of a log


class Lines(tqdm):
    """tqdm for a file: each state is a line, where a bar would be written over itself thousands of times."""

    def display(self, msg=None, pos=None):
        print(msg or str(self), file=self.fp, flush=True)

    def close(self):
        if not self.disable and self.last_print_n < self.n:
            self.display()
        self.disable = True


def bar(total: int, unit: str, what: str = "", initial: int = 0, quiet: bool = False) -> tqdm:
    """A tqdm to `update` and `close`. total, initial: in units; what: is done with them; quiet: show nothing."""
    shared = dict(total=total, initial=initial, unit=f" {unit}", file=sys.stderr, disable=quiet)
    if sys.stderr.isatty():
        return tqdm(**shared, desc=what or None, mininterval=1)
    form = (f"{what}: " if what else "") + "{n_fmt} of {total_fmt} " + unit + "s, {rate_fmt}, {remaining} left{postfix}"
    return Lines(**shared, mininterval=SECONDS, miniters=1, bar_format=form)
