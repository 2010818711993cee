"""Cartesian irreducible tensors and their polynomial invariants, component by component; TorchScript-safe.

A symmetric traceless tensor of rank l has 2 l + 1 free components; the others follow from the vanishing traces.
The free components, in order: 1; x y z; xx xy xz yy yz; xxx xxy xxz xyy xyz yyy yyz.
Symmetric matrices are lists of six tensors, xx xy xz yy yz zz.
"""

from functools import cache
from typing import List

import torch
from torch import Tensor

from hiphop_train.nn.polynomials import Program, evaluate, trace


def irreducible_tensors(unit: Tensor, l_max: int) -> Tensor:
    """Free components of the symmetric traceless tensors built from unit vectors (arXiv 2503.23515, eq. 5).

    Parameters
    ----------
    unit : (n_pairs, 3) unit vectors
    l_max : highest rank, 0 to 3

    Returns
    -------
    components : (n_pairs, (l_max + 1)^2)
    """
    x, y, z = unit.unbind(1)
    components = [torch.ones_like(x)]
    if l_max >= 1:
        components += [x, y, z]
    if l_max >= 2:
        components += [x * x - 1 / 3, x * y, x * z, y * y - 1 / 3, y * z]
    if l_max >= 3:
        xx, yy = x * x, y * y
        components += [
            x * (xx - 3 / 5),
            y * (xx - 1 / 5),
            z * (xx - 1 / 5),
            x * (yy - 1 / 5),
            x * y * z,
            y * (yy - 3 / 5),
            z * (yy - 1 / 5),
        ]
    return torch.stack(components, dim=1)


def contract(p: List[Tensor], q: List[Tensor]) -> Tensor:
    """Full contraction of two symmetric matrices, p_ij q_ij."""
    off_diagonal = p[1] * q[1] + p[2] * q[2] + p[4] * q[4]
    return p[0] * q[0] + p[3] * q[3] + p[5] * q[5] + (off_diagonal + off_diagonal)


def dot(u: List[Tensor], v: List[Tensor]) -> Tensor:
    """Scalar product of two vectors, u_i v_i."""
    return u[0] * v[0] + u[1] * v[1] + u[2] * v[2]


def gram(rows: List[List[Tensor]]) -> List[Tensor]:
    """Symmetric matrix g_km = rows_k : rows_m of three symmetric matrices, t_ijk t_ijm for a rank-3 tensor."""
    x, y, z = rows[0], rows[1], rows[2]
    return [contract(x, x), contract(x, y), contract(x, z), contract(y, y), contract(y, z), contract(z, z)]


def square(q: List[Tensor]) -> List[Tensor]:
    """Matrix square of a symmetric matrix, a_jk = q_ij q_ik."""
    x, y, z = [q[0], q[1], q[2]], [q[1], q[3], q[4]], [q[2], q[4], q[5]]
    return [dot(x, x), dot(x, y), dot(x, z), dot(y, y), dot(y, z), dot(z, z)]


def outer(v: List[Tensor]) -> List[Tensor]:
    """Symmetric matrix v_i v_j of a vector."""
    return [v[0] * v[0], v[0] * v[1], v[0] * v[2], v[1] * v[1], v[1] * v[2], v[2] * v[2]]


