"""Further elements for a trained model: its weights in a larger one, with the same energies of old elements."""

import torch
from torch import Tensor

from hiphop_train.nn.channels import kept_features
from hiphop_train.potential import Network, Potential


@torch.no_grad()
def grow(potential: Potential, trained: Potential) -> None:
    """Take the weights of a potential of fewer elements.

    What belongs to old elements is copied; what belongs to new ones keeps its random values, but nothing that an old
    atom without new neighbours would see changes: new inputs of its network count nothing at first.

    Parameters
    ----------
    potential : with random weights; its first elements are those of `trained`
    trained : of the same model otherwise
    """
    n_before, n_types = len(trained.elements), len(potential.elements)
    assert potential.elements[:n_before] == trained.elements
    sizes = {n_types: torch.arange(n_before)}
    old, new = trained.terms[0], potential.terms[0]
    assert isinstance(old, Network)
    assert isinstance(new, Network)
    n_features, n_new = old.representation.feature_sizes[-1], new.representation.feature_sizes[-1]
    if n_features != n_new:
        representation = new.representation
        if representation.feature_names:
            place = {name: k for k, name in enumerate(representation.feature_names)}
            kept = [place[name] for name in old.representation.feature_names]
        else:
            kept = kept_features(n_before, n_types, *representation.functions_per_channel)
        sizes[n_new] = torch.tensor(kept)
    potential.e0 = trained.e0.new_zeros(len(trained.e0), n_types)
    values, given = potential.state_dict(), trained.state_dict()
    for name, value in given.items():
        values[name] = _placed(value, values[name], sizes, n_new if n_features != n_new else 0)
    potential.load_state_dict(values)


def _placed(value: Tensor, room: Tensor, sizes: dict[int, Tensor], features: int) -> Tensor:
    """Write a tensor to the places of old elements and features in a larger one; new features of old ones are zero."""
    if value.shape == room.shape:
        return value
    room = room.clone()
    index = [
        torch.arange(n) if n == m else sizes[m] for n, m in zip(value.shape, room.shape, strict=True)
    ]  # of each axis
    if features in room.shape and value.dim() == 2 and value.shape[0] == room.shape[0]:
        room.zero_()
    room[torch.meshgrid(*index, indexing="ij")] = value.to(room)
    return room
