"""Losses against NumPy, in their stated units, and the same over ranks; schedules, as far as they need no run."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hiphop_train.training import losses
from hiphop_train.training.losses import ErrorLoss, Loss
from hiphop_train.training.schedules import (
    MONITOR,
    CosineSchedule,
    ExponentialSchedule,
    PlateauSchedule,
    RaiseBatchSize,
)
from hiphop_train.types import Outputs

EV_PER_KCAL_PER_MOL = 4184 / (6.02214076e23 * 1.602176634e-19)  # both exact since 2019
SIZES = [3, 1, 5, 2]


def numpy_measure(name: str, error: np.ndarray, weight: np.ndarray, delta: float) -> float:
    size = np.abs(error)
    huber = np.where(size < delta, error**2 / (2 * delta), size - delta / 2)
    mean = {key: (weight * of).sum() / weight.sum() for key, of in [("mae", size), ("mse", size**2), ("huber", huber)]}
    return float(np.sqrt(mean["mse"]) if name == "rmse" else mean[name])


def errors_and_weights() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.normal(size=40)), torch.from_numpy(rng.choice([0.0, 0.5, 1.0, 2.0], 40))


@pytest.mark.parametrize("name", ["mae", "rmse", "mse", "huber"])
@pytest.mark.parametrize("factor", [1.0, 2.5])
def test_each_measure_equals_numpy(name: str, factor: float) -> None:
    error, weight = errors_and_weights()
    found = ErrorLoss(**{name: factor}, huber_delta=0.7)(error, weight)
    expected = factor * numpy_measure(name, error.numpy(), weight.numpy(), 0.7)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_measures_add_up() -> None:
    error, weight = errors_and_weights()
    factors = {"mae": 0.3, "rmse": 1.2, "mse": 0.1, "huber": 2.0}
    together = ErrorLoss(**factors, huber_delta=0.4)(error, weight)
    expected = sum(f * numpy_measure(name, error.numpy(), weight.numpy(), 0.4) for name, f in factors.items())
    assert float(together) == pytest.approx(expected, rel=1e-12)


def test_huber_is_smooth_where_it_turns_linear() -> None:
    loss = ErrorLoss(huber=1.0, huber_delta=0.5)
    below, above = (loss(torch.tensor([x], dtype=torch.float64), torch.ones(1)) for x in (0.5 - 1e-9, 0.5 + 1e-9))
    assert float(above - below) == pytest.approx(2e-9, rel=1e-5)


@pytest.mark.parametrize("name", ["mae", "rmse", "mse", "huber"])
def test_gradient_is_finite_and_zero_at_zero_error(name: str) -> None:
    error = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    loss = ErrorLoss(**{name: 1.0})(error, torch.ones(5, dtype=torch.float64))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=2e-8)
    assert torch.equal(error.grad, torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("name", ["mae", "rmse", "mse", "huber"])
def test_nothing_is_left_when_all_weights_are_zero(name: str) -> None:
    error = torch.ones(5, dtype=torch.float64, requires_grad=True)
    loss = ErrorLoss(**{name: 1.0})(error, torch.zeros(5, dtype=torch.float64))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=2e-8)
    assert torch.equal(error.grad, torch.zeros(5, dtype=torch.float64))


def make_batch(seed: int = 0, sizes: list[int] = SIZES) -> tuple[Outputs, Outputs, Tensor]:
    """Outputs, labels and numbers of atoms of a batch; all weights one."""
    generator = torch.Generator().manual_seed(seed)
    n, n_atoms = len(sizes), sum(sizes)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    outputs = {"energy": normal(n), "forces": normal(n_atoms, 3), "hierarchicality": normal(n).square()}
    labels = {
        "energy": normal(n),
        "forces": normal(n_atoms, 3),
        "energy_weight": torch.ones(n, dtype=torch.float64),
        "forces_weight": torch.ones(n_atoms, dtype=torch.float64),
    }
    return outputs, labels, torch.tensor(sizes, dtype=torch.float64)


def full_loss() -> Loss:
    return Loss(
        energy=ErrorLoss(mae=1.0, rmse=0.5, huber=0.3),
        forces=ErrorLoss(mae=0.2, rmse=1.0, mse=0.1),
        hierarchicality=0.7,
    )


def test_batch_loss_is_in_kcal_per_mol() -> None:
    """Energies per structure, every force component alike, the regulariser by atoms."""
    outputs, labels, sizes = make_batch()
    energy_error = (outputs["energy"] - labels["energy"]).numpy() / EV_PER_KCAL_PER_MOL
    forces_error = (outputs["forces"] - labels["forces"]).numpy().ravel() / EV_PER_KCAL_PER_MOL
    expected = sum(
        factor * numpy_measure(name, error, np.ones(len(error)), 1.0)
        for error, factors in [
            (energy_error, {"mae": 1.0, "rmse": 0.5, "huber": 0.3}),
            (forces_error, {"mae": 0.2, "rmse": 1.0, "mse": 0.1}),
        ]
        for name, factor in factors.items()
    )
    expected += 0.7 * (outputs["hierarchicality"].numpy() * np.array(SIZES)).sum() / sum(SIZES)
    assert float(full_loss()(outputs, labels, sizes)) == pytest.approx(expected, rel=1e-8)


def test_an_error_of_one_kcal_per_mol_costs_one() -> None:
    outputs, labels, sizes = make_batch()
    labels["energy"] = outputs["energy"] + EV_PER_KCAL_PER_MOL
    labels["forces"] = outputs["forces"] - EV_PER_KCAL_PER_MOL
    for measure in ("mae", "rmse", "mse"):
        energy = Loss(ErrorLoss(**{measure: 1.0}), ErrorLoss())(outputs, labels, sizes)
        forces = Loss(ErrorLoss(), ErrorLoss(**{measure: 1.0}))(outputs, labels, sizes)
        assert float(energy) == pytest.approx(1.0, rel=1e-8)
        assert float(forces) == pytest.approx(1.0, rel=1e-8)


@pytest.mark.parametrize(("key", "unit"), [("stress", 1 / 160.2176634), ("dipole", 1 / 4.80320471)])
def test_further_targets_are_in_their_reported_units(key: str, unit: float) -> None:
    """GPa and debye; of a stress the six independent components count, of structures without label none."""
    outputs, labels, sizes = make_batch()
    n_components, shape = {"stress": (6, (3, 3)), "dipole": (3, (3,))}[key]
    error = torch.randn(len(SIZES), *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    if key == "stress":
        error = error + error.transpose(1, 2)
    weight = torch.tensor([1.0, 0.0, 1.0, 0.5], dtype=torch.float64)
    outputs[key] = error * unit
    labels |= {key: torch.zeros_like(error), f"{key}_weight": weight}
    rows, columns = np.triu_indices(3)
    independent = error.numpy()[:, rows, columns] if key == "stress" else error.numpy()
    assert independent.shape == (len(SIZES), n_components)
    for measure in ("mae", "rmse", "mse"):
        expected = numpy_measure(measure, independent.ravel(), weight.numpy().repeat(n_components), 1.0)
        parts: dict[str, Any] = {key: ErrorLoss(**{measure: 2.0})}
        found = Loss(ErrorLoss(), ErrorLoss(), **parts)(outputs, labels, sizes)
        assert float(found) == pytest.approx(2 * expected, rel=1e-8)


def test_targets_without_weight_are_not_needed() -> None:
    """Neither their labels nor their outputs need exist."""
    outputs, labels, sizes = make_batch()
    loss = Loss(ErrorLoss(mae=1.0), ErrorLoss(mae=0.5), stress=ErrorLoss(huber_delta=2.0), dipole=ErrorLoss())
    assert list(loss.parts) == ["energy", "forces"]
    plain = Loss(ErrorLoss(mae=1.0), ErrorLoss(mae=0.5))
    assert torch.equal(loss(outputs, labels, sizes), plain(outputs, labels, sizes))


def test_energies_of_large_structures_can_weigh_less() -> None:
    """ANI's loss: squared errors divided by the root of the number of atoms."""
    outputs, labels, sizes = make_batch()
    error = (outputs["energy"] - labels["energy"]).numpy() / EV_PER_KCAL_PER_MOL
    expected = numpy_measure("mse", error, 1 / np.sqrt(SIZES), 1.0)
    found = Loss(ErrorLoss(mse=1.0), ErrorLoss(), size_exponent=0.5)(outputs, labels, sizes)
    assert float(found) == pytest.approx(expected, rel=1e-8)


