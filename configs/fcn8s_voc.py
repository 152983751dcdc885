"""FCN-8s (Long, Shelhamer and Darrell 2015) on PASCAL VOC's 20 classes and background.

    python main.py --config=configs/fcn8s_voc.py --workdir=runs/fcn8s_voc \\
        --config.data.folder.root=VOCdevkit --config.init_from=runs/fcn16s_voc

It starts from the finished fcn16s_voc, with a score layer of zeros and a hundredth of its learning rate.
Published, not reproduced here: mean IU 62.7 on the paper's part of VOC 2011 val (table 2), trained on the larger set of
masks of SBD.
"""

from ml_collections import ConfigDict

from configs import common, datasets, schedules, segmenters, variants


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    segmenters.use_fcn(config, stride=8, norm="none", padding="paper", upsampling="paper")
    datasets.use_voc_segmentation(config)
    datasets.use_statistics_of_imagenet(config)
    # The paper's rate of 1e-14 is for the sum of the loss over some 250,000 pixels; this one is for the mean.
    schedules.train_fcn(config, steps=50000, lr=2.5e-9)
    return variants.vary(config, variant, model=dict(backbone=dict(width=0.07), fc=16, padding="same"))
