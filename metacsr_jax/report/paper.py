"""What the paper prints: Tables 2 to 5 of Huang et al., TOIS 2022, doi:10.1145/3466753.

On the paper's own protocol, which differs from this one (docs/results.md): shown beside, not compared.
"""

# The eight that the paper compares with.
RIVALS = ("bpr", "lstm", "csan", "melu", "metacs-l", "metacs-dnn", "sml", "metacf-ngcf")

# data set -> model -> AUC and MAP cold, AUC and MAP warm
PRINTED: dict[str, dict[str, tuple[float, float, float, float]]] = {
    "movielens-1m": {
        "bpr": (0.7355, 0.2031, 0.8054, 0.2079),
        "lstm": (0.7621, 0.2119, 0.8272, 0.2253),
        "csan": (0.7693, 0.2563, 0.8414, 0.2596),
        "melu": (0.7391, 0.1964, 0.7722, 0.1885),
        "metacs-l": (0.7029, 0.2100, 0.7446, 0.2160),
        "metacs-dnn": (0.7035, 0.2009, 0.7371, 0.2171),
        "sml": (0.7621, 0.1501, 0.7935, 0.1609),
        "metacf-ngcf": (0.7995, 0.2506, 0.8347, 0.2134),
        "metacsr": (0.8623, 0.2987, 0.8589, 0.2742),
    },
    "lastfm-1week": {
        "bpr": (0.8333, 0.2639, 0.9318, 0.5075),
        "lstm": (0.8889, 0.3903, 0.9545, 0.5455),
        "csan": (0.9242, 0.4829, 0.9798, 0.5860),
        "melu": (0.8586, 0.2900, 0.9848, 0.7156),
        "metacs-l": (0.8485, 0.3122, 0.9545, 0.7880),
        "metacs-dnn": (0.8788, 0.5051, 0.9545, 0.8404),
        "sml": (0.9053, 0.4940, 0.9583, 0.8009),
        "metacf-ngcf": (0.9242, 0.5005, 0.9697, 0.8230),
        "metacsr": (0.9596, 0.5394, 0.9886, 0.9097),
    },
    "amazon-video": {
        "bpr": (0.7217, 0.1859, 0.8107, 0.3532),
        "lstm": (0.7831, 0.2494, 0.8432, 0.3900),
        "csan": (0.7791, 0.2509, 0.8375, 0.4483),
        "melu": (0.7580, 0.2461, 0.7522, 0.2646),
        "metacs-l": (0.7207, 0.2419, 0.8301, 0.2748),
        "metacs-dnn": (0.7213, 0.2566, 0.8285, 0.2728),
        "sml": (0.7997, 0.2444, 0.8363, 0.2824),
        "metacf-ngcf": (0.8041, 0.2530, 0.8427, 0.2831),
        "metacsr": (0.8011, 0.3326, 0.8419, 0.3813),
    },
}


# data set -> users, items, interactions and density of Table 2
STATISTICS: dict[str, tuple[int, int, int, str]] = {
    "movielens-1m": (6_040, 3_952, 575_281, "2.41%"),
    "lastfm-1week": (699, 45_519, 59_725, "0.19%"),
    "amazon-video": (368_837, 19_653, 482_591, "0.007%"),
}

# AUC on MovieLens-1M, cold start (Table 5), by the names of `metacsr_jax.reproduce.plan`
ABLATION = {
    "metacsr-without-diffusion": 0.8285,
    "metacsr-with-mean-pooling": 0.8297,
    "pretrain": 0.8056,
    "metacsr": 0.8623,
}


def printed(dataset: str, model: str, scenario: str, metric: str) -> float | None:
    """A figure of the paper; None where it prints none."""
    row = PRINTED.get(dataset, {}).get(model)
    places = {("cold", "auc"): 0, ("cold", "map"): 1, ("warm", "auc"): 2, ("warm", "map"): 3}
    if row is None or (scenario, metric) not in places:
        return None
    return row[places[scenario, metric]]
