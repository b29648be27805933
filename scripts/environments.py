"""Make or list the environments of libraries that can't live in the main one.

usage: python -m scripts.environments [--make NAME [NAME …] | --conda]

Without arguments: each environment, its state, and what uses it. `--make all` makes those of quantizers. Each is a
venv in .envs/<name>, installed from the pins in envs/<name>.txt. `--conda` writes the same pins into envs/<name>.yaml; it is
run after a change of pins.
"""

import argparse
import sys
import time

from scripts.core import isolation, process, registry


def users(environment: str) -> list[str]:
    """Quantizers that run in an environment."""
    room = registry.names("quantizers")
    return [name for name in room if registry.constants("quantizers", name)["ENVIRONMENT"] == environment]


@process.guarded
def main(argv=None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.environments", description=__doc__.splitlines()[0])
    parser.add_argument("--make", nargs="+", metavar="NAME", default=[], help="environments to make; all for those of quantizers")
    parser.add_argument("--conda", action="store_true", help="write envs/*.yaml from the pins")
    options = parser.parse_args(argv)
    if options.conda:
        for name in (isolation.MAIN, *isolation.names()):
            (isolation.PINS / f"{name}.yaml").write_text(isolation.conda_file(name), encoding="utf-8")
        return 0
    wanted = [name for name in isolation.names() if users(name)] if "all" in options.make else options.make
    for name in wanted:
        isolation.pins(name)
    for name in wanted:
        started, before = time.monotonic(), isolation.state(name)
        if before != "ready":
            print(f"{name}: installing envs/{name}.txt into {isolation.folder(name)}", flush=True)
        isolation.make(name)
        print(f"{name}: ready" + ("" if before == "ready" else f" after {time.monotonic() - started:.0f} s"), flush=True)
    if not wanted:
        for name in isolation.names():
            print(f"{name:14} {isolation.state(name):12} {', '.join(users(name)) or 'evaluation.engine'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
