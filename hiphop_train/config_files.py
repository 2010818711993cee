"""The YAML files of conf/: where they are, what can be chosen, and their keys with values, lines and comments.

Read as PyYAML's nodes, which know their positions. Light enough to import for ``--help``.
"""

from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import yaml

from hiphop_train.errors import ConfigError


@dataclass(frozen=True)
class Setting:
    """A key at the top of a file.

    Attributes
    ----------
    key, value : as written; the value of a section is empty
    comment : the comment lines directly above, as one
    """

    key: str
    value: str
    comment: str


def config_directory() -> Path:
    """Return the folder of configuration files: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError(f"no configuration files beside {package}: the installation is damaged; install it again")


def options(group: str) -> list[str]:
    """Return the names of a group's files: ``model``, ``data/split``."""
    return sorted(file.stem for file in (config_directory() / group).glob("*.yaml"))


def defaults(command: str) -> dict[str, str | None]:
    """Return the groups of a command's configuration, each with its default choice."""
    content = yaml.safe_load((config_directory() / f"{command}.yaml").read_text())
    chosen = [entry for entry in content["defaults"] if isinstance(entry, dict)]
    return {group: name for entry in chosen for group, name in entry.items() if not group.startswith("override ")}


def settings(command: str) -> list[Setting]:
    """Return the settings at the top of a command's configuration, those that have a comment."""
    text = (config_directory() / f"{command}.yaml").read_text()
    lines = text.splitlines()
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    found = []
    for key, value in root.value:
        first = last = key.start_mark.line
        while first > 0 and lines[first - 1].startswith("#"):
            first -= 1
        comment = " ".join(line.removeprefix("#").strip() for line in lines[first:last])
        written = "" if isinstance(value, yaml.MappingNode) else text[value.start_mark.index : value.end_mark.index]
        if comment and key.value != "defaults":
            found.append(Setting(key.value, written, comment))
    return found


def line_of(file: Path, path: str) -> int | None:
    """Return the line that sets a dotted path in a file, counted from 1; None where the file does not set it."""
    node = yaml.compose(file.read_text())
    line = None
    for name in path.split("."):
        if not isinstance(node, yaml.MappingNode):
            return None
        found = next((pair for pair in node.value if pair[0].value == name), None)
        if found is None:
            return None
        key, node = found
        line = key.start_mark.line + 1
    return line


def experiment_sets(name: object, group: str) -> bool:
    """Whether an experiment, or one that it builds on, chooses or changes a section."""
    file = config_directory() / "experiment" / f"{name}.yaml"
    if not file.is_file():
        return False
    content = yaml.safe_load(file.read_text()) or {}
    chosen = content.get("defaults", [])
    parents = [entry for entry in chosen if isinstance(entry, str) and entry != "_self_"]
    own = group in content or any(isinstance(entry, dict) and f"override /{group}" in entry for entry in chosen)
    return own or any(experiment_sets(parent, group) for parent in parents)


def is_global(file: Path) -> bool:
    """Whether a file's keys are at the top of the configuration, according to Hydra's package directive."""
    header = takewhile(lambda line: line.startswith("#"), file.read_text().splitlines())
    return any("@package _global_" in line for line in header)
