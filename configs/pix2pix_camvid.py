"""The U-Net-256 generator of pix2pix (Isola et al. 2017) beside its 70x70 PatchGAN on CamVid's 11 classes, from scratch.

    python main.py --config=configs/pix2pix_camvid.py --workdir=runs/pix2pix_camvid --config.data.folder.root=DIR

DIR holds CamVid's train/images, train/masks, val/images, val/masks (11 is void) and classes.txt.
The full recipe wants a GPU and has not been run.
`pix2pix_camvid.py:light` (width 24, depth 6, 18 minutes on two busy CPU cores) has mIoU 0.421 on val
at 360x480; RESULTS.md has its command.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    config = common.get_config()
    common.use_camvid(config)
    config.model.update(name="pix2pix", depth=8, width=64, norm="batch", momentum=0.9, dropout=0.5, discriminator=64)
    # Maps are halved eight times: whole images at 256x256, as the paper has them.
    config.data.fit = "stretch"
    config.data.image_size = (256, 256)
    config.data.canvases = ((256, 256),)
    config.data.augment.scale = (0.8, 1.6)
    config.task.name = "adversarial_segmentation"
    config.task.adversarial = 0.01  # the paper's 1 beside 100 times the pixels' loss
    # The paper's Adam for the discriminator: a faster one would leave the generator behind.
    config.optim.partition = (("discriminator/", (("lr", 2e-4), ("betas", (0.5, 0.999)), ("weight_decay", 0.0))),)
    if variant == "light":
        common.lighten_camvid(config)
        config.model.update(depth=6, width=24, dropout=0.3, discriminator=16)
        config.train.steps = 900
    return common.vary(config, variant, model=dict(depth=4, width=4, discriminator=4), others=("light",))
