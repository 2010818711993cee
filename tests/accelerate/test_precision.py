"""bf16-mixed rounds wide products and nothing else; precisions are set by configuration, and reset."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hiphop_train import build, checkpoint, cli
from hiphop_train.accelerate import Precision, accelerate, restore, table_convolution
from hiphop_train.accelerate.hip import HIPTwin
from hiphop_train.accelerate.hip_layout import PrepareLayout
from hiphop_train.accelerate.table_convolution import TableConvolution
from hiphop_train.accelerate.tables import make_table, sums_of_products
from hiphop_train.config import load_config
from hiphop_train.errors import ConfigError
from hiphop_train.training.module import PotentialModule
from hiphop_train.training.statistics import fit_representation
from hiphop_train.types import Batch, Graph
from tests.accelerate.conftest import CPU

MODELS = sorted(file.stem for file in (Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))
HIP = [name for name in MODELS if name.startswith("hip")]
"""Models with a way of their own for large systems."""

UNCHANGED = ("ace", "ani", "bp")
"""Models whose wide products are the readout's, which stays float32."""


def make(name: str, *settings: str) -> tuple[PotentialModule, list[Batch]]:
    config = load_config("train", [f"model={name}", "optimizer.lr=3e-4", *settings])
    torch.manual_seed(0)
    potential = build.make_potential(config.model, torch.float32)
    if name == "ace":  # whose coefficients start at zero
        torch.nn.init.normal_(potential.terms[0].readout.weight)
    data = build.make_data(config.data, potential, torch.float32, 0)
    statistics = data.statistics()
    potential.set_statistics(statistics.e0, statistics.scale)
    fit_representation(potential, data)
    optimizer = build.make_part(config.optimizer, "optimizer", params=list(potential.parameters()))
    schedule = build.make_part(config.scheduler, "scheduler")
    module = PotentialModule(potential, build.make_part(config.loss, "loss"), optimizer, schedule, {})
    return module, list(data.train_dataloader())


def evaluate(module: PotentialModule, batch: Batch, precision: Precision) -> dict[str, Tensor]:
    """Energy of the network, forces, and gradient of the loss."""
    accelerate(module.potential, torch.float32, CPU, "training", "auto", precision)
    parameters = list(module.potential.parameters())
    outputs = module.potential.train()(batch.graph)
    gradients = torch.autograd.grad(module._loss(batch), parameters)
    return {
        "energy": outputs["level_energies"][:, 1:].detach(),
        "forces": outputs["forces"].detach(),
        "gradient": torch.cat([part.flatten() for part in gradients]),
    }


BOUNDS = {"tfn": 0.1, "newtonnet": 0.06}
"""Larger relative deviations: each layer of TFN subtracts a constant from numbers close to it, and NewtonNet
multiplies many."""


