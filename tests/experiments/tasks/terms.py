"""The terms of a task as one pair, for tests with oracles that compute sums."""


def summed(means):
    """Return `((total, weight), {name: (total, weight)})` of a loss with one weight for all terms."""
    terms, logs = means
    total = sum(term.factor * term.total for term in terms.values())
    weight = next(iter(terms.values())).weight
    return (total, weight), {name: (mean.total, mean.weight) for name, mean in (terms | logs).items()}
