"""From given weights to the start of a training: more elements, E0, old data."""

from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from hiphop_train import build, checkpoint, files, stored
from hiphop_train.commands import run_directory
from hiphop_train.commands.progress import progress
from hiphop_train.data.module import DataModule
from hiphop_train.data.replay import LARGEST_POOL, LARGEST_VALIDATION, OldData, spaced
from hiphop_train.errors import CheckpointError, ConfigError, DataError, HipHopError
from hiphop_train.nn.standardisation import Standardisation
from hiphop_train.potential import Network, Potential
from hiphop_train.training.finetuning import Finetuning, OldKnowledge
from hiphop_train.training.metrics import Errors
from hiphop_train.training.more_elements import grow
from hiphop_train.training.statistics import fit_representation

FITTED_ON = 5_000
"""Training structures to which E0 are fitted."""


def begin(
    config: DictConfig, finetuning: Finetuning, potential: Potential, data: DataModule
) -> tuple[list[str], list[str]]:
    """Give a potential the weights of init_weights, and what its new data need.

    Parameters
    ----------
    config : of the training
    finetuning : built of its section
    potential : with random weights, of the same model, which may have further elements
    data : of the training; gets its old data

    Returns
    -------
    theories : names of the levels of theory, in the order of E0
    remarks : what there is to say of E0
    """
    given = checkpoint.load(config.init_weights, stored.targets(run_directory.resolved(config)["model"]))
    theories: list[str] = given.record["levels"]
    n_before = len(given.potential.elements)
    new_elements = potential.elements[n_before:]
    if new_elements:
        grow(potential, given.potential)
        _standardise_new(potential, given.potential, data)
    else:
        potential.set_statistics(given.potential.e0.numpy(), 1.0)  # of as many levels of theory
        potential.load_state_dict(given.potential.state_dict())
    if finetuning.e0 == "new_level":
        theories = [_new_level(config, data, theories), *theories]
        potential.e0 = torch.cat([potential.e0[:1], potential.e0])
        data.use_theories(theories, all_as=0)
    else:
        data.use_theories(theories)
    data.old = _old_data(config, finetuning, given, potential, data, theories)
    if finetuning.e0 == "keep" and not new_elements:
        return theories, []
    return theories, fit_e0(potential, data, potential.elements if finetuning.e0 != "keep" else new_elements)


def _standardise_new(potential: Potential, trained: Potential, data: DataModule) -> None:
    """Fit the standardisation of what new elements bring; that of the old ones is part of their weights."""
    network, old = potential.terms[0], trained.terms[0]
    assert isinstance(network, Network)
    assert isinstance(old, Network)
    if not len(network.standardisations):
        return
    kept = potential.state_dict()
    fit_representation(potential, data)
    n_before = len(trained.elements)
    standardisation = network.standardisations[0]
    assert isinstance(standardisation, Standardisation)
    for name, values in (("centre", standardisation.centre), ("factor", standardisation.factor)):
        values[:n_before] = kept[f"terms.0.standardisations.0.{name}"][:n_before]


def _new_level(config: DictConfig, data: DataModule, theories: list[str]) -> str:
    """Return the name of the level of theory of the data, which the model does not have yet."""
    found = data.structures.theory_names
    name: str = config.data.get("level_of_theory") or (found[0] if len(found) == 1 else "")
    if not name or name in theories:
        raise ConfigError(
            f"finetune.e0=new_level: the weights have the levels of theory {', '.join(theories)}, and the data "
            f"{', '.join(found)}; name the new one: data.level_of_theory=NAME"
        )
    return name


@torch.no_grad()
def fit_e0(potential: Potential, data: DataModule, elements: list[str]) -> list[str]:
    """Correct E0 of some elements so that the energies of the training structures are met on average.

    By least squares of the potential's errors on composition, for each level of theory that the structures have.

    Parameters
    ----------
    potential : with weights; on the CPU
    data : its training structures, evenly chosen ones where there are many
    elements : whose E0 change

    Returns
    -------
    remarks : what the compositions leave open
    """
    columns = [potential.elements.index(symbol) for symbol in elements]
    counts, errors, theories = [], [], []
    n = min(FITTED_ON, len(data.splits["train"]))
    with progress("E0 of the new data", n) as advance:
        for batch in data.sample_dataloader("train", FITTED_ON):
            graph = batch.graph
            known = batch.labels["energy_weight"] > 0
            error = batch.labels["energy"] - potential(graph, forces=False)["energy"]
            cells = graph.system * len(potential.elements) + graph.species
            count = torch.bincount(cells, minlength=graph.n_systems * len(potential.elements))
            counts.append(count.reshape(graph.n_systems, -1)[known].double().numpy())
            errors.append(error[known].numpy())
            theories.append(graph.theory[known].numpy())
            advance(graph.n_systems)
    all_counts, all_errors, levels = np.concatenate(counts), np.concatenate(errors), np.concatenate(theories)
    if not len(all_errors):
        raise DataError(
            f"{data.structures.source}: no training structure has an energy, so E0 cannot be fitted; give "
            "finetune.e0=keep, and no new elements"
        )
    remarks = []
    for level in np.unique(levels).tolist():
        composition = all_counts[levels == level][:, columns]
        shift, _, rank, _ = np.linalg.lstsq(composition, all_errors[levels == level], rcond=1e-10)
        potential.e0[level, columns] += torch.from_numpy(shift)
        present = int(composition.any(axis=0).sum())
        if rank < present:
            remarks.append(f"the training compositions determine {rank} of {present} E0 only; they change the least")
    return remarks


