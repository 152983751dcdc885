"""FCN-32s (Long, Shelhamer and Darrell 2015) on PASCAL VOC's 20 classes and background.

    python main.py --config=configs/fcn32s_voc.py --workdir=runs/fcn32s_voc \\
        --config.data.folder.root=VOCdevkit --config.pretrained=VGG16.safetensors

VGG16.safetensors has VGG-16's weights by torchvision's names.
Published, not reproduced here: mean IU 59.4 on the paper's part of VOC 2011 val (table 2), trained on the larger set of
masks of SBD.
"""

from ml_collections import ConfigDict

from configs import common, datasets, schedules, segmenters, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    segmenters.use_fcn(config, stride=32, norm="none", padding="paper", upsampling="paper")
    datasets.use_voc_segmentation(config)
    datasets.use_statistics_of_imagenet(config)
    # The paper's rate of 1e-10 is for the sum of the loss over some 250,000 pixels; this one is for the mean.
    schedules.train_fcn(config, steps=100000, lr=2.5e-5)
    return variants.vary(config, variant, model=dict(backbone=dict(width=0.07), fc=16, padding="same"))