def published_polynomials(part: List[Tensor], l_max: int, n_max: int) -> List[Tensor]:
    """Invariant polynomials up to order n_max of tensors up to rank l_max, as published (arXiv 2503.23515, table I).

    With a_jk = q_ij q_ik and b_km = t_ijk t_ijm the set for l_max = 3, n_max = 4 is, in this order:
    s; v.v; a_ii; a:q; b_ii; b:b; v.q.v; v.a.v; t_ijk v_i v_j v_k; v.b.v; b:q; b:a; |t:q|^2.

    Parameters
    ----------
    part : free components of s, v, q, t, as tensors of one shape (or as expressions to be traced)
    l_max : highest rank, 0 to 3
    n_max : highest number of tensors in a product, 1 to 4

    Returns
    -------
    invariants : of the same shape each
    """
    scalar = part[0]
    vector: List[Tensor] = []
    quadrupole: List[Tensor] = []
    octupole: List[List[Tensor]] = []
    if l_max >= 1:
        vector = [part[1], part[2], part[3]]
    if l_max >= 2:
        xx, xy, xz, yy, yz = part[4], part[5], part[6], part[7], part[8]
        quadrupole = [xx, xy, xz, yy, yz, -(xx + yy)]
    if l_max >= 3:
        xxx, xxy, xxz, xyy, xyz, yyy, yyz = part[9], part[10], part[11], part[12], part[13], part[14], part[15]
        xzz, yzz, zzz = -(xxx + xyy), -(xxy + yyy), -(xxz + yyz)
        octupole = [[xxx, xxy, xxz, xyy, xyz, xzz], [xxy, xyy, xyz, yyy, yyz, yzz], [xxz, xyz, xzz, yyz, yzz, zzz]]

    found = [scalar]
    a: List[Tensor] = []
    b: List[Tensor] = []
    vv: List[Tensor] = []
    if l_max >= 1 and n_max >= 2:
        found.append(dot(vector, vector))
    if l_max >= 2 and n_max >= 2:
        a = square(quadrupole)
        found.append(a[0] + a[3] + a[5])
    if l_max >= 2 and n_max >= 3:
        found.append(contract(a, quadrupole))
    if l_max >= 3 and n_max >= 2:
        b = gram(octupole)
        found.append(b[0] + b[3] + b[5])
    if l_max >= 3 and n_max >= 4:
        found.append(contract(b, b))
    if l_max >= 2 and n_max >= 3:
        vv = outer(vector)
        found.append(contract(vv, quadrupole))
    if l_max >= 2 and n_max >= 4:
        found.append(contract(vv, a))
    if l_max >= 3 and n_max >= 4:
        found.append(dot([contract(t, vv) for t in octupole], vector))
        found.append(contract(vv, b))
    if l_max >= 3 and n_max >= 3:
        found.append(contract(b, quadrupole))
    if l_max >= 3 and n_max >= 4:
        found.append(contract(b, a))
        e = [contract(t, quadrupole) for t in octupole]
        found.append(dot(e, e))
    return found


def invariants(components: Tensor, l_max: int, n_max: int) -> Tensor:
    """Evaluate the published invariants.

    Parameters
    ----------
    components : ((l_max + 1)^2, n_atoms, n_features), the free components of s, v, q, t
    l_max, n_max : see `published_polynomials`

    Returns
    -------
    invariants : (n_invariants, n_atoms, n_features)
    """
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return torch.stack(published_polynomials(list(components.unbind(0)), l_max, n_max))
    return traced_invariants(components, l_max, n_max)  # type: ignore[no-any-return]


@torch.jit.ignore  # type: ignore[untyped-decorator]
def traced_invariants(components: Tensor, l_max: int, n_max: int) -> Tensor:
    """Do as `invariants` does, by a traced program: fewer operations, and far fewer in derivatives."""
    return evaluate(_program(l_max, n_max), components)


@cache
def _program(l_max: int, n_max: int) -> Program:
    return trace(lambda part: published_polynomials(part, l_max, n_max), (l_max + 1) ** 2)


PUBLISHED_COUNT = {
    (0, 1): 1, (0, 2): 1, (0, 3): 1, (0, 4): 1,
    (1, 1): 1, (1, 2): 2, (1, 3): 2, (1, 4): 2,
    (2, 1): 1, (2, 2): 3, (2, 3): 5, (2, 4): 6,
    (3, 1): 1, (3, 2): 4, (3, 3): 7, (3, 4): 13,
}  # fmt: skip
"""Number of published invariants by (l_max, n_max)."""
