"""Damage files in every format, and record what reading them does."""

import bz2
import io
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.data.formats.layouts import WRITERS, given_to

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT = 30.0
"""Seconds per file."""
CHECKSUMS = ("md17", "rmd17", "qm9", "qm7")
"""Layouts whose files hold checksums, so that flipped bytes cannot go unseen."""

Random = np.random.Generator
Damage = Callable[[Path, Random], str]


def truncate(path: Path, rng: Random) -> str:
    content = path.read_bytes()
    size = int(rng.integers(len(content)))
    path.write_bytes(content[:size])
    return f"cut to {size} of {len(content)} bytes"


def flip(path: Path, rng: Random) -> str:
    content = bytearray(path.read_bytes())
    places = rng.integers(len(content), size=int(rng.choice([1, 1, 4, 30])))
    for place in places.tolist():
        content[place] ^= int(rng.integers(1, 256))
    path.write_bytes(content)
    return f"flipped bytes {places.tolist()}"


def hole(path: Path, rng: Random) -> str:
    content = bytearray(path.read_bytes())
    start, size = int(rng.integers(len(content))), int(rng.choice([8, 64, 1024]))
    content[start : start + size] = bytes(len(content[start : start + size]))
    path.write_bytes(content)
    return f"zeros at {start}, {size} bytes"


def arrays_of(file: h5py.File) -> list[str]:
    """All arrays of an HDF5 file, but not those reached by links only."""
    found: list[str] = []
    file.visititems(lambda name, node: found.append(name) if isinstance(node, h5py.Dataset) else None)
    return found


CHANGES: dict[str, Callable[[np.ndarray, Random], Any]] = {
    "first row gone": lambda a, r: a[1:],
    "empty": lambda a, r: a[:0],
    "one value": lambda a, r: a.reshape(-1)[0],
    "flat": lambda a, r: a.reshape(-1),
    "a dimension more": lambda a, r: a[..., None],
    "last column gone": lambda a, r: a[..., :-1],
    "transposed": lambda a, r: a.T,
    "no atoms": lambda a, r: a[:, :0] if a.ndim > 1 else a[:0],
    "zero": lambda a, r: np.zeros_like(a),
    "element 0": lambda a, r: a * 0 if a.dtype.kind in "iu" else a,
    "element 119": lambda a, r: np.full_like(a, 119) if a.dtype.kind in "iu" else a,
    "element -1": lambda a, r: np.full(a.shape, -1) if a.dtype.kind in "iu" else a,
    "element 2^40": lambda a, r: np.full(a.shape, 2**40 + 6) if a.dtype.kind in "iu" else a,
    "NaN": lambda a, r: spoilt(a, r, np.nan),
    "infinity": lambda a, r: spoilt(a, r, np.inf),
    "1e300": lambda a, r: spoilt(a, r, 1e300),
    "all NaN": lambda a, r: np.full(a.shape, np.nan),
    "half precision": lambda a, r: np.clip(a, -6e4, 6e4).astype("f2") if a.dtype.kind == "f" else a,
    "single precision": lambda a, r: a.astype("f4") if a.dtype.kind == "f" else a,
    "big-endian": lambda a, r: a.astype(a.dtype.newbyteorder(">")),
    "complex": lambda a, r: a.astype(complex) if a.dtype.kind in "fiu" else a,
    "whole numbers": lambda a, r: np.nan_to_num(a).astype("i8") if a.dtype.kind == "f" else a,
    "truth values": lambda a, r: a.astype(bool) if a.dtype.kind in "fiu" else a,
    "bytes": lambda a, r: a.astype("S5"),
}
"""What may happen to an array."""


def spoilt(array: np.ndarray, rng: Random, value: float) -> np.ndarray:
    """Put a value at an index."""
    if array.dtype.kind != "f" or array.size == 0:
        return array
    changed = array.astype("f8")
    changed.reshape(-1)[rng.integers(array.size)] = value
    return changed


def hdf5_array(path: Path, rng: Random) -> str:
    with h5py.File(path, "a") as file:
        name, change = str(rng.choice(arrays_of(file))), str(rng.choice(list(CHANGES)))
        old = file[name][()]
        if old.dtype.kind == "O":
            old = old.astype("S20")
        units = dict(file[name].attrs)
        try:
            new = CHANGES[change](old, rng)
        except (ValueError, TypeError, IndexError):
            return f"{name}: {change} is impossible"
        del file[name]
        file[name] = new
        file[name].attrs.update(units)
    return f"{name}: {change}"


