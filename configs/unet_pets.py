"""The U-Net of TensorFlow's segmentation tutorial on Oxford-IIIT Pet, 128x128, three classes, from scratch.

    python main.py --config=configs/unet_pets.py --workdir=runs/pets --tfds_data_dir=DIR

Expected on two CPU cores: mIoU 0.64 and pixel accuracy 0.84 after 3,000 steps in half an hour to an hour, on a subset with 300
train and 100 test images of three breeds (one seed, last step; RESULTS.md). The whole dataset has not been run.
"""

from ml_collections import ConfigDict

from configs import common, datasets, segmenters, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    segmenters.use_unet_mobilenetv2(config)
    datasets.use_pets(config)
    config.train.update(batch_size=16, steps=3000, log_every=20, eval_every=250, checkpoint_every=250)
    config.optim.update(name="adamw", lr=2e-3, warmup_steps=200, weight_decay=0.05, ema=0.995)
    return variants.vary(config, variant, model=dict(width=0.1, depth=0.3, decoder=(16, 16, 8, 8)))
