"""FCN-32s (Long, Shelhamer and Darrell 2015) on PASCAL VOC's 20 classes and background.

    python main.py --config=configs/fcn32s_voc.py --workdir=runs/fcn32s_voc \\
        --config.data.folder.root=VOCdevkit --config.pretrained=VGG16.safetensors

VGG16.safetensors: VGG-16 with the names of torchvision.
Published, not reproduced here: mean IU 59.4 on the paper's part of VOC 2011 val (table 2), after training on the
larger set of masks of SBD.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    common.use_fcn_voc(config, stride=32)
    config.train.steps = 100000
    config.optim.lr = 2.5e-5  # the paper's 1e-10 is of the sum over some 250,000 pixels, this of their mean
    return common.vary(config, variant, model=dict(backbone=dict(width=0.07), fc=16, padding="same"))
