"""How much of a file is read, by what it holds. The one home of these numbers; docs/security.md lists them.

Data, weights and runs may come from anybody. A file beyond its limit is refused before its bytes are read. Every part may
import this file; it imports nothing of ours.
"""

MB = 1_000_000

ANNOTATIONS = 2_000 * MB  # COCO's JSON, detections among it
XML = 16 * MB  # of one image
YAML = 1 * MB  # the data file of a YOLO folder
ROWS = 16 * MB  # a text of rows: the labels of an image, a list of images
NAMES = 16 * MB  # a text with the name of a class on each line
METADATA = 500 * MB  # what a preparation writes of a dataset: the names of a million images
EXAMPLES = 100 * MB  # the pictures of an evaluation, in the run of another
RECORDS = 4_000 * MB  # rows of a run: of its metrics, and of the images of an evaluation
RUN_FILE = 64 * MB  # any other file that a run keeps

# Of an image, in addition to `config.data.max_pixels`: four channels of 16 bits that are not compressed, and metadata.
BYTES_PER_PIXEL = 8
IMAGE_METADATA = 64 * MB
PAGES = 1_000  # of an image that is refused for them; they are counted up to here

DIGITS = 19  # of a whole number in a file of a run: it fits 64 bits
ANNOTATION_DIGITS = 4_000  # of one in an annotation, whose error then names the entry

CLASSES = 20_000  # of a dataset
CLASS_NAME = 200  # letters
MOST_WRONG = 10_000  # rows and entries that cannot be used: the rest of the file is not read
DEEPEST = 50  # lists, objects or elements in each other, in JSON, YAML and XML
