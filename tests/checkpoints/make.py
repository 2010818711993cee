"""Make the checkpoint of the present version: python tests/checkpoints/make.py (once per new version)."""

import tempfile
from pathlib import Path

import torch
from ase.build import molecule

from hiphop_train import checkpoint, cli
from hiphop_train.graph.assemble import make_graph
from hiphop_train.graph.neighbours import neighbours

file = Path(__file__).parent / f"version{checkpoint.VERSION}.ckpt"
with tempfile.TemporaryDirectory() as folder:
    settings = [
        "model=hipnn",
        "model.n_features=4",
        "model.n_atom_layers=1",
        "dtype=float64",
        "trainer.accelerator=cpu",
    ]
    assert cli.run("train", ["debug=fast", *settings, "model.n_features=4", f"run_dir={folder}/run"]) == 0
    content = torch.load(f"{folder}/run/checkpoints/best.ckpt", weights_only=True)
torch.save(content, file)
potential = checkpoint.load(str(file)).potential
water = molecule("H2O")
positions = torch.from_numpy(water.positions)
cell, pbc = torch.zeros(1, 3, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.bool)
pair_i, pair_j, pair_shift = neighbours(positions, cell[0], pbc[0], potential.cutoff)
inputs = {
    "species": torch.tensor([potential.elements.index(symbol) for symbol in water.symbols]),
    "positions": positions,
    "cell": cell,
    "pbc": pbc,
    "system": torch.zeros(3, dtype=torch.int64),
    "pair_i": pair_i,
    "pair_j": pair_j,
    "pair_shift": pair_shift,
}
outputs = potential(make_graph(**inputs, n_systems=1, dtype=torch.float64))
golden = {**inputs, "energy": outputs["energy"].detach(), "forces": outputs["forces"].detach()}
torch.save(golden, file.with_suffix(".golden.pt"))
