"""Neighbour search in linear time, for large or periodic systems, one or a batch of them; TorchScript-safe.

Periodic images that may be within the cutoff become explicit points, so that the search itself is not periodic. The
points are sorted into columns of square cross-section, and along each column by height: candidates near an atom are
then a few runs of the sorted list, one per surrounding column.
"""

from typing import List, NamedTuple, Tuple

import torch
from torch import Tensor

Pairs = Tuple[Tensor, Tensor, Tensor]


def complete_cells(cell: Tensor, pbc: Tensor) -> Tensor:
    """Replace the lattice vectors of open directions by unit vectors orthogonal to the periodic ones.

    Parameters
    ----------
    cell : (n_systems, 3, 3) Angstrom, rows are lattice vectors
    pbc : (n_systems, 3) bool
    """
    completed = cell.clone()
    pattern = pbc[:, 0].to(torch.int64) + 2 * pbc[:, 1].to(torch.int64) + 4 * pbc[:, 2].to(torch.int64)
    for code in range(7):  # bit pattern of the periodic directions; 7 is all
        chosen = torch.nonzero(pattern == code)[:, 0]
        if chosen.shape[0] > 0:
            periodic: List[int] = []
            is_open: List[int] = []
            for k in range(3):
                if (code >> k) % 2 == 1:
                    periodic.append(k)
                else:
                    is_open.append(k)
            vectors = cell[chosen][:, periodic]  # (n_chosen, n_periodic, 3)
            # in the full basis, the vectors after the first n_periodic are orthogonal to the periodic ones
            basis = torch.linalg.svd(vectors, full_matrices=True)[2]
            for position, k in enumerate(is_open):
                completed[chosen, k] = basis[:, len(periodic) + position]
    return completed