def hdf5_structure(path: Path, rng: Random) -> str:
    kind = str(rng.choice([
        *("removed", "renamed", "group", "soft link away", "soft link to itself", "external link", "external file"),
        *("objects", "references", "gigantic", "gigantic contiguous", "unwritten", "half written", "null", "virtual"),
        *("compound", "group removed", "group emptied", "cycle", "hard link again", "gigantic chunk", "units", "enum"),
    ]))  # fmt: skip
    with h5py.File(path, "a") as file:
        name = str(rng.choice(arrays_of(file)))
        node = file[name]
        group, shape, units = node.parent, node.shape, dict(node.attrs)
        if kind == "renamed":
            file.move(name, f"{name}X")
        elif kind == "group removed":
            del file[group.name]
        elif kind == "group emptied":
            for key in list(group):
                del group[key]
        elif kind == "cycle":
            group["again"] = group.parent
        elif kind == "hard link again":
            group.parent["once more"] = h5py.SoftLink("/nowhere")
        elif kind == "units":
            node.attrs["units"] = "furlong"
        else:
            del file[name]
            grown = tuple(max(n, 1) * 10**7 for n in shape) or (10**12,)
            virtual = h5py.VirtualLayout(shape=shape, dtype="f8")
            make: dict[str, Callable[[], Any]] = {
                "removed": lambda: None,
                "group": lambda: file.create_group(name),
                "soft link away": lambda: file.__setitem__(name, h5py.SoftLink("/nowhere")),
                "soft link to itself": lambda: file.__setitem__(name, h5py.SoftLink(f"/{name}")),
                "external link": lambda: file.__setitem__(name, h5py.ExternalLink("/dev/zero", "/x")),
                "external file": lambda: file.create_dataset(
                    name, shape, "f8", external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)]
                ),
                "objects": lambda: file.create_dataset(name, shape, h5py.vlen_dtype(np.float64)),
                "references": lambda: file.create_dataset(name, shape, h5py.ref_dtype),
                "gigantic": lambda: file.create_dataset(name, grown, "f8", chunks=tuple(2 for _ in grown)),
                "gigantic contiguous": lambda: file.create_dataset(name, grown[:1], "f8"),
                "unwritten": lambda: file.create_dataset(name, shape, "f8"),
                "half written": lambda: half_written(file, name, shape),
                "null": lambda: file.create_dataset(name, data=h5py.Empty("f8")),
                "virtual": lambda: file.create_virtual_dataset(name, virtual),
                "compound": lambda: file.create_dataset(name, shape, np.dtype([("x", "f8"), ("y", "i4")])),
                "gigantic chunk": lambda: file.create_dataset(
                    name, shape, "f8", chunks=(2**28, *shape[1:]), maxshape=(None, *shape[1:]), compression="gzip"
                ),
                "enum": lambda: file.create_dataset(name, shape, h5py.enum_dtype({"a": 1}, "i4")),
            }
            try:
                make[kind]()
                if kind in ("soft link away", "soft link to itself", "external link", "removed"):
                    return f"{name}: {kind}"
                file[name].attrs.update(units)
            except (ValueError, TypeError, OSError):
                return f"{name}: {kind} is impossible, removed"
    return f"{name}: {kind}"


def half_written(file: h5py.File, name: str, shape: tuple[int, ...]) -> None:
    node = file.create_dataset(name, shape, "f8", chunks=(1, *shape[1:]))
    if len(node) > 1:
        node[0] = np.random.default_rng(0).normal(size=shape[1:])


