"""The server room: SavedModels in, TF Serving's gRPC protocol out.

It knows artifacts, TensorFlow and `guim_tf.schema`; no model code is imported to serve a model.
"""

import os

# Must be set before TensorFlow loads: its notices (a missing GPU is an "error" to it) do not belong
# on a server's terminal. What fails is raised and reported here as well.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
