"""Draw figures from the tables of a sweep; several in one process, so that a redraw of all takes seconds.

A figure that can't be drawn stops no other, and leaves a mark, `.<name>.broken`, in the folder. Snakemake removes all that a failed
job made; the workflow, started again, draws a marked figure in a job of its own and the others without it.
"""

import argparse
import traceback
from pathlib import Path

from scripts.core import process, registry
from scripts.core.analysis import tables
from scripts.core.planning import contracts


def draw(folder, name: str, prefix) -> list[Path]:
    """Draw one figure from the tables in `folder`; returns the paths of PREFIX.svg and PREFIX.pdf."""
    from scripts.core.analysis import style

    read = tables.read(folder, registry.constants("figures", name)["TABLES"])
    try:
        return style.save(registry.load("figures", name).draw(read), prefix)
    except OSError:
        raise
    except Exception as error:  # a plugin is anybody's code
        raise BrokenFigure(name) from error


class BrokenFigure(Exception):
    """A figure whose plugin failed."""


def draw_all(folder, names, out: Path) -> tuple[list[str], list[str]]:
    """Draw the named figures into the folder `out`; returns (names of the broken ones, each of which gets a mark there, and a line
    for each whose tables are not there or lack a column).
    """
    broken, lacking = [], []
    for name in names:
        mark = out / f".{name}.broken"
        try:
            draw(folder, name, out / name)
            mark.unlink(missing_ok=True)
        except ValueError as error:
            lacking.append(f"{name}: {error}")
        except BrokenFigure:
            traceback.print_exc()
            out.mkdir(parents=True, exist_ok=True)
            mark.touch()
            broken.append(name)
    return broken, lacking


@process.guarded
def main(argv=None) -> int:
    """Command line; returns the exit status. Wrong input ends with one line."""
    parser = argparse.ArgumentParser(prog="python -m scripts.draw", description=__doc__)
    parser.add_argument("--tables", required=True, metavar="DIR", help="folder with scores.csv and recovery.csv")
    parser.add_argument(
        "--figure", required=True, nargs="+", metavar="NAME", help=f"{', '.join(registry.names('figures'))}, or all"
    )
    parser.add_argument(
        "--out", required=True, help="PREFIX of .svg and .pdf for one figure; a folder (its name ends in /) for any number"
    )
    options = parser.parse_args(argv)
    several = options.figure == ["all"] or len(options.figure) > 1 or options.out.endswith("/")
    names = registry.names("figures") if options.figure == ["all"] else options.figure
    for name in names:
        contracts.require("figures", name, "figure")
    if not several:
        draw(options.tables, *names, options.out)
        return 0
    broken, lacking = draw_all(options.tables, names, Path(options.out))
    if broken:
        parser.exit(1, f"{parser.prog}: {', '.join(broken)}: its code failed, see above; started again, the others are drawn\n")
    if lacking:
        raise ValueError("not drawn: " + "; ".join(lacking))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
