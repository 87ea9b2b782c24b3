"""Run the benchmarks one after the other, each in a process of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
NOT_ONE = {"__init__", "__main__", "record"}


def names() -> list[str]:
    """Names of all benchmarks: the files beside this one."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem not in NOT_ONE and path.stem[0] != "_")


def main() -> int:
    """Run those asked for, or all; give the number of those that failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"out of: {', '.join(names()) or 'none yet'}")
    parser.add_argument("--size", choices=("small", "full"), default="small")
    options = parser.parse_args()
    unknown = [name for name in options.only if name not in names()]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are: {', '.join(names()) or 'none yet'}")
    failed = []
    for name in options.only or names():
        print(f"== {name} ({options.size})", flush=True)
        start = time.perf_counter()
        code = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", "--size", options.size], cwd=HERE.parent, check=False
        ).returncode
        print(
            f"== {name}: {'done' if code == 0 else f'failed ({code})'}, {time.perf_counter() - start:.0f} s\n",
            flush=True,
        )
        failed += [name] * (code != 0)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
