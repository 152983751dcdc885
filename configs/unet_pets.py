"""The U-Net of TensorFlow's segmentation tutorial on Oxford-IIIT Pet, 128x128, three classes, from scratch.

python main.py --config=configs/unet_pets.py --workdir=runs/pets --tfds_data_dir=DIR

Two CPU cores: 3,000 steps in about half an hour to an hour. On the subset with 300 train and 100 test images of three breeds,
expect mIoU 0.64 and pixel accuracy 0.84 at the last step (one seed; RESULTS.md). On the whole set: not run here.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    config.model.update(
        name="unet_mobilenetv2",
        width=1.0,
        depth=1.0,
        variant="keras",
        norm="batch",
        momentum=0.9,
        decoder=(512, 256, 128, 64),
    )
    config.data.name = "oxford_iiit_pet"
    config.data.eval_split = "test"
    config.eval.method = "canvas"  # scored at 128x128, as the tutorial does
    augment = config.data.augment
    augment.scale = (0.8, 1.6)
    augment.aspect = 1.2
    augment.rotation = 20.0
    augment.brightness, augment.contrast, augment.saturation, augment.hue = 0.3, 0.3, 0.3, 0.02
    config.train.update(batch_size=16, steps=3000, log_every=20, eval_every=250, checkpoint_every=250)
    config.optim.update(name="adamw", lr=2e-3, warmup_steps=200, weight_decay=0.05, ema=0.995)
    return common.vary(config, variant, model=dict(width=0.1, depth=0.3, decoder=(16, 16, 8, 8)))
