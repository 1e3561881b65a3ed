"""Training and evaluation.

run = fit(model, images, Recipe(epochs=12, lr=0.1), seed=0)
evaluate(run.model, test, purpose="baseline")["accuracy"]
"""

from compactnets.train.cache import CheckpointCache
from compactnets.train.devices import make_fabric
from compactnets.train.evaluate import evaluate
from compactnets.train.fit import Job, Run, fit
from compactnets.train.many import fit_many
from compactnets.train.recipe import Recipe

__all__ = [
    "CheckpointCache",
    "Job",
    "Recipe",
    "Run",
    "evaluate",
    "fit",
    "fit_many",
    "make_fabric",
]
