"""Every configuration of conf/data is complete, and what they share is written once and not offered as a data set."""

from pathlib import Path

import pytest

from hiphop_train.config import load_config

CONF = Path(__file__).resolve().parents[2] / "conf" / "data"
NAMES = sorted(file.stem for file in CONF.glob("*.yaml"))
SHARED = {"batch_by", "bucket", "num_workers", "check", "e0", "pack"}


@pytest.mark.parametrize("name", NAMES)
def test_data_sets_have_what_they_share(name: str) -> None:
    path = ["data.path=x"] if "\npath:" in (CONF / f"{name}.yaml").read_text() else []
    section = load_config("data", [f"data={name}", *path]).data
    assert section.name == name
    assert set(section) >= {"batch_size", "eval_batch_size", "split", *SHARED}
    changed = load_config("data", [f"data={name}", *path, "data.bucket=7", "data.e0=gsae"]).data
    assert (section.bucket, section.e0, changed.bucket, changed.e0) == (1, "fit", 7, "gsae")


def test_what_is_shared_is_written_once() -> None:
    assert "common" not in NAMES
    for name in NAMES:
        own = [line.split(":")[0] for line in (CONF / f"{name}.yaml").read_text().splitlines()]
        assert not {"batch_by", "bucket", "e0", "pack"} & set(own), name