def test_structures_of_weight_zero_change_nothing() -> None:
    """Neither the loss nor the gradient, whatever their labels and outputs are."""
    outputs, labels, sizes = make_batch()
    filler, filler_labels, filler_sizes = make_batch(1, [4, 2])
    filler_labels |= {key: torch.zeros_like(filler_labels[key]) for key in ("energy_weight", "forces_weight")}
    padded = {key: torch.cat([value, 100 * filler[key]]).requires_grad_(True) for key, value in outputs.items()}
    padded_labels = {key: torch.cat([value, filler_labels[key]]) for key, value in labels.items()}
    plain = {key: value.clone().requires_grad_(True) for key, value in outputs.items()}

    expected = full_loss()(plain, labels, sizes)
    found = full_loss()(padded, padded_labels, torch.cat([sizes, 0 * filler_sizes]))
    expected.backward()
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    for key, value in plain.items():
        torch.testing.assert_close(padded[key].grad[: len(value)], value.grad, rtol=1e-13, atol=0)
        assert not padded[key].grad[len(value) :].any()


@pytest.mark.parametrize("missing", ["energy", "forces"])
def test_missing_labels_leave_the_other_kind_alone(missing: str) -> None:
    outputs, labels, sizes = make_batch()
    labels[f"{missing}_weight"] = torch.zeros_like(labels[f"{missing}_weight"])
    other = {"energy": "forces", "forces": "energy"}[missing]
    parts = {"energy": ErrorLoss(), "forces": ErrorLoss(), other: ErrorLoss(mae=1.0)}
    found = Loss(ErrorLoss(mae=1.0), ErrorLoss(mae=1.0))(outputs, labels, sizes)
    assert float(found) == pytest.approx(float(Loss(**parts)(outputs, labels, sizes)), rel=1e-14)
    assert float(found) > 0


