"""The U-Net of TensorFlow's segmentation tutorial on Oxford-IIIT Pet, 128x128, three classes, from scratch.

python main.py --config=configs/unet_pets.py --workdir=runs/pets --tfds_data_dir=DIR

Two CPU cores: 3,000 steps in about half an hour to an hour. On the subset with 300 train and 100 test images of three breeds,
expect mIoU 0.64 and pixel accuracy 0.84 at the last step (one seed; RESULTS.md). On the whole set: not run here.
"""

from ml_collections import ConfigDict

from configs import common, datasets, schedules, segmenters, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    segmenters.use_unet_mobilenetv2(config)
    datasets.use_pets(config)
    schedules.train_on_pets(config, steps=3000)
    return variants.vary(config, variant, model=dict(width=0.1, depth=0.3, decoder=(16, 16, 8, 8)))
