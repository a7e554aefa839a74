"""The Jacobians of an input-convex network and their adjoint, compiled: point by point, within a core's nearest cache.

Written as loops for numba; as array expressions the same work takes twice the time, because each of them reads and
writes (n, d, w) arrays from end to end. Slices keep offsets out of the inner loops: for all the compiler knows they
might be negative, and it would not vectorise. All arrays lie along the units. Hidden weights are flat, one layer's
after the other's; those between layers l and l + 1 link units ``edges[l]:edges[l + 1]`` to
``edges[l + 1]:edges[l + 2]``.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_FLAGS = {"contract", "reassoc"}
"""Sums may be reordered and fused into products; NaN and infinity keep their meaning."""


@njit(cache=True, nogil=True, fastmath=_FLAGS)
def fill_jacobians(  # type: ignore[no-untyped-def]
    linear, skip, hidden, edges, slope, projected, pull, jacobian, curvature
):
    """Jacobians of the pre-activations by forward recursion, and J' diag(e (1 - softplus'(u))) J of each.

    Args:
        linear: A', (d, w).
        skip: B', one rank after the other, (r, d, w).
        hidden: W' of every link, flat.
        edges: first unit of every layer and the number of units, (layers + 1,).
        slope: softplus'(u), (n, w).
        projected: B x, (n, r, w).
        pull: e = dpsi/du, (n, w).
        jacobian: J' is written here, (n, d, w).
        curvature: is written here, (n, d, d).
    """
    n, d, w = jacobian.shape
    space, bent = np.empty(d * w, linear.dtype), np.empty(w, linear.dtype)
    for s in range(n):
        rows = jacobian[s]
        for i in range(d):
            for j in range(w):
                rows[i, j] = linear[i, j]
            for r in range(skip.shape[0]):
                for j in range(w):
                    rows[i, j] += projected[s, r, j] * skip[r, i, j]
        at = 0
        for layer in range(edges.shape[0] - 2):
            low, mid, high = edges[layer], edges[layer + 1], edges[layer + 2]
            end = at + (high - mid) * (mid - low)
            inner = _inner(space, rows, slope[s], low, mid)
            _add_product(rows, mid, inner, hidden[at:end].reshape(mid - low, high - mid))
            at = end
        for i in range(d):
            for j in range(w):
                bent[j] = rows[i, j] * (pull[s, j] - pull[s, j] * slope[s, j])
            for k in range(i + 1):
                total = bent.dtype.type(0)
                for j in range(w):
                    total += bent[j] * rows[k, j]
                curvature[s, i, k] = total
                curvature[s, k, i] = total


@njit(cache=True, nogil=True, fastmath=_FLAGS)
def add_adjoints(  # type: ignore[no-untyped-def]
    skip, hidden, edges, slope, projected, pull, jacobian, to_curvature, to_parameters, to_units
):
    """The adjoint of ``fill_jacobians``.

    Args:
        skip: as there.
        hidden: W of every link, flat.
        edges: as there.
        slope: as there.
        projected: as there.
        pull: as there.
        jacobian: as it was written there.
        to_curvature: adjoints of the curvatures, symmetric, (n, d, d).
        to_parameters: those of A', B' and W are added to (d, w), (r, d, w) and one flat array.
        to_units: those of slope, B x and e are added to (n, w), (n, r, w) and (n, w).
    """
    n, d, w = jacobian.shape
    to_linear, to_skip, to_hidden = to_parameters
    to_slope, to_projected, to_pull = to_units
    to_bend = np.empty(w, skip.dtype)
    space, back_space, to_rows = np.empty(d * w, skip.dtype), np.empty(d * w, skip.dtype), np.empty((d, w), skip.dtype)
    for s in range(n):
        rows = jacobian[s]
        to_rows[:] = 0
        _add_product(to_rows, 0, to_curvature[s], rows)
        to_bend[:] = 0
        for i in range(d):
            for j in range(w):
                bend = pull[s, j] - pull[s, j] * slope[s, j]
                to_bend[j] += to_rows[i, j] * rows[i, j]
                to_rows[i, j] *= bend + bend
        for j in range(w):
            to_pull[s, j] += to_bend[j] - to_bend[j] * slope[s, j]
            to_slope[s, j] -= to_bend[j] * pull[s, j]
        end = hidden.shape[0]
        for layer in range(edges.shape[0] - 3, -1, -1):
            low, mid, high = edges[layer], edges[layer + 1], edges[layer + 2]
            below, above = mid - low, high - mid
            at = end - above * below
            inner = _inner(space, rows, slope[s], low, mid)
            _add_product(to_hidden[at:end].reshape(above, below), 0, to_rows[:, mid:high].T, inner)
            back = back_space[: d * below].reshape(d, below)
            back[:] = 0
            _add_product(back, 0, to_rows[:, mid:high], hidden[at:end].reshape(above, below))
            slopes, to_slopes = slope[s, low:mid], to_slope[s, low:mid]
            for i in range(d):
                row, to_row = rows[i, low:mid], to_rows[i, low:mid]
                for j in range(below):
                    to_slopes[j] += back[i, j] * row[j]
                    to_row[j] += back[i, j] * slopes[j]
            end = at
        for i in range(d):
            for j in range(w):
                to_linear[i, j] += to_rows[i, j]
            for r in range(skip.shape[0]):
                for j in range(w):
                    to_projected[s, r, j] += to_rows[i, j] * skip[r, i, j]
                    to_skip[r, i, j] += to_rows[i, j] * projected[s, r, j]


@njit(cache=True, nogil=True, fastmath=_FLAGS)
def _inner(space, rows, slope, low, mid):  # type: ignore[no-untyped-def]
    """Jacobian of the activations of some units, transposed, in ``space``."""
    d, below = rows.shape[0], mid - low
    inner = space[: d * below].reshape(d, below)
    slopes = slope[low:mid]
    for i in range(d):
        row = rows[i, low:mid]
        for j in range(below):
            inner[i, j] = row[j] * slopes[j]
    return inner


@njit(cache=True, nogil=True, fastmath=_FLAGS)
def _add_product(out, to, a, b):  # type: ignore[no-untyped-def]
    """out[:, to:] += a b, for ``a`` of any strides.

    Four rows of ``a`` by four of ``b`` at a time: sixteen products for twelve loads and stores, which keeps the
    arithmetic busy while a few rows of ``out`` stay in the nearest cache.
    """
    m, depth, width = out.shape[0], b.shape[0], b.shape[1]
    whole_rows, whole_depth = m - m % 4, depth - depth % 4
    for i in range(0, whole_rows, 4):
        out0, out1 = out[i, to : to + width], out[i + 1, to : to + width]
        out2, out3 = out[i + 2, to : to + width], out[i + 3, to : to + width]
        for k in range(0, whole_depth, 4):
            p0, p1, p2, p3 = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
            q0, q1, q2, q3 = a[i + 1, k], a[i + 1, k + 1], a[i + 1, k + 2], a[i + 1, k + 3]
            r0, r1, r2, r3 = a[i + 2, k], a[i + 2, k + 1], a[i + 2, k + 2], a[i + 2, k + 3]
            s0, s1, s2, s3 = a[i + 3, k], a[i + 3, k + 1], a[i + 3, k + 2], a[i + 3, k + 3]
            for j in range(width):
                b0, b1, b2, b3 = b[k, j], b[k + 1, j], b[k + 2, j], b[k + 3, j]
                out0[j] += p0 * b0 + p1 * b1 + p2 * b2 + p3 * b3
                out1[j] += q0 * b0 + q1 * b1 + q2 * b2 + q3 * b3
                out2[j] += r0 * b0 + r1 * b1 + r2 * b2 + r3 * b3
                out3[j] += s0 * b0 + s1 * b1 + s2 * b2 + s3 * b3
    for i in range(m):
        row = out[i, to : to + width]
        for k in range(whole_depth if i < whole_rows else 0, depth):
            factor = a[i, k]
            for j in range(width):
                row[j] += factor * b[k, j]