def test_single_precision_forces_give_the_same_loss() -> None:
    outputs, labels, sizes = make_batch()
    single = {**outputs, "forces": outputs["forces"].float()}
    assert float(full_loss()(single, labels, sizes)) == pytest.approx(
        float(full_loss()(outputs, labels, sizes)), rel=1e-6
    )


def test_steps_over_ranks_are_those_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks with unequal shares: each has the whole loss, and their gradients add up to the whole gradient.

    Collectives are replayed: a first run records what each rank contributes, a second adds the others' part.
    """
    outputs, labels, sizes = make_batch()
    labels["energy_weight"] = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    atoms = [range(3), range(3, 4), range(4, 9), range(9, 11)]
    shares = [[0, 1, 3], [2]]
    whole = {key: value.clone().requires_grad_(True) for key, value in outputs.items()}
    expected = full_loss()(whole, labels, sizes)
    expected.backward()

    noted: list[list[Tensor]] = [[], []]
    monkeypatch.setattr(losses.distributed, "is_initialized", lambda: True)

    def run(rank: int, all_reduce: Any) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        monkeypatch.setattr(losses.distributed, "all_reduce", all_reduce)
        systems = torch.tensor(shares[rank])
        members = torch.tensor([atom for k in shares[rank] for atom in atoms[k]])

        def cut(values: Outputs) -> Outputs:
            return {key: value[members if "forces" in key else systems].clone() for key, value in values.items()}

        mine = {key: value.requires_grad_(True) for key, value in cut(outputs).items()}
        return full_loss()(mine, cut(labels), sizes[systems]), mine, members

    for rank in (0, 1):
        run(rank, lambda local, rank=rank: noted[rank].append(local.clone()))
    assert len(noted[0]) == len(noted[1]) > 0
    for rank in (0, 1):
        others = iter(noted[1 - rank])
        loss, mine, members = run(rank, lambda local, others=others: local.add_(next(others)))
        loss.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
        systems = torch.tensor(shares[rank])
        for key, value in mine.items():
            part = whole[key].grad[members if key == "forces" else systems]
            torch.testing.assert_close(value.grad, part, rtol=1e-12, atol=1e-16)


def optimizer_at(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def test_cosine_rises_linearly_and_falls_to_its_end() -> None:
    optimizer = optimizer_at(2.0)
    (entry,) = CosineSchedule(warmup_fraction=0.1, final_factor=0.01).schedulers(optimizer, n_steps=100)
    assert entry["interval"] == "step"
    rates = []
    for _ in range(110):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        entry["scheduler"].step()
    np.testing.assert_allclose(rates[:10], 2.0 * np.arange(1, 11) / 11, rtol=1e-12)
    assert max(rates) == rates[10] == 2.0
    middle = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 45 / 90))
    assert rates[55] == pytest.approx(2.0 * middle, rel=1e-12)
    assert (np.diff(rates[10:101]) < 0).all()
    np.testing.assert_allclose(rates[100:], 0.02, rtol=1e-12)


@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_cosine_of_a_very_short_training(n_steps: int) -> None:
    optimizer = optimizer_at(1.0)
    (entry,) = CosineSchedule(warmup_fraction=0.5, final_factor=0.1).schedulers(optimizer, n_steps=n_steps)
    for _ in range(n_steps + 1):
        assert 0 < optimizer.param_groups[0]["lr"] <= 1.0
        optimizer.step()
        entry["scheduler"].step()


def test_plateau_falls_after_its_patience_and_not_below_its_floor() -> None:
    optimizer = optimizer_at(1.0)
    schedule = PlateauSchedule(factor=0.5, patience=2, warmup_steps=0, min_rate=0.2)
    (entry,) = schedule.schedulers(optimizer, n_steps=100)
    assert (entry["interval"], entry["monitor"]) == ("epoch", MONITOR)
    rates = []
    for loss in [3.0, 2.0, 2.0, 2.0, 2.0, *[2.0] * 12]:
        entry["scheduler"].step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[:5] == [1.0, 1.0, 1.0, 1.0, 0.5]
    assert rates[-1] == 0.2


def test_plateau_rises_first() -> None:
    optimizer = optimizer_at(1.0)
    schedule = PlateauSchedule(factor=0.5, patience=2, warmup_steps=4, min_rate=0.0)
    rise = next(entry for entry in schedule.schedulers(optimizer, n_steps=100) if entry["interval"] == "step")
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rise["scheduler"].step()
    np.testing.assert_allclose(rates, [0.2, 0.4, 0.6, 0.8, 1.0, 1.0], rtol=1e-12)


def test_plateau_ends_the_training_below_its_stop_rate_but_not_while_it_rises() -> None:
    schedule = PlateauSchedule(factor=0.5, patience=0, warmup_steps=4, min_rate=0.0, stop_rate=0.1)
    (stop,) = schedule.callbacks()
    optimizer = optimizer_at(1.0)
    trainer: Any = SimpleNamespace(optimizers=[optimizer], should_stop=False)
    stopped = []
    for rate in [0.05, 0.5, 1.0, 0.5, 0.1, 0.05]:
        optimizer.param_groups[0]["lr"] = rate
        stop.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
        stopped.append(trainer.should_stop)
    assert stopped == [False] * 5 + [True]
    again = schedule.callbacks()[0]
    again.load_state_dict(stop.state_dict())
    trainer.should_stop = False
    again.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert trainer.should_stop
    assert PlateauSchedule(factor=0.5, patience=0, warmup_steps=4, min_rate=0.0).callbacks() == []


def test_exponential_schedule() -> None:
    optimizer = optimizer_at(2.0)
    (entry,) = ExponentialSchedule(factor=0.25, n_steps=4).schedulers(optimizer, n_steps=100)
    rates = []
    for _ in range(9):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        entry["scheduler"].step()
    np.testing.assert_allclose(rates[::4], [2.0, 0.5, 0.125], rtol=1e-12)
    np.testing.assert_allclose(rates[2], 1.0, rtol=1e-12)


def stage(batch_size: int) -> SimpleNamespace:
    """The parts of a trainer that the batch-size raiser uses."""
    return SimpleNamespace(
        sanity_checking=False,
        callback_metrics={},
        datamodule=SimpleNamespace(batch_size=batch_size),
        optimizers=[optimizer_at(1.0)],
    )


def validate(raiser: Any, trainer: SimpleNamespace, epoch_losses: list[float]) -> list[tuple[int, float]]:
    course = []
    for loss in epoch_losses:
        trainer.callback_metrics[MONITOR] = torch.tensor(loss)
        raiser.on_validation_end(trainer, None)
        course.append((trainer.datamodule.batch_size, trainer.optimizers[0].param_groups[0]["lr"]))
    return course


def test_batch_size_rises_on_a_plateau_then_the_rate_falls() -> None:
    schedule = RaiseBatchSize(factor=0.5, patience=1, max_batch_size=30)
    assert schedule.schedulers(optimizer_at(1.0), 10) == []
    (raiser,) = schedule.callbacks()
    trainer = stage(8)
    raiser.on_fit_start(trainer, None)
    assert trainer.datamodule.batch_size == 8
    trainer.sanity_checking = True
    validate(raiser, trainer, [0.1])  # must not count as the best
    trainer.sanity_checking = False
    course = validate(raiser, trainer, [5.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 3.0, 3.0, 3.0])
    sizes, rates = zip(*course, strict=True)
    assert sizes == (8, 8, 8, 16, 16, 30, 30, 30, 30, 30, 30)
    assert rates == (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25)


@pytest.mark.parametrize("epoch", range(1, 9))
def test_batch_size_raiser_resumes_after_a_stop(epoch: int) -> None:
    """Stopped after any epoch, saved and resumed, it does what it would have done."""
    epoch_losses = [5.0, 4.0, 4.5, 4.0, 4.0, 4.0, 3.0, 3.5, 3.5, 3.5]
    schedule = RaiseBatchSize(factor=0.5, patience=1, max_batch_size=30)
    expected = validate(schedule.callbacks()[0], stage(8), epoch_losses)
    assert len(set(expected)) > 2

    first, second, before, after = *(schedule.callbacks()[0] for _ in range(2)), stage(8), stage(8)
    course = validate(first, before, epoch_losses[:epoch])
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    assert all(type(value) in (int, float) for value in first.state_dict().values())  # plain data only
    after.optimizers = before.optimizers  # Lightning restores the optimizer
    second.on_fit_start(after, None)
    assert course + validate(second, after, epoch_losses[epoch:]) == expected
