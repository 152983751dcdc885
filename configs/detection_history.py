"""The history of detection on the synthetic figures: ten detectors, from R-CNN to FCOS, on one trunk, budget and evaluator.

    python -m experiments.sweep --config=configs/detection_history.py --workdir=runs/detection --tfds_data_dir=data
    python -m benchmarks.history runs/detection --tfds_data_dir=data

The first trains them, the second makes the table and the picture (RESULTS.md). They are those of configs/*_shapes.py but for:
* The trunk is a ResNet-10 at half width with group normalisation. R-CNN, SPP-net, Fast R-CNN and the first Faster R-CNN take its
  features of stride 8, and SSD has default boxes on its strides 8, 16 and 32; the others have a pyramid on it. YOLO's network is
  its own, and its images have 112x112 pixels where the others' have 96x96.
* The budget is 5,120 training images, 320 steps of 16. R-CNN has half of them, 640 steps of 4: it takes as long as any. SPP-net
  starts from R-CNN's trunk, which does not learn any more.
"""

from configs import sweeps

BUDGET = {"train.steps": 320, "train.eval_every": 320, "train.checkpoint_every": 80}
RCNN_BUDGET = {"train.steps": 640, "train.eval_every": 640, "train.checkpoint_every": 160}
SIZE = {"data.image_size": (96, 96)}
PYRAMID = {"model.backbone.bottom_up.norm": "group"}


def sweep() -> list[sweeps.Run]:
    early = [
        {"name": "rcnn", "config": "configs/rcnn_shapes.py"} | RCNN_BUDGET,
        {"name": "sppnet", "config": "configs/sppnet_shapes.py", "init_from": sweeps.run("rcnn")} | BUDGET | SIZE,
        {"name": "fast_rcnn", "config": "configs/fast_rcnn_shapes.py"} | BUDGET | SIZE,
        {"name": "faster_rcnn", "config": "configs/faster_rcnn_shapes.py:one_level"} | BUDGET | SIZE,
    ]
    names = {"faster_rcnn_fpn": "faster_rcnn", "mask_rcnn": "mask_rcnn", "retinanet": "retinanet", "fcos": "fcos"}
    pyramids = [
        {"name": name, "config": f"configs/{file}_shapes.py"} | BUDGET | PYRAMID for name, file in names.items()
    ]
    files = {"yolov1": "configs/yolov1_shapes.py", "ssd": "configs/ssd_shapes.py:resnet"}
    one_stage = [{"name": name, "config": file} | BUDGET for name, file in files.items()]
    return early + one_stage + pyramids
