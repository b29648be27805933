"""Draw figures from the tables of a sweep; several in one process, so that a redraw of all takes seconds."""

import argparse
from pathlib import Path

from scripts.core import registry, tables


def draw(folder, name: str, prefix) -> list[Path]:
    """Draw one figure from the tables in `folder`; returns the paths of PREFIX.svg and PREFIX.pdf."""
    from scripts.core import style

    plugin = registry.load("figures", name)
    return style.save(plugin.draw(tables.read(folder, plugin.TABLES)), prefix)


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
    try:
        several = options.figure == ["all"] or len(options.figure) > 1 or options.out.endswith("/")
        names = registry.names("figures") if options.figure == ["all"] else options.figure
        for name in names:
            registry.require("figures", name, "figure")
        for name in names:
            draw(options.tables, name, Path(options.out) / name if several else options.out)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
