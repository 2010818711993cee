"""Explicit slopes of ANI's functions equal autograd's; triples are those of the graph."""

import pytest
import torch
from omegaconf import OmegaConf

from hiphop_train.accelerate.symmetry_functions import ANISlopes
from hiphop_train.build import make_potential
from hiphop_train.models.ani import ANI
from tests.conftest import ROOT


def make_ani(zeta: float = 32.0) -> ANI:
    section = OmegaConf.load(ROOT / "conf" / "model" / "ani.yaml")
    section.angular_zeta = zeta
    plain = make_potential(section, torch.float64).terms[0].representation
    assert isinstance(plain, ANI)
    return plain


@pytest.mark.parametrize("zeta", [1.0, 2.0, 7.0, 14.1, 32.0])
def test_slopes_of_the_angular_part(zeta: float) -> None:
    """Against autograd and torch's powers."""
    plain = make_ani(zeta)
    generator = torch.Generator().manual_seed(0)
    pair_j, pair_k = torch.rand((2, 5, 50), dtype=torch.float64, generator=generator).add_(0.5).unbind()
    for unit in (pair_j[:3], pair_k[:3]):
        unit.copy_(torch.nn.functional.normalize(unit - 1.0, dim=0))
    pairs = [pair_j.requires_grad_(), pair_k.requires_grad_()]
    terms = plain.angular(*pairs)
    grad_output = torch.rand(terms.shape, dtype=torch.float64, generator=generator)
    expected = torch.autograd.grad(terms, pairs, grad_output)
    with torch.no_grad():
        found = ANISlopes(plain).angular(*pairs, grad_output)
    for slope, value in zip(found, expected, strict=True):
        torch.testing.assert_close(slope, value, rtol=1e-11, atol=1e-11)
    base = torch.rand(3, 20, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(plain.power(base, zeta), base**zeta, rtol=1e-13, atol=1e-20)


def test_slopes_of_the_radial_part() -> None:
    """Inside and outside of the cutoff."""
    plain = make_ani()
    distance = torch.linspace(0.5, 5.5, 41, dtype=torch.float64)
    terms, slopes = torch.empty((2, 41, 16), dtype=torch.float64).unbind()
    ANISlopes(plain).write_radial(distance, [terms], [slopes])
    torch.testing.assert_close(terms, plain.radial(distance), rtol=1e-14, atol=1e-20)
    expected = torch.func.jacfwd(lambda r: plain.radial(r).sum(0))(distance).T
    torch.testing.assert_close(slopes, expected, rtol=1e-12, atol=1e-14)
