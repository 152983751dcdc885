"""FCN-8s (Long, Shelhamer and Darrell 2015) on PASCAL VOC's 20 classes and background.

    python main.py --config=configs/fcn8s_voc.py --workdir=runs/fcn8s_voc \\
        --config.data.folder.root=VOCdevkit --config.init_from=runs/fcn16s_voc

It starts from the finished fcn16s_voc with a score layer of zeros, at a hundredth of that one's learning rate.
Published, not reproduced here: mean IU 62.7 on the paper's part of VOC 2011 val (table 2), after training on the
larger set of masks of SBD.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    common.use_voc(config)
    config.model.update(
        name="fcn",
        backbone=dict(name="vgg", layers=16, width=1.0, norm="none", momentum=0.9),
        stride=8,
        fc=4096,
        dropout=0.5,
        padding="paper",
        upsampling="paper",
        skip_scales=(1.0, 1.0),
    )
    # One image a step with a high momentum; the paper's rate of 1e-14 is of the sum over the pixels, ours of their mean.
    config.train.update(batch_size=1, steps=50000, log_every=100, eval_every=4000, checkpoint_every=2000)
    config.eval.batch_size = 4
    config.optim.update(name="sgd", lr=2.5e-09, schedule="constant", momentum=0.99, weight_decay=5e-4)
    config.optim.rates = ((".*/bias", 2.0),)
    return common.vary(config, variant, model=dict(backbone=dict(width=0.07), fc=16, padding="same"))