def images(
    positions: Tensor, system: Tensor, cell: Tensor, pbc: Tensor, cutoff: float
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find the home cell of each atom, and all periodic images that may be within the cutoff of a home cell.

    Parameters
    ----------
    positions : (n_atoms, 3) Angstrom
    system : (n_atoms,) int64
    cell, pbc : (n_systems, 3, 3) Angstrom and (n_systems, 3) bool
    cutoff : Angstrom

    Returns
    -------
    wrap : (n_atoms, 3) int64, lattice translation from the home cell to the given position of the atom
    atom : (n_images,) int64, atom of each image; images include the atoms in their home cells
    shift : (n_images, 3) int64, such that the image is at positions[atom] + shift . cell
    image_positions : (n_images, 3) Angstrom
    """
    full_cell = complete_cells(cell, pbc)
    inverse = torch.linalg.inv(full_cell)
    heights = 1.0 / torch.linalg.norm(inverse, dim=1)  # (n_systems, 3) distance between opposite faces
    reach = (cutoff / heights * (1.0 + 1e-9) + 1e-9)[system]  # (n_atoms, 3) in lattice vectors
    periodic = pbc[system]
    fraction = torch.einsum("ax,axk->ak", positions, inverse[system])
    wrap = torch.floor(fraction) * periodic.to(fraction.dtype)
    fraction = fraction - wrap
    lowest = torch.clamp(torch.ceil(-reach - fraction), max=0.0).to(torch.int64)
    highest = torch.clamp(torch.floor(1.0 + reach - fraction), min=0.0).to(torch.int64)
    wrap = wrap.to(torch.int64)
    lowest = torch.where(periodic, lowest, torch.zeros_like(lowest))
    n_images = torch.where(periodic, highest - lowest + 1, torch.ones_like(lowest))

    # direction by direction: each image so far is combined with all translations in the next direction
    atom = torch.arange(positions.shape[0], device=positions.device)
    columns: List[Tensor] = []
    for k in range(3):
        count = n_images[atom, k]
        before = torch.repeat_interleave(torch.arange(atom.shape[0], device=atom.device), count)
        rank = torch.arange(before.shape[0], device=atom.device) - (torch.cumsum(count, 0) - count)[before]
        columns = [column[before] for column in columns]
        atom = atom[before]
        columns.append(lowest[atom, k] + rank)
    shift = torch.stack(columns, 1) - wrap[atom]
    translation = torch.einsum("pk,pkx->px", shift.to(positions.dtype), full_cell[system[atom]])
    return wrap, atom, shift, positions[atom] + translation


class Points(NamedTuple):
    """All images of atoms (centres) that may be in a pair, sorted along columns; see `linear_pairs`."""

    place: Tensor
    """(3, n_images) Angstrom."""
    owner: Tensor
    """(n_images,) int64: whose image each is."""
    itself: Tensor
    """(n_images,) int64: the centre that each is in the home cell; -1 for other images."""
    shift: Tensor
    """(n_images, 3) int64; empty where all systems are open, as is `wrap`."""
    wrap: Tensor
    """(n_centres, 3) int64: lattice translation from the home cell."""
    home: Tensor
    """(3, n_centres) Angstrom, in the home cell."""
    first: Tensor
    """(n_centres, 9) int64: where the run of candidates begins in each of the nearest columns."""
    n_candidates: Tensor
    """(n_centres, 9) int64: length of the run."""


def _sorted_points(
    positions: Tensor, system: Tensor, n_systems: int, cell: Tensor, pbc: Tensor, cutoff: float
) -> Points:
    """Make all images, and sort them along columns."""
    atoms = torch.arange(positions.shape[0], device=positions.device)
    wrap = shift = torch.zeros((0, 3), dtype=torch.int64, device=positions.device)
    owner, itself, place, home = atoms, atoms, positions, positions
    is_periodic = bool(pbc.any())
    if is_periodic:
        wrap, owner, shift, place = images(positions, system, cell, pbc, cutoff)
        is_home = (shift == -wrap[owner]).all(1)
        home = torch.empty_like(positions)
        home[owner[is_home]] = place[is_home]
        itself = torch.where(is_home, owner, -torch.ones_like(owner))
    key, first, last = _columns(place, owner, home, system, n_systems, cutoff)
    key, order = torch.sort(key, stable=True)
    first = torch.searchsorted(key, first)
    return Points(
        place.t().contiguous().index_select(1, order),
        owner[order],
        itself[order],
        shift[order] if is_periodic else shift,
        wrap,
        home.t().contiguous(),
        first,
        torch.searchsorted(key, last, right=True) - first,
    )


def linear_pairs(
    positions: Tensor, sizes: Tensor, cell: Tensor, pbc: Tensor, cutoff: float, chunk: int = 100_000
) -> Pairs:
    """Find all pairs within the cutoff in a batch, in time and memory linear in the number of atoms.

    Cells may be smaller than the cutoff: an atom then has several images of another, and of itself, as neighbours.
    Atoms with non-finite positions have no pairs.

    Parameters
    ----------
    positions : (n_atoms, 3) Angstrom, system after system, inside or outside their cells
    sizes : (n_systems,) int64
    cell : (n_systems, 3, 3) Angstrom, rows are lattice vectors
    pbc : (n_systems, 3) bool
    cutoff : Angstrom
    chunk : approximate number of candidates processed together

    Returns
    -------
    pair_i, pair_j : (n_pairs,) int64, sorted by receiving atom
    pair_shift : (n_pairs, 3) int64, such that the pair's vector is r_j + shift . cell - r_i
    """
    device = positions.device
    none = torch.zeros((0,), dtype=torch.int64, device=device)
    positions = positions.detach()
    centre = torch.nonzero(torch.isfinite(positions).all(1))[:, 0]  # (n_centres,) atoms with finite positions
    if centre.shape[0] == 0:
        return none, none, none.reshape(0, 3)
    system = torch.repeat_interleave(torch.arange(sizes.shape[0], device=device), sizes)[centre]
    given = positions[centre]
    is_periodic = bool(pbc.any())
    points = _sorted_points(given, system, sizes.shape[0], cell, pbc, cutoff)
    x, y, z = points.place.unbind(0)
    home_x, home_y, home_z = points.home.unbind(0)
    found_i: List[Tensor] = [none]
    found_j: List[Tensor] = [none]
    found_shift: List[Tensor] = [none.reshape(0, 3)]
    start = 0
    for stop in _chunks(points.n_candidates.sum(1), chunk):
        candidate, i = _candidates(points.first[start:stop], points.n_candidates[start:stop])
        i += start
        dx = x.index_select(0, candidate).sub_(home_x.index_select(0, i))
        dy = y.index_select(0, candidate).sub_(home_y.index_select(0, i))
        dz = z.index_select(0, candidate).sub_(home_z.index_select(0, i))
        squared = dx.square_().add_(dy.square_()).add_(dz.square_())
        near = torch.nonzero(squared < cutoff * cutoff * (1.0 + 1e-9))[:, 0]
        i, candidate, squared = i.index_select(0, near), candidate.index_select(0, near), squared.index_select(0, near)
        keep = points.itself.index_select(0, candidate) != i
        j = points.owner.index_select(0, candidate)
        if is_periodic:
            pair_shift = points.shift.index_select(0, candidate).add_(points.wrap.index_select(0, i))
            keep = _decide_near_cutoff(keep, squared, i, j, pair_shift, given, cell, system, cutoff)
        else:
            pair_shift = torch.zeros((i.shape[0], 3), dtype=torch.int64, device=device)
            keep &= squared < cutoff * cutoff
        inside = torch.nonzero(keep)[:, 0]
        found_i.append(centre[i[inside]])
        found_j.append(centre[j[inside]])
        found_shift.append(pair_shift[inside])
        start = stop
    return torch.cat(found_i), torch.cat(found_j), torch.cat(found_shift)


def _candidates(first: Tensor, count: Tensor) -> Tuple[Tensor, Tensor]:
    """List the candidates of centres, run by run of the sorted list.

    Parameters
    ----------
    first, count : (n_centres, n_columns) int64, where each run begins, and its length

    Returns
    -------
    candidate, centre : (n_candidates,) int64, index in the sorted list, and whose candidate it is
    """
    run = torch.repeat_interleave(count.flatten())
    before = torch.cumsum(count.flatten(), 0) - count.flatten()
    candidate = torch.arange(run.shape[0], device=first.device)
    candidate += (first.flatten() - before).index_select(0, run)
    return candidate, torch.repeat_interleave(count.sum(1))


def _decide_near_cutoff(
    keep: Tensor,
    squared: Tensor,
    i: Tensor,
    j: Tensor,
    pair_shift: Tensor,
    positions: Tensor,
    cell: Tensor,
    system: Tensor,
    cutoff: float,
) -> Tensor:
    """Decide by the vector that a pair will have, where rounded positions of images may be wrong.

    Parameters
    ----------
    keep, squared : (n_pairs,) the decision so far, and squared distances by positions of images
    i, j, pair_shift : of the pairs
    positions, cell, system : (n_centres, 3), (n_systems, 3, 3) and (n_centres,)
    """
    doubtful = torch.nonzero(squared > cutoff * cutoff * (1.0 - 1e-9))[:, 0]
    if doubtful.shape[0] > 0:
        a, b = i[doubtful], j[doubtful]
        translation = torch.einsum("pk,pkx->px", pair_shift[doubtful].to(positions.dtype), cell[system[a]])
        keep[doubtful] = (positions[b] - positions[a] + translation).square().sum(1) < cutoff * cutoff
    return keep


def _columns(
    place: Tensor, owner: Tensor, home: Tensor, system: Tensor, n_systems: int, cutoff: float
) -> Tuple[Tensor, Tensor, Tensor]:
    """Number the bins of all images, and for each centre the first and last bin in each of the nine nearest columns.

    Parameters
    ----------
    place, owner : (n_images, 3) positions of images, and (n_images,) their centres
    home, system : (n_centres, 3) positions of centres in their home cells, and (n_centres,) their systems

    Returns
    -------
    key : (n_images,) int64, numbers of bins, consecutive along a column
    first, last : (n_centres, 9) int64
    """
    layers = 8  # bins per cutoff along a column
    device = place.device
    width = torch.tensor([cutoff, cutoff, cutoff / layers], dtype=place.dtype, device=device) * (1.0 + 1e-6)
    origin = torch.full((n_systems, 3), float("inf"), dtype=place.dtype, device=device)
    of_image = system[owner]
    origin = origin.scatter_reduce(0, of_image.unsqueeze(1).expand(-1, 3), place, "amin")
    extent = (place - origin[of_image]).max(0).values
    width = torch.maximum(width, extent / 65536.0)  # bin numbers fit in 64 bits
    margin = torch.tensor([1, 1, layers], dtype=torch.int64, device=device)
    bins = torch.floor((place - origin[of_image]) / width).to(torch.int64) + margin
    of_home = torch.floor((home - origin[system]) / width).to(torch.int64) + margin
    n_bins = torch.maximum(bins.max(0).values, of_home.max(0).values) + margin + 1
    n_y, n_z = int(n_bins[1]), int(n_bins[2])
    n_x = int(n_bins[0])
    key = ((of_image * n_x + bins[:, 0]) * n_y + bins[:, 1]) * n_z + bins[:, 2]
    middle = ((system * n_x + of_home[:, 0]) * n_y + of_home[:, 1]) * n_z + of_home[:, 2]
    step = torch.arange(-1, 2, device=device)
    columns = ((step * n_y).unsqueeze(1) + step).flatten() * n_z  # (9,)
    return key, (middle - layers).unsqueeze(1) + columns, (middle + layers).unsqueeze(1) + columns


def _chunks(n_candidates: Tensor, size: int) -> List[int]:
    """Return the ends of runs of centres with about `size` candidates each (or one centre)."""
    total = torch.cumsum(n_candidates, 0)
    n_centres = total.shape[0]
    ends: List[int] = []
    targets = torch.arange(size, max(size, int(total[-1])), size, dtype=total.dtype, device=total.device)
    cuts: List[int] = torch.searchsorted(total, targets, right=True).tolist()
    for end in cuts:
        if end > 0 and end < n_centres and (len(ends) == 0 or end > ends[-1]):
            ends.append(end)
    ends.append(n_centres)
    return ends
