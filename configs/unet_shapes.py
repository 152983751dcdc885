"""The demo: the MobileNetV2 U-Net at reduced width on the `shapes` dataset, on a CPU.

python main.py --config=configs/unet_shapes.py --workdir=runs/shapes

Two CPU cores: 300 steps in a minute. Expect mIoU 0.89 on the 100 validation images.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    config.model.update(
        name="unet_mobilenetv2",
        width=0.35,
        depth=1.0,
        variant="keras",
        norm="batch",
        momentum=0.9,
        decoder=(128, 96, 64, 32),
    )
    config.data.name = "shapes"
    config.data.image_size = (64, 64)
    config.data.canvases = ((64, 64),)
    config.train.update(batch_size=16, steps=300, log_every=20, eval_every=100, checkpoint_every=100)
    config.optim.update(name="adamw", lr=3e-3, warmup_steps=20, weight_decay=1e-4)
    return common.vary(config, variant, model=dict(width=0.1, depth=0.3, decoder=(16, 16, 8, 8)))
