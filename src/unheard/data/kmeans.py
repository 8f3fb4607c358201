"""k-means clustering: Lloyd's iterations from k-means++ seeds.

Source: Lloyd 1982; Arthur and Vassilvitskii 2007.
"""

import numpy as np
from numpy.typing import NDArray

from unheard.errors import ConfigError


def fit_kmeans(
    points: NDArray[np.float32],
    clusters: int,
    *,
    iterations: int = 30,
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    """Find cluster centres.

    Args:
        points: (points, size).
        clusters: how many centres.
        iterations: of Lloyd's algorithm at most; it stops early when nothing moves.
        generator: draws the seeds.

    Returns:
        (clusters, size) float32. A cluster that loses all points takes the point that is
        farthest from its centre.

    Raises:
        ConfigError: if there are fewer points than clusters.
    """
    if len(points) < clusters:
        raise ConfigError(
            f"Clustering needs at least as many frames as units: expected {clusters}, got "
            f"{len(points)}. Use more recordings."
        )
    centres = _seeds(points, clusters, generator)
    labels = np.full(len(points), -1)
    for _ in range(iterations):
        distances = squared_distances(points, centres)
        renewed = distances.argmin(axis=1)
        if np.array_equal(renewed, labels):
            break
        labels = renewed
        counts = np.bincount(labels, minlength=clusters)
        sums = np.zeros((clusters, points.shape[1]))
        np.add.at(sums, labels, points)
        filled = counts > 0
        centres[filled] = sums[filled] / counts[filled, None]
        farthest = np.argsort(distances[np.arange(len(points)), labels])[::-1]
        for number, empty in enumerate(np.flatnonzero(~filled)):
            centres[empty] = points[farthest[number]]
    return centres


def squared_distances(
    points: NDArray[np.float32], centres: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Squared distances (points, centres), less each point's own square, which shifts a row."""
    return (centres**2).sum(axis=1) - 2 * points @ centres.T


def _seeds(
    points: NDArray[np.float32], clusters: int, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Draw seeds far from each other: k-means++."""
    centres = np.empty((clusters, points.shape[1]), dtype=np.float32)
    centres[0] = points[generator.integers(len(points))]
    nearest = ((points - centres[0]) ** 2).sum(axis=1)
    for number in range(1, clusters):
        total = nearest.sum()
        shares = nearest / total if total > 0 else np.full(len(points), 1 / len(points))
        centres[number] = points[generator.choice(len(points), p=shares)]
        nearest = np.minimum(nearest, ((points - centres[number]) ** 2).sum(axis=1))
    return centres
