"""Write tfn_2018.json: scalars and gradients of the tensor field network's original code, with its weights.

Three layers as in the paper's code, on its own operations, in float64: convolution, concatenation, self-interaction,
nonlinearity. That code adds pseudovectors to vectors, which a potential must not do: their weights are zero here.

The code needs tensorflow, which is too heavy for CI; in an environment of its own:

    pip install tensorflow-cpu==2.21.0 scipy
    git clone https://github.com/tensorfieldnetworks/tensorfieldnetworks     # of 2020-01-07, 6850fd6
    python tests/golden/tfn_2018.py tensorfieldnetworks
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf

WIDTH, N_GAUSSIANS, LARGEST_CENTRE = 3, 4, 6.0
POSITIONS = [[0.0, 0.0, 0.1], [0.9, 0.3, -0.4], [-0.5, 1.1, 0.3], [0.2, -0.8, 1.2], [1.6, 1.4, 0.9]]
SPECIES = [1, 0, 0, 2, 1]


def original(folder: Path) -> tuple[Any, Any]:
    """Import the original modules, which were written for tensorflow 1 and for float32."""
    tf.disable_v2_behavior()
    sys.modules["tensorflow"] = tf
    identity = tf.eye
    tf.eye = lambda size: identity(size, dtype=tf.float64)
    sys.path[:0] = [str(folder), str(folder / "tensorfieldnetworks")]
    import utils

    utils.FLOAT_TYPE = tf.float64
    from tensorfieldnetworks import utils as again

    again.FLOAT_TYPE = tf.float64
    from tensorfieldnetworks import layers

    return layers, again


def given(tensors: dict[int, list[Any]]) -> dict[int, list[Any]]:
    """Leave out ranks of which there are none."""
    return {rank: each for rank, each in tensors.items() if each}


def main(folder: Path) -> None:
    """Evaluate and write."""
    layers, utils = original(folder)
    draw = np.random.RandomState(7)
    embedding, direction = draw.randn(3, WIDTH), draw.randn(WIDTH)

    positions = tf.placeholder(tf.float64, [len(POSITIONS), 3])
    between = utils.difference_matrix(positions)
    others = 1.0 - np.eye(len(POSITIONS))
    distance = utils.distance_matrix(positions) * others
    centres = np.linspace(0.0, LARGEST_CENTRE, N_GAUSSIANS)
    gaussians = tf.exp(-tf.square(distance[:, :, None] - centres) / centres[1])
    zeros = tf.zeros_initializer(tf.float64)  # the weights come later
    initial = {"weights_initializer": zeros, "biases_initializer": zeros}
    tensors = {0: [tf.constant(embedding[SPECIES][:, :, None])]}
    for _ in range(3):
        tensors = given(layers.convolution(tensors, gaussians, between, **initial))
        tensors = given(layers.concatenation(tensors))
        tensors = given(layers.self_interaction(tensors, WIDTH, **initial))
        tensors = given(layers.nonlinearity(tensors, nonlin=utils.ssp, biases_initializer=zeros))
    scalars = tensors[0][0][:, :, 0]
    gradient = tf.gradients(tf.reduce_sum(scalars * direction), positions)[0]

    weights = {}
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for variable in tf.global_variables():
            value = draw.randn(*variable.shape.as_list()) * 0.4
            if "self_interaction" in variable.name and value.shape[-1] == 3 * WIDTH:
                value[:, 2 * WIDTH :] = 0.0  # of pseudovectors
            variable.load(value, session)
            weights[variable.name.removesuffix(":0")] = value.tolist()
        found = session.run([scalars, gradient], {positions: POSITIONS})
    content = {
        "width": WIDTH,
        "n_gaussians": N_GAUSSIANS,
        "largest_centre": LARGEST_CENTRE,
        "positions": POSITIONS,
        "species": SPECIES,
        "embedding": embedding.tolist(),
        "direction": direction.tolist(),
        "weights": weights,
        "scalars": found[0].tolist(),
        "gradient": found[1].tolist(),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
