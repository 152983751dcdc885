"""Limits of the files that are read, by their content. docs/security.md lists them.

Data, weights and runs may come from anybody. A file beyond its limit is refused before its bytes are read. Every part may
import this file, which imports none of our modules.
"""

MB = 1_000_000

ANNOTATIONS = 2_000 * MB  # COCO's JSON, also detections
XML = 16 * MB  # per image
YAML = 1 * MB  # the data file of a YOLO folder
ROWS = 16 * MB  # text of rows: the labels of an image, a list of images
NAMES = 16 * MB  # text with one class name per line
METADATA = 500 * MB  # JSON of a prepared dataset, such as the names of a million images
EXAMPLES = 100 * MB  # the pictures of an evaluation in a run
RECORDS = 4_000 * MB  # rows of a run's metrics, and of the images of an evaluation
RUN_FILE = 64 * MB  # any other file of a run

# Of an image, in addition to `config.data.max_pixels`: four uncompressed channels of 16 bits, and metadata.
BYTES_PER_PIXEL = 8
IMAGE_METADATA = 64 * MB
PAGES = 1_000  # counted at most, to refuse an image with several pages

DIGITS = 19  # of an integer in a file of a run, which fits 64 bits
ANNOTATION_DIGITS = 4_000  # of an integer in an annotation, whose error then names the entry

CLASSES = 20_000  # per dataset
CLASS_NAME = 200  # characters
MOST_WRONG = 10_000  # unusable rows and entries, after which the rest of the file is not read
DEEPEST = 50  # levels of nested lists, objects or elements in JSON, YAML and XML
