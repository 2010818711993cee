"""bf16-mixed rounds wide products and nothing else; precisions are set by configuration, and set back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hiphop_train.graph.tables import lay_out, sums_of_products
from hiphop_train.nn.pairs import lay_out_pairs
from torch import Tensor

from hiphop_train import build, checkpoint, cli
from hiphop_train.config import load_config
from hiphop_train.errors import ConfigError
from hiphop_train.nn import messages
from hiphop_train.potential import Network
from hiphop_train.training.module import PotentialModule
from hiphop_train.training.standardisation import fit_standardisation
from hiphop_train.types import Batch

MODELS = sorted(file.stem for file in (Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))
HIP = [name for name in MODELS if name.startswith("hip")]
"""Models with a way of their own for large systems."""

UNCHANGED = ("ani", "bp")
"""Models whose wide products are the readout's, which stays float32."""


def mixed(enabled: bool = True) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


def make(name: str, *settings: str) -> tuple[PotentialModule, list[Batch]]:
    config = load_config("train", [f"model={name}", "optimizer.lr=3e-4", *settings])
    torch.manual_seed(0)
    potential = build.make_potential(config.model, torch.float32)
    data = build.make_data(config.data, potential, torch.float32, 0)
    statistics = data.statistics()
    potential.set_statistics(statistics.e0, statistics.scale)
    fit_standardisation(potential, data)
    optimizer = build.make_part(config.optimizer, "optimizer", params=list(potential.parameters()))
    schedule = build.make_part(config.scheduler, "scheduler")
    module = PotentialModule(potential, build.make_part(config.loss, "loss"), optimizer, schedule, {})
    return module, list(data.train_dataloader())


def evaluate(module: PotentialModule, batch: Batch, in_mixed: bool) -> dict[str, Tensor]:
    """Energy of the network, forces, and gradient of the loss."""
    parameters = list(module.potential.parameters())
    with mixed(in_mixed):
        outputs = module.potential.train()(batch.graph)
        loss = module._loss(batch)
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])
    return {
        "energy": outputs["level_energies"][:, 1:].detach(),
        "forces": outputs["forces"].detach(),
        "gradient": gradient,
    }


@pytest.mark.parametrize(
    ("model_name", "large"), [*((name, False) for name in MODELS), *((name, True) for name in HIP)]
)
def test_energies_forces_and_gradients_are_near(model_name: str, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured with random weights, relative: energies 0.3 to 0.6 %, forces 0.4 to 1.2 %, gradients 0.3 to 1.8 %."""
    if large:
        monkeypatch.setattr(messages, "LARGE", 0)
    module, batches = make(model_name)
    found, expected = (evaluate(module, batches[0], in_mixed) for in_mixed in (True, False))
    assert found["energy"].dtype == torch.float64
    assert found["forces"].dtype == found["gradient"].dtype == torch.float32
    for key, value in expected.items():
        deviation = float((found[key] - value).norm() / value.norm())
        assert deviation < 0.03, key
        assert (deviation < 1e-7) == (model_name in UNCHANGED), key


def test_geometry_and_sums_over_neighbours_are_not_rounded() -> None:
    _, batches = make("hiphop")
    graph = batches[0].graph._replace(layout=None)
    plain = lay_out_pairs(graph, 4, 5, 20)
    with mixed():
        found = lay_out_pairs(graph, 4, 5, 20)
    for name in ("sent_distance", "received_tensors", "species_distance", "species_tensors"):
        assert torch.equal(getattr(found, name), getattr(plain, name)), name
    left, right = torch.randn(60, 4, requires_grad=True), torch.randn(60, 8, requires_grad=True)
    table = lay_out(torch.arange(60) // 6, 10, places=12)

    def sums() -> list[Tensor]:
        made = sums_of_products(left, right, table.blocks)
        return [made, *torch.autograd.grad(made.square().sum(), [left, right])]

    expected = sums()
    with mixed():
        for value, other in zip(sums(), expected, strict=True):
            assert torch.equal(value, other)


def test_what_layers_hand_on_is_float32(model_name: str) -> None:
    module, batches = make(model_name)
    with mixed():
        levels = module.potential.terms[0].representation(batches[0].graph)
    assert {level.dtype for level in levels} == {torch.float32}


def test_readout_is_not_rounded(model_name: str) -> None:
    module, batches = make(model_name)
    network, graph = module.potential.terms[0], batches[0].graph
    levels = network.representation(graph)
    expected = network.readout(levels, graph.species)
    with mixed():
        assert torch.equal(network.read_out(levels, graph.species, graph.n_of_type), expected)


@pytest.mark.parametrize("name", ["hipnn", "hiphop"])
def test_steps_lower_the_loss(name: str) -> None:
    module, (unseen, *batches) = make(name)
    module.train()
    before = float(module._loss(unseen).detach())
    for batch in batches[:20]:
        module.optimizer.zero_grad()
        with mixed():
            loss = module._loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 10.0)
        module.optimizer.step()
    assert float(module._loss(unseen).detach()) < 0.95 * before


def test_a_training_as_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are in bfloat16; what validates, evaluates and is saved is not, and TF32 ends with the training."""
    seen: set[tuple[bool, bool, str]] = set()
    plain = Network.read_out

    def watched(network: Network, *arguments: Any) -> Tensor:
        seen.add((network.training, torch.is_autocast_enabled("cpu"), torch.get_float32_matmul_precision()))
        return plain(network, *arguments)

    monkeypatch.setattr(Network, "read_out", watched)
    settings = ["debug=fast", "trainer.accelerator=cpu", "model=hipnn", f"run_dir={tmp_path / 'run'}"]
    assert cli.run("train", [*settings, "trainer.precision=bf16-mixed", "trainer.matmul_precision=high"]) == 0
    of_steps, of_validation, of_evaluation = (True, True, "high"), (False, False, "high"), (False, False, "highest")
    assert seen == {of_steps, of_validation, of_evaluation}
    assert torch.get_float32_matmul_precision() == "highest"
    potential = checkpoint.load(str(tmp_path / "run")).potential
    assert {parameter.dtype for parameter in potential.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["trainer.precision=16-mixed"], "trainer.precision: got '16-mixed'; it must be 'full' or 'bf16-mixed'"),
        (["trainer.matmul_precision=tf32"], "got 'tf32'; it must be 'highest', 'high' or 'medium'"),
        (["trainer.precision=bf16-mixed", "dtype=float64"], "leaves nothing of dtype=float64; leave out one of them"),
    ],
)
def test_other_precisions_are_refused(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config("train", settings)
    assert words in str(refused.value)
    assert settings[0] in str(refused.value)
