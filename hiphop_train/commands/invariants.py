"""hiphop-invariants: the invariants of HIP-HOP-NN, and how complete they are."""

from hiphop_train.commands.progress import progress


def describe(l_max: int, n_max: int, published: bool) -> str:
    """List a set and its ranks.

    Parameters
    ----------
    l_max : highest rank of a tensor
    n_max : highest number of tensors in an invariant
    published : the published set instead of the flexible one
    """
    from hiphop_train.accelerate.contraction_programs import contraction_program
    from hiphop_train.nn.contractions import NAMES, connected_contractions
    from hiphop_train.nn.invariant_search import choose, gradients, ranks
    from hiphop_train.nn.invariants import invariant_contractions

    name = "published" if published else "flexible"
    chosen = invariant_contractions("published", l_max, n_max) if published else []
    everything = connected_contractions(l_max, n_max)
    with progress("gradients", len(everything)) as advance:
        rows = gradients(everything, l_max, advance=advance)
    chosen = chosen or choose(everything, rows)[0]
    lines = [f"{name} set for l_max={l_max}, n_max={n_max}: {len(chosen)} of {len(everything)} invariants", ""]
    lines += [f"  {contraction}" for contraction in chosen]
    lines += ["", f"{'vanishing':12s}{'set':>6s}{'all':>6s}{'dimension':>11s}{'gap':>6s}"]
    for rank in ranks(chosen, everything, rows, l_max):
        vanishing = " ".join(NAMES[k] for k in range(1, l_max + 1) if k not in rank.present) or "none"
        gap = rank.dimension - rank.reached
        missed = f"   the set misses {rank.reached - rank.chosen}" if rank.chosen < rank.reached else ""
        lines.append(f"{vanishing:12s}{rank.chosen:6d}{rank.reached:6d}{rank.dimension:11d}{gap:6d}{missed}")
    n_steps = len(contraction_program(chosen, l_max).steps)
    return "\n".join([*lines, "", f"{n_steps} multiply-adds for each feature of an atom"])
