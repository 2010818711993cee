"""The registry fits the configurations, and the command fetches what it lists."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml

from hiphop_train.data.download.registry import REGISTRY, checksum_of, published, registry
from hiphop_train.errors import DataError
from tests.data.download.server import CONTENT, QUICK, SHA256, Site, tar


def test_checksum_of_git(tmp_path: Path) -> None:
    """Git itself says 3b18e512dba79e4c8300dd08aeb37f8e728b8dad of a file with the line `hello world`."""
    (tmp_path / "file").write_text("hello world\n")
    assert checksum_of(tmp_path / "file", "git") == "git:3b18e512dba79e4c8300dd08aeb37f8e728b8dad"


def test_registry_is_well_formed() -> None:
    sets = registry()
    assert {"ani1", "ani1x", "ani2x", "comp6", "comp6v2", "spice", "transition1x", "qm9", "rmd17"} <= set(sets)
    files = [remote for entry in sets.values() for remote in entry.files]
    assert len({remote.url for remote in files}) == len(files)
    lengths = {"md5": 32, "sha256": 64, "git": 40}
    for remote_ in files:
        for checksum in [remote_.checksum, *remote_.inside.values()]:
            if checksum is not None:
                kind, _, digits = checksum.partition(":")
                assert len(digits) == lengths[kind]
                int(digits, 16)
        for name in (remote_.name, *remote_.unpack.values()):
            assert not Path(name).is_absolute()
            assert ".." not in Path(name).parts


def test_checksum_of_the_registry_is_that_of_the_real_file(shared: Path) -> None:
    (s66x8,) = [file for file in published("comp6").files if file.name.startswith("s66x8")]
    path = shared / "data" / "comp6" / "s66x8_wb97x6-31gd.h5"
    assert checksum_of(path, "git") == s66x8.checksum
    assert path.stat().st_size == s66x8.size


def test_unknown_set() -> None:
    with pytest.raises(DataError, match=r"(?s)'ani3x' is not a data set.*did you mean 'ani.x'.*transition1x"):
        published("ani3x", REGISTRY)


def test_files_come_to_where_their_configurations_look() -> None:
    """Names and folders of the registry are those of conf/data, for every set that has both."""
    from hiphop_train.config import config_directory, load_config

    compared = []
    for name, entry in registry().items():
        file = config_directory() / "data" / f"{name}.yaml"
        if not file.is_file() or "path: ???" in file.read_text():
            continue
        section = load_config("data", [f"data={name}"]).data
        destinations = [
            pair for remote_ in entry.files for pair in (remote_.unpack or {remote_.name: remote_.name}).items()
        ]
        paths = [Path(entry.folder, to, Path(pattern).name if to.endswith("/") else "") for pattern, to in destinations]
        assert Path(section.root) == Path(entry.folder), name
        if "path" in section:
            assert Path(section.path) in paths, name
        reader = section.reader
        wanted = list(reader.get("names", []))
        if name == "comp6":
            wanted = [one for files in reader.subsets.values() for one in files]
        for one in wanted:
            assert any(fnmatchcase(one, path.name) for path in paths), (name, one)
        compared.append(name)
    assert {"ani1x", "comp6"} <= set(compared)


def test_the_command_fetches_what_is_missing(
    serve: Callable[..., Site], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hiphop_train.commands.data_download import download

    one, two = serve(), serve(content=tar({"in/big.h5": CONTENT}))
    files = [
        {"url": one.url, "name": "one.h5", "size": len(CONTENT), "checksum": SHA256},
        {"url": two.url, "name": "two.tar.gz", "unpack": {"in/big.h5": "big.h5"}},
    ]
    listed = tmp_path / "listed.yaml"
    listed.write_text(yaml.safe_dump({"both": {"what": "two files", "folder": "data", "files": files}}))
    paths = [tmp_path / "root" / name for name in ("one.h5", "big.h5")]
    assert download("both", tmp_path / "root", listed, QUICK) == paths
    out = capsys.readouterr().out
    assert f"{paths[0]}  3,000,000 bytes  fetched\n" in out
    assert f"{paths[1]}  3,000,000 bytes  fetched (no checksum to compare)" in out
    assert download("both", tmp_path / "root", listed, QUICK) == paths
    assert capsys.readouterr().out.count("exists") == 2
    assert len(one.seen) == len(two.seen) == 1


def test_hints_name_what_can_be_downloaded() -> None:
    """What a configuration says when its file is missing is one of our commands, and works."""
    from hiphop_train.config import config_directory

    known = registry()
    hints = {}
    for file in sorted((config_directory() / "data").glob("*.yaml")):
        hint = yaml.safe_load(file.read_text()).get("reader", {}).get("download")
        if hint and file.stem != "methane":  # which is generated
            hints[file.stem] = hint
            assert hint.startswith(f"hiphop-data download {file.stem} --root {{folder}}")
    assert hints.keys() == known.keys() - {"spice1"}