def _old_data(
    config: DictConfig,
    finetuning: Finetuning,
    given: checkpoint.Loaded,
    potential: Potential,
    data: DataModule,
    theories: list[str],
) -> OldData | None:
    """Return the data on which the weights were trained, where they are wanted and found."""
    if finetuning.old_data == "off":
        return None
    asked = finetuning.old_data != "auto" or finetuning.replay > 0
    try:
        source = given if finetuning.old_data == "auto" else checkpoint.load(finetuning.old_data)
        record, file = source.record, source.file
        if record["data_fingerprint"] == data.fingerprint():
            if asked:
                raise DataError(f"those of {file} are the training's own, which it has anyway")
            return None  # the training goes on with what it had
        if "data" not in record["config"]:
            raise CheckpointError(f"{file} holds no data ({record.get('origin', 'weights alone')})")
        stored.check(record["config"]["data"], "data", str(file))
        section = OmegaConf.create(record["config"]["data"])
        dtype, seed = build.DTYPES[config.dtype], int(record["config"].get("seed", 0))
        old = build.make_data(section, potential, dtype, seed)
        old.progress = progress
        if old.fingerprint() != record["data_fingerprint"]:
            raise DataError(f"the data at {old.structures.source} are not those that {file} was trained on")
        old.use_theories(theories)
    except HipHopError as error:
        if asked:
            raise ConfigError(
                f"the old data cannot be had: {str(error).splitlines()[0]}; restore them, name a run with them by "
                "finetune.old_data=RUN, or give finetune.old_data=off finetune.replay=0"
            ) from error
        files.warn(
            f"whether old knowledge is lost is not watched: {str(error).splitlines()[0]} "
            "(finetune.old_data=RUN names a run with other old data, finetune.old_data=off says nothing)"
        )
        return None
    structures, splits = old.structures, old.splits
    pool = spaced(splits["train"], LARGEST_POOL) if finetuning.replay else splits["train"][:0]
    watched = spaced(splits["val"], LARGEST_VALIDATION)
    return OldData(str(old.name), structures.take(watched), structures.take(pool), finetuning.replay)


@torch.no_grad()
def watch(finetuning: Finetuning, potential: Potential, data: DataModule) -> list[OldKnowledge]:
    """Measure the errors of the old data before the training, and return the callback that compares with them."""
    if data.old is None or not len(data.old.validation):
        return []
    errors = Errors()
    with progress("errors on old data", len(data.old.validation)) as advance, torch.enable_grad():
        for batch in data.old_dataloader():
            outputs = potential.eval()(batch.graph)
            errors.update({key: value.detach() for key, value in outputs.items()}, batch.labels)
            advance(batch.graph.n_systems)
    potential.train()
    found = {key: float(value) for key, value in errors.compute().items()}
    before = {key: found[f"{key}_mae"] for key in ("energy", "forces") if f"{key}_mae" in found}
    if finetuning.e0 == "fit" and "forces" in before:
        del before["energy"]  # E0 are no longer those of the old data
    return [OldKnowledge(before, finetuning.forgetting_limit, finetuning.on_forgetting)]


def describe(potential: Potential, data: DataModule, rates: list[dict[str, Any]], remarks: list[str]) -> None:
    """Print what is trained at which rate, and what is done about old data."""
    for remark in remarks:
        print(f"           {remark}")
    parameters = list(potential.parameters())
    frozen = sum(parameter.numel() for parameter in parameters if not parameter.requires_grad)
    if frozen:
        print(f"frozen     {frozen:,} of {sum(parameter.numel() for parameter in parameters):,} parameters")
    if len(rates) > 1:
        of = [f"{group['lr']:.2g} ({sum(p.numel() for p in group['params']):,})" for group in rates]
        print(f"rates      {', '.join(of)}: rate (parameters)")
    if data.old is not None:
        replayed = data.old.n_replayed(len(data.splits["train"]))
        more = f"; {replayed:,} of {len(data.old.pool):,} replayed in each epoch" if replayed else ""
        print(f"old data   {data.old.name}: {len(data.old.validation):,} validation structures watched{more}")