@pytest.mark.parametrize(
    ("model_name", "large"), [*((name, False) for name in MODELS), *((name, True) for name in HIP)]
)
def test_energies_forces_and_gradients_are_close(model_name: str, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured with random weights, relative: energies 0.3 to 0.6 %, forces 0.4 to 1.2 %, gradients 0.3 to 1.8 %."""
    if large:
        monkeypatch.setattr(table_convolution, "LARGE", 0)
    module, batches = make(model_name)
    found, expected = (evaluate(module, batches[0], precision) for precision in ("bf16-mixed", "full"))
    assert found["energy"].dtype == torch.float64
    assert found["forces"].dtype == found["gradient"].dtype == torch.float32
    for key, value in expected.items():
        deviation = float((found[key] - value).norm() / value.norm())
        assert deviation < BOUNDS.get(model_name, 0.03), key
        assert (deviation < 1e-7) == (model_name in UNCHANGED), key


def test_geometry_and_sums_over_neighbours_are_not_rounded() -> None:
    _, batches = make("hiphop")
    names = ["distance", "tensors", "species_distance", "species_tensors"]
    for prepare, n_names in ((PrepareLayout(4, 5, 20), 2), (PrepareLayout(4, 1, 2), 4)):
        plain = TableConvolution(batches[0].graph, prepare)
        with torch.autocast("cpu", torch.bfloat16):
            found = TableConvolution(batches[0].graph, prepare)
        for name in names[:n_names]:
            assert torch.equal(getattr(found, name), getattr(plain, name)), name
    left, right = torch.randn(60, 4, requires_grad=True), torch.randn(60, 8, requires_grad=True)
    table = make_table(torch.arange(60) // 6, 10, entries=12)

    def sums() -> list[Tensor]:
        made = sums_of_products(left, right, table.blocks)
        return [made, *torch.autograd.grad(made.square().sum(), [left, right])]

    expected = sums()
    with torch.autocast("cpu", torch.bfloat16):
        for value, other in zip(sums(), expected, strict=True):
            assert torch.equal(value, other)


def watch(module: torch.nn.Module, seen: list[bool]) -> None:
    """Record whether autocast is on when a module is evaluated."""
    module.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))


def test_only_representations_are_rounded_and_only_in_training(model_name: str) -> None:
    """What they return is float32; readouts, evaluation and restored potentials are unchanged."""
    module, batches = make(model_name)
    potential = module.potential.train()
    accelerate(potential, torch.float32, CPU, "training", "auto", "bf16-mixed")
    network, inside, outside = potential.terms[0], [], []
    watch(network.representation, inside)
    watch(network.readout, outside)
    levels: list[Tensor] = []
    network.representation.register_forward_hook(lambda *arguments: levels.extend(arguments[2]))
    potential(batches[0].graph)
    potential.eval()(batches[0].graph)
    assert inside == [True, False]
    assert outside == [False, False]
    assert {level.dtype for level in levels} == {torch.float32}
    copied = copy.deepcopy(potential).train()
    for some in (copied, potential.train()):
        restore(some)
        again: list[bool] = []
        watch(some.terms[0].representation, again)
        some(batches[0].graph)
        assert again == [False]


@pytest.mark.parametrize("name", ["hipnn", "hiphop"])
def test_steps_lower_the_loss(name: str) -> None:
    module, (unseen, *batches) = make(name)
    module.train()
    accelerate(module.potential, torch.float32, CPU, "training", "auto", "bf16-mixed")
    before = float(module._loss(unseen).detach())
    for batch in batches[:20]:
        module.optimizer.zero_grad()
        module._loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 10.0)
        module.optimizer.step()
    assert float(module._loss(unseen).detach()) < 0.95 * before


def test_a_training_as_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are in bfloat16; validation, evaluation and checkpoints are not, and TF32 ends with the training."""
    seen: set[tuple[bool, bool, str]] = set()
    plain = HIPTwin.forward

    def watched(twin: HIPTwin, graph: Graph) -> list[Tensor]:
        seen.add((twin.training, torch.is_autocast_enabled("cpu"), torch.get_float32_matmul_precision()))
        return plain(twin, graph)

    monkeypatch.setattr(HIPTwin, "forward", watched)
    settings = ["debug=fast", "pictures=false", "trainer.accelerator=cpu", "model=hipnn", f"run_dir={tmp_path / 'run'}"]
    assert cli.run("train", [*settings, "trainer.precision=bf16-mixed", "trainer.matmul_precision=high"]) == 0
    of_steps, of_validation, of_evaluation = (True, True, "high"), (False, False, "high"), (False, False, "highest")
    assert seen == {of_steps, of_validation, of_evaluation}
    assert torch.get_float32_matmul_precision() == "highest"
    potential = checkpoint.load(str(tmp_path / "run")).potential
    assert {parameter.dtype for parameter in potential.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["trainer.precision=16-mixed"], "trainer.precision: got '16-mixed'; must be 'full' or 'bf16-mixed'"),
        (["trainer.matmul_precision=tf32"], "got 'tf32'; must be 'highest', 'high' or 'medium'"),
        (["trainer.precision=bf16-mixed", "dtype=float64"], "contradicts dtype=float64; leave out one of them"),
    ],
)
def test_other_precisions_are_refused(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config("train", settings)
    assert words in str(refused.value)
    assert settings[0] in str(refused.value)
