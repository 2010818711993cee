"""What fine-tuning gains on new data and costs on old: HIP-NN of the embedded data, and 50 frames of one molecule.

    python benchmarks/finetuning.py TRAIN.xyz TEST.xyz    some fifteen minutes on two cores

The first 50 frames of TRAIN are given (40 to train on), TEST is evaluated; errors on the old data are those of its test
split with new molecules. Energies of the other program differ from the old ones by more than its zero.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ase.io
import numpy as np

RESULTS = Path(__file__).parent / "results" / "finetuning.json"
EPOCHS = 100
START = ["optimizer.lr=5e-4"]
VARIANTS: dict[str, list[str]] = {
    "random weights": [],
    "e0=fit": [*START, "finetune.e0=fit"],
    "e0=new_level": [*START, "finetune.e0=new_level", "data.level_of_theory=new"],
    "e0=new_level layer_decay=0.5": [
        *START, "finetune.e0=new_level", "data.level_of_theory=new", "finetune.layer_decay=0.5"
    ],
    "e0=new_level freeze=[representation]": [
        *START, "finetune.e0=new_level", "data.level_of_theory=new", "finetune.freeze=[representation]"
    ],
    "e0=new_level replay=0.5": [
        *START, "finetune.e0=new_level", "data.level_of_theory=new", "finetune.replay=0.5"
    ],
    "e0=new_level replay=0.9": [
        *START, "finetune.e0=new_level", "data.level_of_theory=new", "finetune.replay=0.9"
    ],
}  # fmt: skip


def command(name: str, *words: str) -> None:
    """Run one of our commands."""
    program = ["from hiphop_train import cli; import sys; sys.exit(cli.run(sys.argv[1], sys.argv[2:]))"]
    done = subprocess.run([sys.executable, "-c", *program, name, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def errors(run_dir: Path, *words: str) -> dict[str, float]:
    """Return mean absolute errors of energy and forces, kcal/mol(/Angstrom)."""
    command("eval", f"checkpoint={run_dir}", f"output_dir={run_dir / 'out'}", *words)
    found: dict[str, Any] = json.loads((run_dir / "out" / "errors.json").read_text())["errors"]
    table = next(iter(found.values()))
    return {key: table[key]["mae"] for key in ("energy", "forces")}


def main() -> int:
    """Train, evaluate, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each fine-tuning (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the result is stored (%(default)s)")
    given = parser.parse_args()
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few = folder / "few.xyz"
        ase.io.write(few, ase.io.read(given.train, index=":50"))
        base = folder / "base"
        command("train", "model=hipnn", f"run_dir={base}")
        old = ["data=tiny", "splits=[test_unseen]", "data.level_of_theory=wb97x_dz"]
        rows["before"] = {"old": errors(base, *old)}
        print("before", rows["before"], flush=True)
        data = ["data=extxyz", f"data.path={few}", "data.batch_size=8", f"trainer.max_epochs={given.epochs}"]
        for number, (title, words) in enumerate(VARIANTS.items()):
            run_dir = folder / str(number)
            weights = [f"init_weights={base}"] if words else ["model=hipnn", "model.elements=[H,C,N,O]"]
            command("train", *data, *weights, *words, f"run_dir={run_dir}")
            level = ["data.level_of_theory=new"] if "new_level" in title else []
            rows[title] = {"new": errors(run_dir, "data=extxyz", f"data.path={given.test}", *level)}
            if words:
                rows[title]["old"] = errors(run_dir, *(old if level else old[:2]))
            print(title, rows[title], flush=True)
            given.output.write_text(json.dumps(rows, indent=1) + "\n")
    return int(not np.isfinite(rows["e0=fit"]["new"]["forces"]))


if __name__ == "__main__":
    sys.exit(main())
