"""U-Net with an EfficientNet-Lite0 as its contracting path on Oxford-IIIT Pet, 128x128, from ImageNet's weights.

    python main.py --config=configs/unet_efficientnet_pets.py --workdir=runs/pets --tfds_data_dir=DIR \\
        --config.pretrained=EFFICIENTNET_LITE0.safetensors

docs/models.md says where the weights are. `:frozen` trains the decoder alone.
TBD
"""

from ml_collections import ConfigDict

from configs import common, datasets, schedules, segmenters, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    segmenters.use_unet_efficientnet_lite(config)
    datasets.use_pets(config)
    datasets.use_statistics_of_efficientnet_lite(config)
    schedules.train_on_pets(config, steps=750)
    schedules.slow_backbone(config, 0.0 if variant == "frozen" else 0.2)
    small = dict(backbone=dict(width=0.25, depth=0.1), decoder=(8, 8, 8, 8))
    return variants.vary(config, variant, model=small, others=("frozen",))
