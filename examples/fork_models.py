"""Makes a data set once, and tries eight models on it at once: each in a live fork, with the data in memory.

    python -m examples.fork_models

It works on the Bay of `BAY_URL` and `BAY_API_KEY`, whose profile python-default needs `hibernate = true`
(docs/memory.md). The best model goes on in the first sandbox, and the forks are deleted.
"""

import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import bay

PREPARE = """
import math, operator, random

def reading(x):
    return math.sin(5 * x) + x * x + random.gauss(0, 0.3)

def sample(count):
    xs = [random.uniform(-1, 1) for _ in range(count)]
    return xs, [sum(reading(x) for _ in range(8)) / 8 for x in xs]

random.seed(1)
known, fresh = sample(300_000), sample(75_000)

def solve(matrix, right):
    rows = [[*row, value] for row, value in zip(matrix, right)]
    for at in range(len(rows)):
        pivot = max(range(at, len(rows)), key=lambda row: abs(rows[row][at]))
        rows[at], rows[pivot] = rows[pivot], rows[at]
        rows[at] = [cell / rows[at][at] for cell in rows[at]]
        for row in range(len(rows)):
            if row != at:
                rows[row] = [a - rows[row][at] * b for a, b in zip(rows[row], rows[at])]
    return [row[-1] for row in rows]

def fit(degree, ridge):
    xs, ys = known
    powers, moments, right = [1.0] * len(xs), [], []
    for order in range(2 * degree + 1):
        moments.append(sum(powers) / len(xs))
        right.append(sum(map(operator.mul, powers, ys)) / len(xs))
        powers = list(map(operator.mul, powers, xs))
    size = range(degree + 1)
    return solve([[moments[i + j] + ridge * (i == j) for j in size] for i in size], right[: degree + 1])

def guess(weights, x):
    value = 0.0
    for weight in reversed(weights):
        value = value * x + weight
    return value

def error(weights):
    return math.sqrt(sum((guess(weights, x) - y) ** 2 for x, y in zip(*fresh)) / len(fresh[0]))
"""
MODELS = [(degree, ridge) for degree in (2, 4, 7, 9) for ridge in (0.0, 0.1)]


@contextmanager
def timed(title: str) -> Generator[None]:
    """Print how long the block took."""
    began = time.perf_counter()
    yield
    print(f"{time.perf_counter() - began:6.1f} s  {title}", flush=True)


def ran(box: bay.Box, code: str) -> str:
    """The text that the code gives in the kernel of the sandbox. Raises RuntimeError when it fails."""
    done = box.python.run(code)
    if done.error is not None:
        raise RuntimeError(f"{box.id}: {done.error.ename}: {done.error.evalue}")
    return done.text


def error_of(box: bay.Box, model: tuple[int, float]) -> float:
    """Fit the model in the sandbox; its error on data that it has not seen."""
    degree, ridge = model
    return float(ran(box, f"weights = fit({degree}, {ridge}); print(error(weights))"))


def main() -> None:
    """Do it all, and print the time that each step takes."""
    with bay.Client() as client, client.sandbox() as box, ThreadPoolExecutor(len(MODELS)) as pool:
        with timed("make the data set, once"):
            ran(box, PREPARE)
        with box.fork(len(MODELS), memory=True) as forks:
            with timed(f"have it in {len(forks)} forks, from which each goes on"):
                list(pool.map(ran, forks, ["print(len(known[0]))"] * len(MODELS)))
            with timed(f"fit {len(MODELS)} models at once"):
                errors = list(pool.map(error_of, forks, MODELS))
            for (degree, ridge), error in zip(MODELS, errors, strict=True):
                print(f"          degree {degree}, ridge {ridge}: error {error:.4f}")
            best = min(range(len(MODELS)), key=errors.__getitem__)
            with timed(f"go on with the best, of degree {MODELS[best][0]}, in the first sandbox"):
                box.restore(forks[best].checkpoint(memory=True))
                weights = ran(box, "print(*(f'{weight:.3f}' for weight in weights))")
        print(f"          weights {weights.strip()}")


if __name__ == "__main__":
    main()