def npz(path: Path, rng: Random) -> str:
    with np.load(path) as file:
        arrays = {key: file[key] for key in file}
    name = str(rng.choice(list(arrays)))
    change = str(rng.choice([*CHANGES, "removed", "renamed", "pickled", "column order", "declared", "no header"]))
    lies: bytes | None = None
    if change == "removed":
        del arrays[name]
    elif change == "renamed":
        arrays[f"{name}X"] = arrays.pop(name)
    elif change == "pickled":
        arrays[name] = np.array([{"x": 1}] * max(1, arrays[name].size), object)
    elif change == "column order":
        arrays[name] = np.asfortranarray(arrays[name])
    elif change in ("declared", "no header"):
        stream = io.BytesIO()
        shape = (10 ** int(rng.integers(3, 13)), *arrays[name].shape[1:])
        np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
        lies = b"" if change == "no header" else stream.getvalue() + arrays.pop(name).tobytes()
        arrays.pop(name, None)
    else:
        try:
            arrays[name] = CHANGES[change](arrays[name], rng)
        except (ValueError, TypeError, IndexError):
            return f"{name}: {change} is impossible"
    np.savez(path, **arrays)
    if lies is not None:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"{name}.npy", lies)
    return f"{name}: {change}"


def mat(path: Path, rng: Random) -> str:
    from scipy.io import loadmat, savemat

    arrays = {key: value for key, value in loadmat(path).items() if not key.startswith("__")}
    changes = sorted(set(CHANGES) - {"half precision", "truth values"})  # MATLAB stores them as other numbers
    name, change = str(rng.choice(list(arrays))), str(rng.choice([*changes, "removed", "renamed", "cell", "text"]))
    try:
        if change in ("removed", "renamed"):
            value = arrays.pop(name)
            arrays |= {f"{name}X": value} if change == "renamed" else {}
        elif change == "cell":
            arrays[name] = np.array([{"a": 1}, "b"], object)
        else:
            arrays[name] = "text" if change == "text" else CHANGES[change](arrays[name], rng)
        savemat(path, arrays, do_compression=bool(rng.integers(2)))
    except (ValueError, TypeError, IndexError):
        return f"{name}: {change} is impossible"
    return f"{name}: {change}"


def changed_text(text: str, rng: Random) -> tuple[str, str]:
    lines = text.split("\n")
    k = int(rng.integers(len(lines)))
    change = str(
        rng.choice(["gone", "twice", "blank", "token", "count", "column gone", "column more", "no text", "key"])
    )
    tokens = lines[k].split(" ")
    t = int(rng.integers(len(tokens)))
    if change == "gone":
        del lines[k]
    elif change == "twice":
        lines.insert(k, lines[k])
    elif change == "blank":
        lines.insert(k, "")
    elif change == "token":
        value = str(rng.choice(["nan", "inf", "1e400", "abc", "", "1.2.3", "--", "9" * 400, "X", "é\x00", "0x10"]))
        lines[k] = re.sub(r"-?\d+\.\d+", value, lines[k], count=1) if rng.integers(2) else value
    elif change == "count":
        counts = [number for number, line in enumerate(lines) if re.fullmatch(r"\d+", line)]
        lines[int(rng.choice(counts))] = str(rng.choice(["0", "-1", "1", "4", "6", "10000000000000", "5.0", "1e3"]))
    elif change == "column gone":
        lines[k] = " ".join(tokens[:t] + tokens[t + 1 :]) if tokens[t] else re.sub(r"\s+\S+$", "", lines[k])
    elif change == "column more":
        lines[k] += "\t1.0"
    elif change == "no text":
        lines[k] = "\udcff\udcfe"
    else:
        old = str(rng.choice(["energy", "pos:R", "forces:R", "species", "Properties", "Lattice", "gdb", "R:3", "pbc"]))
        return "\n".join(lines).replace(old, "x" + old[1:], 1), f"{change} {old}"
    return "\n".join(lines), f"line {k}: {change}"


def extxyz(path: Path, rng: Random) -> str:
    text, what = changed_text(path.read_text(), rng)
    path.write_bytes(text.encode(errors="surrogateescape"))
    return what


