"""hiphop-invariants: the invariants of HIP-HOP-NN, and how complete they are."""

import argparse
import sys

from hiphop_train.commands.progress import progress
from hiphop_train.errors import ConfigError

DESCRIPTION = """\
Print the invariants that model=hiphop makes of an atom's tensors (s v q t h u, of rank 0 to 5), and how many of them
are independent, also where some of the tensors vanish."""

EPILOG = """\
Columns: the tensors that vanish; the rank of the set, that is its number of independent invariants; the rank of all
invariants of up to N_MAX tensors; the dimension of what rotations leave, which more tensors would reach; the gap
between the last two.

Examples:
  hiphop-invariants 4 4               as model.invariants=flexible model.l_max=4 model.n_max=4 takes them
  hiphop-invariants 3 4 --published   what the published set leaves out"""


def main(arguments: list[str] | None = None) -> None:
    """Run hiphop-invariants."""
    parser = argparse.ArgumentParser(
        "hiphop-invariants",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("l_max", type=int, choices=range(6), metavar="L_MAX", help="highest rank of a tensor, 0 to 5")
    parser.add_argument(
        "n_max", type=int, choices=range(1, 6), metavar="N_MAX", help="most tensors in a product, 1 to 5"
    )
    parser.add_argument("--published", action="store_true", help="the published set instead of the flexible one")
    given = parser.parse_args(arguments)
    try:
        print(describe(given.l_max, given.n_max, given.published))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


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


if __name__ == "__main__":
    main()
