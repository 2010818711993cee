"""A step on a GPU never waits for it: tensors of the meta device have no values: reading one is an error.

Synchronisation within an operation is not seen here, but by `test_no_step_waits_for_a_gpu` where there is a GPU.
"""

import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from hiphop_train import build, cli
from hiphop_train.accelerate import accelerate
from hiphop_train.config import load_config
from hiphop_train.training import callbacks
from hiphop_train.training.callbacks import Average
from hiphop_train.training.module import PotentialModule
from hiphop_train.types import Batch

CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))
MODELS: list[tuple[str, list[str]]] = [(name, []) for name in NAMES]
SETTINGS = [
    *MODELS,
    ("hiphop_flexible", ["model.l_max=5", "model.n_max=2"]),
    *(("hipnn", [f"loss={file.stem}"]) for file in sorted((CONF / "loss").glob("*.yaml"))),
    *(("hipnn", [f"optimizer={file.stem}"]) for file in sorted((CONF / "optimizer").glob("*.yaml"))),
]


class NoTransfers(TorchDispatchMode):
    """Refuse operations between the CPU's tensors and those of the meta device: a plain copy waits for a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        devices: set[str] = set()
        for part in [*args, *(kwargs or {}).values(), result]:
            for value in part if isinstance(part, (list, tuple)) else [part]:
                if isinstance(value, Tensor) and value.dim() > 0:  # single numbers are sent with a kernel's arguments
                    devices.add(value.device.type)
        assert devices != {"cpu", "meta"}, f"{func} copies between devices"
        return result


def make(name: str, settings: list[str], device: str) -> tuple[PotentialModule, Batch]:
    """Module and batch as a training has them, on a device."""
    config = load_config("train", [f"model={name}", "data.batch_size=8", *settings])
    torch.manual_seed(0)
    potential = build.make_potential(config.model, torch.float32)
    data = build.make_data(config.data, potential, torch.float32, 0)
    config.optimizer.fused = device == "cuda"
    module = PotentialModule(
        potential.to(device),
        build.make_part(config.loss, "loss"),
        build.make_part(config.optimizer, "optimizer", params=list(potential.parameters())),
        build.make_part(config.scheduler, "scheduler"),
        {},
    ).to(device)
    fast = accelerate(potential, torch.float32, torch.device(device), "training")
    data.prepare = fast.prepare
    batch = next(iter(data.train_dataloader()))
    return module, data.transfer_batch_to_device(batch, torch.device(device), 0)


def step(module: PotentialModule, batch: Batch) -> None:
    """Train and validate on a batch."""
    module.train()
    module.optimizer.zero_grad()
    module.backward(module._loss(batch))
    torch.nn.utils.clip_grad_norm_(module.parameters(), 10.0)
    module.optimizer.step()
    module.eval()
    module.validation_step(batch, 0)


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_a_step_reads_no_value_from_the_device(name: str, settings: list[str]) -> None:
    module, batch = make(name, settings, "meta")
    step(module, batch)  # what is sent once may be
    with NoTransfers():
        step(module, batch)


def test_the_check_sees_what_is_not_prepared(model_name: str) -> None:
    module, batch = make(model_name, [], "meta")
    if not batch.graph.extras:
        return
    bare = batch._replace(graph=batch.graph._replace(extras={}))
    with pytest.raises((NotImplementedError, RuntimeError), match=r"(?i)meta"):
        step(module, bare)


def test_what_is_prepared_is_what_the_model_would_make(model_name: str) -> None:
    module, batch = make(model_name, [], "cpu")
    found = module.potential(batch.graph)
    for key, value in module.potential(batch.graph._replace(extras={})).items():
        assert torch.equal(found[key], value)


def test_average_reads_no_value_and_is_torchs() -> None:
    steps = SimpleNamespace(global_step=0, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    module, _ = make("hipnn", [], "cpu")
    ours, theirs = Average(0.9), AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    ours.setup(steps, module, "fit")
    for _ in range(3):
        steps.global_step += 1
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))
        for _ in range(2):  # a batch without a step changes nothing
            ours.on_train_batch_end(steps, module, None, None, 0)
        theirs.update_parameters(module)
    assert int(ours._average_model.n_averaged) == 3
    for found, expected in zip(ours._average_model.module.parameters(), theirs.module.parameters(), strict=True):
        assert torch.equal(found, expected)

    module, _ = make("hipnn", [], "meta")
    steps.global_step, steps.strategy.root_device = 0, torch.device("meta")
    ours = Average(0.9)
    ours.setup(steps, module, "fit")
    assert all(parameter.is_meta for parameter in ours._average_model.parameters())
    with NoTransfers():
        for _ in range(2):
            steps.global_step += 1
            ours.on_train_batch_end(steps, module, None, None, 0)


ASKING = ("_local_scalar_dense", "bincount", "equal", "masked_select", "nonzero", "repeat_interleave", "_unique2")
ON_CPU = ("one_hot(", "elif bool(bad)")
"""Lines that read values on CPUs only; the second also with optimizers that are not fused."""


class Asked(TorchDispatchMode):
    """Record which lines read values of tensors while `listens`."""

    def __init__(self) -> None:
        super().__init__()
        self.listens = False
        self.steps = 0
        self.lines: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.listens and func._schema.name.removeprefix("aten::") in ASKING:
            frames = traceback.extract_stack()
            by_loader = any(frame.name == "__getitem__" and "hiphop_train/data" in frame.filename for frame in frames)
            if not by_loader and not any(word in (frame.line or "") for frame in frames for word in ON_CPU):
                self.lines.add("\n".join(f"{frame.filename}:{frame.lineno}" for frame in frames))
        return func(*args, **(kwargs or {}))


class Listen(Callback):
    """Listen from the first step of an epoch to its validation."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked

    def on_train_batch_start(self, *_: Any) -> None:
        self.asked.listens = True
        self.asked.steps += 1

    def on_validation_start(self, *_: Any) -> None:
        self.asked.listens = False


@pytest.mark.parametrize("precision", ["full", "bf16-mixed"])
def test_nothing_around_a_step_reads_values(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning, clipping, optimizer, average, logging; one loop over the default configuration's callbacks."""
    asked = Asked()
    monkeypatch.setattr(callbacks, "progress", lambda: Listen(asked))
    settings = ["model=hipnn", "trainer.max_epochs=1", "trainer.accelerator=cpu", "data.batch_size=256"]
    with asked:
        assert cli.run("train", [*settings, f"trainer.precision={precision}", f"run_dir={tmp_path / 'run'}"]) == 0
    assert asked.steps == 6
    assert asked.lines == set()


if torch.cuda.is_available():  # elsewhere it would count as skipped, which fails the suite

    @pytest.mark.filterwarnings("ignore:Synchronization debug mode")
    @pytest.mark.parametrize(("name", "settings"), SETTINGS)
    def test_no_step_waits_for_a_gpu(name: str, settings: list[str]) -> None:
        module, batch = make(name, settings, "cuda")
        step(module, batch)
        try:
            torch.cuda.set_sync_debug_mode("error")
            step(module, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
