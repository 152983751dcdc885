from experiments.run.tables import format_table, tabulate_classes


def test_the_table_has_one_row_per_class_and_then_the_means():
    scores = {"mIoU": 0.5, "IoU/sky": 1.0, "IoU/tree": float("nan"), "accuracy/sky": 0.25, "loss": 2.0}
    assert tabulate_classes(scores) == [["class", "IoU", "accuracy"], ["sky", "1.0000", "0.2500"], ["tree", "", ""]]
    lines = format_table(scores).splitlines()
    assert lines[0].split() == ["class", "IoU", "accuracy"] and lines[2].split() == ["tree", "-", "-"]
    assert [line.split()[0] for line in lines[3:]] == ["mIoU", "loss"]
