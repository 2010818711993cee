"""Damage many files in every format, read each in a process of its own under limits, and record the outcomes.

Usage: python benchmarks/fuzz_readers.py --count 5000
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000, help="files to damage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "fuzz.json")
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))  # the tests' damage is used
    from tests.data.formats.fuzz import campaign

    with tempfile.TemporaryDirectory() as folder:
        record = campaign(Path(folder), options.count, options.seed)
    options.output.write_text(json.dumps(record, indent=2) + "\n")
    print(record["outcomes"], f"{record['largest_memory_megabytes']} MB at most")
    for failure in record["failures"]:
        print(failure)
    return 1 if record["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
