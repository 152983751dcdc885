"""FCN-16s (Long, Shelhamer and Darrell 2015) on PASCAL VOC's 20 classes and background.

    python main.py --config=configs/fcn16s_voc.py --workdir=runs/fcn16s_voc \\
        --config.data.folder.root=VOCdevkit --config.init_from=runs/fcn32s_voc

It starts from the finished fcn32s_voc with a score layer of zeros, at a hundredth of that one's learning rate.
Published, not reproduced here: mean IU 62.4 on the paper's part of VOC 2011 val (table 2), after training on the
larger set of masks of SBD.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    common.use_fcn_voc(config, stride=16)
    config.train.steps = 50000
    config.optim.lr = 2.5e-7  # the paper's 1e-12 is of the sum over some 250,000 pixels, this of their mean
    return common.vary(config, variant, model=dict(backbone=dict(width=0.07), fc=16, padding="same"))
