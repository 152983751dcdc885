"""Operations on boxes and features, with jax and numpy alone.

Annotations contain the shapes, and tests check them. Functions take and return jax arrays; boxes, offsets and masks may also
be numpy arrays (`ArrayLike`), because anchors are constants of a program. Names of dimensions: b images; h rows and w
columns of pixels or cells; c channels or classes; n and m boxes; a anchors; r regions; k shapes of a cell or taps of a
kernel; `*batch` any leading axes, `*#batch` with broadcasting.
"""

import jax
import numpy as np

ArrayLike = jax.Array | np.ndarray