def qm9(path: Path, rng: Random) -> str:
    """Change the archive's content, which leaves its checksum valid."""
    content = bz2.decompress(path.read_bytes())
    if rng.integers(3):
        changed = io.BytesIO()
        with tarfile.open(fileobj=io.BytesIO(content)) as old, tarfile.open(fileobj=changed, mode="w") as new:
            entries = old.getmembers()
            chosen = int(rng.integers(len(entries)))
            for k, entry in enumerate(entries):
                stream = old.extractfile(entry)
                assert stream is not None
                text = stream.read().decode()
                if k == chosen:
                    text, what = changed_text(text, rng)
                raw = text.encode(errors="surrogateescape")
                entry.size = len(raw)
                new.addfile(entry, io.BytesIO(raw))
        path.write_bytes(bz2.compress(changed.getvalue()))
        return f"{entries[chosen].name}: {what}"
    start = 512 * int(rng.integers(len(content) // 512))
    header = bytearray(content)
    place = start + int(rng.choice([0, 124, 156, 148]))  # name, size, kind and checksum of a member
    header[place : place + 8] = bytes(rng.integers(48, 58, size=8).astype("u1"))
    path.write_bytes(bz2.compress(bytes(header)))
    return f"header at {place}"


SPECIAL: dict[str, tuple[Damage, ...]] = {
    **dict.fromkeys(
        ("ani1", "ani1x", "ani2x", "comp6", "comp6v2", "spice", "transition1x"), (hdf5_array, hdf5_structure)
    ),
    "md17": (npz,),
    "rmd17": (npz,),
    "qm7": (mat,),
    "qm9": (qm9,),
    "extxyz": (extxyz,),
}


class Worker:
    """A process that reads files; restarted when it dies."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def read(self, layout: str, path: Path) -> dict[str, Any]:
        """Return the outcome of reading a file."""
        if self.process is None or self.process.poll() is not None:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "tests.data.formats.fuzz_worker"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{layout} {path}\n".encode())
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], TIMEOUT)
        line = self.process.stdout.readline() if ready else b""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        outcome = "died" if ready else "hung"
        self.close()
        return {"outcome": outcome, "detail": "", "megabytes": 0.0}

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()
            self.process.wait()
            self.process = None


def damage_by_number(path: Path, layout: str, seed: int, number: int) -> tuple[Damage, str]:
    """Damage a file as the campaign of a seed damages the one of that number; returns how, and what was done."""
    rng = np.random.default_rng([seed, number])
    damage = (truncate, flip, hole, *SPECIAL[layout] * 2)[int(rng.integers(3 + 2 * len(SPECIAL[layout])))]
    return damage, damage(path, rng)


def campaign(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Damage `count` files, in all layouts in turn, and read each.

    Returns
    -------
    record : numbers of outcomes over all and by layout, and every failure with its seed and what was done; "plausible"
        are bytes that were changed to other numbers in files without checksums
    """
    layouts = sorted(SPECIAL)
    originals = {}
    for layout in layouts:
        (folder / layout).mkdir()
        originals[layout] = WRITERS[layout](folder / layout, given_to(layout))
    totals: Counter[str] = Counter()
    by_layout = {layout: Counter[str]() for layout in layouts}
    failures = []
    worker, megabytes = Worker(), 0.0
    damaged = folder / "damaged"
    for k in range(count):
        layout = layouts[k % len(layouts)]
        damaged.mkdir()
        path = damaged / originals[layout].name
        shutil.copy(originals[layout], path)
        damage, what = damage_by_number(path, layout, seed, k)
        answer = worker.read(layout, path)
        outcome = str(answer["outcome"])
        megabytes = max(megabytes, float(answer["megabytes"]))
        # text has no checksum either: another number in it cannot be noticed
        text = layout in ("extxyz", "qm9") and damage in (extxyz, qm9)
        if outcome == "wrong" and ((damage in (flip, hole) and layout not in CHECKSUMS) or text):
            outcome = "plausible"
        if (
            outcome == "refused"
            and damage is hdf5_array
            and Path(what.split(":")[0]).parent.name not in answer["detail"]
        ):
            outcome = "unnamed"
        totals[outcome] += 1
        by_layout[layout][outcome] += 1
        if outcome not in ("right", "refused", "plausible"):
            failures.append(
                {
                    "layout": layout,
                    "number": k,
                    "damage": f"{damage.__name__}: {what}",
                    "outcome": outcome,
                    "detail": answer["detail"],
                }
            )
        shutil.rmtree(damaged)
    worker.close()
    return {
        "files": count,
        "seed": seed,
        "outcomes": dict(totals),
        "by_layout": {layout: dict(counts) for layout, counts in by_layout.items()},
        "largest_memory_megabytes": round(megabytes),
        "failures": failures,
    }
