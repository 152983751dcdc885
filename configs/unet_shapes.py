"""The demo, a MobileNetV2 U-Net at reduced width on the `shapes` dataset, for a CPU.

    python main.py --config=configs/unet_shapes.py --workdir=runs/shapes

Expected on two CPU cores: mIoU 0.90 on the 100 validation images after 300 steps in a minute.
"""

from ml_collections import ConfigDict

from configs import common, datasets, segmenters, sweeps, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    segmenters.use_unet_mobilenetv2(config, width=0.35, decoder=(128, 96, 64, 32))
    datasets.use_shapes(config)
    config.train.update(batch_size=16, steps=300, log_every=20, eval_every=100, checkpoint_every=100)
    config.optim.update(name="adamw", lr=3e-3, warmup_steps=20, weight_decay=1e-4)
    return variants.vary(config, variant, model=dict(width=0.1, depth=0.3, decoder=(16, 16, 8, 8)))


def sweep() -> list[sweeps.Run]:
    return sweeps.product(sweeps.grid({"optim.lr": (1e-3, 3e-3)}), sweeps.seeds(2))


def search() -> sweeps.Space:
    return {"optim.lr": sweeps.log_uniform(3e-4, 3e-2), "optim.weight_decay": sweeps.log_uniform(1e-5, 1e-2)}
