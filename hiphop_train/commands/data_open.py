"""From a file on the command line to structures: which configuration reads it, and its reader."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf, open_dict

from hiphop_train import build
from hiphop_train.config import load_config, quoted
from hiphop_train.config_files import config_directory
from hiphop_train.data.checks.scan import Source
from hiphop_train.data.formats.recognise import recognise
from hiphop_train.errors import ConfigError, DataError
from hiphop_train.files import absence

SAME_LEVEL = "wB97X/6-31G(d)"
OF_THAT_LEVEL = ("ani1", "ani1x", "ani2x", "comp6", "comp6v2", "transition1x", "tiny")
"""Data sets whose energies are at wB97X/6-31G(d)."""


@dataclass(frozen=True)
class Opened:
    """A file and what reads it.

    Attributes
    ----------
    choice : of conf/data
    why : on what evidence
    section : resolved data section
    source : gives the structures
    theory : level of theory that the choice stands for; empty where it stands for none
    """

    choice: str
    why: str
    section: dict[str, Any]
    source: Source
    theory: str

    def declared(self) -> dict[str, Any]:
        """Units and sign that the configuration declares."""
        keys = ("energy_unit", "length_unit", "force_sign")
        return {key: self.section["reader"][key] for key in keys if key in self.section["reader"]}


def open_data(file: Path, overrides: list[str], all_levels: bool = False) -> Opened:
    """Find the configuration that reads a file, and point it at the file.

    Parameters
    ----------
    file : data file, or folder of them
    overrides : ``data=NAME`` and ``data.KEY=VALUE``; without ``data=NAME`` the file is looked into
    all_levels : whether all levels of theory that were recognised are read, or the first of them
    """
    unknown = [override for override in overrides if not override.lstrip("+~").startswith(("data=", "data.", "data/"))]
    if unknown:
        raise ConfigError(f"'{unknown[0]}': settings are data=NAME and data.KEY=VALUE")
    given = [override.removeprefix("data=") for override in overrides if override.startswith("data=")]
    others = [override for override in overrides if not override.startswith("data=")]
    settings: dict[str, Any] = {}
    if given:
        choice, why = given[-1], "as given"
        if not file.exists():
            raise DataError(f"{file} {absence(file)}; published sets are fetched by: hiphop-data download NAME")
    else:
        found = recognise(file)
        choice, why, settings = found.choice, found.why, dict(found.settings)
    levels = settings.pop("level", None)
    if levels:
        settings["level"] = levels if all_levels else levels[0]
    placed = _place(file, choice)
    first = [quoted(f"data.{key}", str(value)) for key, value in placed.items() if key in ("path", "root")]
    first += [_override(f"data.{key}", value) for key, value in settings.items()]
    section = load_config("data", [f"data={choice}", *first, *others]).data
    for key, value in placed.items():
        chosen = any(override.lstrip("+~").startswith(f"data.{key}=") for override in others)
        if key not in ("path", "root") and not chosen:
            with open_dict(section):
                OmegaConf.update(section, key, value, merge=False)
    plain = OmegaConf.to_container(section, resolve=True)
    assert isinstance(plain, dict)
    source = Source(build.make_reader(section))
    theory = SAME_LEVEL if choice in OF_THAT_LEVEL and plain.get("level", "dz") in ("dz", ["dz"]) else ""
    return Opened(choice, why, {str(key): value for key, value in plain.items()}, source, theory)


def _place(file: Path, choice: str) -> dict[str, Any]:
    """Return the settings that point a configuration at a file or folder, by the keys that it has."""
    try:
        section: Any = yaml.safe_load((config_directory() / "data" / f"{choice}.yaml").read_text())
    except OSError:
        return {}  # composing says which choices there are
    reader = section.get("reader", {})
    if "path" in section:
        return {"path": file}
    if file.is_dir():
        names = {str(name) for name in reader.get("names", [])}
        there = sorted(path.name for path in file.rglob("*.h5")) + sorted(path.name for path in file.rglob("*.hdf5"))
        wanted = [name for name in there if not names or name in names] or there
        return {"root": file, "reader.names": wanted} if "names" in reader else {"root": file}
    if "names" in reader:
        return {"root": file.parent, "reader.names": [file.name]}
    if "subsets" in reader:
        subsets: dict[str, list[str]] = reader["subsets"]
        name = next((subset for subset, files in subsets.items() if file.name in files), file.stem)
        return {"root": file.parent, "reader.subsets": {name: [file.name]}}
    return {"root": file.parent}


def _override(key: str, value: Any) -> str:
    if isinstance(value, str):
        return quoted(key, value)
    return f"{key}=[{','.join(value)}]" if isinstance(value, list) else f"{key}={str(value).lower()}"
