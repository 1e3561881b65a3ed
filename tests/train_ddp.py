"""Two processes train one toy network; the first writes the history. Run by test_train_ddp.py.

python train_ddp.py FILE
"""

import json
import sys
from pathlib import Path

import torch

from compactnets import train
from train_toys import toy_images, toy_net, toy_recipe

IMAGES, BATCH, EPOCHS = 45, 16, 3  # batches of 16, 16 and 13: the last is shared 7 to 6


def recipe() -> train.Recipe:
    return toy_recipe(epochs=EPOCHS, batch=BATCH, lr=0.2, grad_clip=1.0)


def main(answer: Path) -> None:
    torch.set_num_threads(1)
    fabric = train.make_fabric(recipe(), devices=2, accelerator="cpu")
    fabric.launch()
    model, images = toy_net(norm=False), toy_images(IMAGES)
    run = train.fit(model, images, recipe(), seed=0, fabric=fabric, cache=False)
    weight = fabric.all_gather(run.model[0].weight.detach())
    if fabric.global_rank == 0:
        facts = {
            "processes": fabric.world_size,
            "loss": [line["loss"] for line in run.history],
            "accuracy": [line["train_accuracy"] for line in run.history],
            "apart": float((weight[0] - weight[1]).abs().max()),
            "weight": weight[0].flatten().tolist(),
        }
        answer.write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
