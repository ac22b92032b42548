"""What is not to be imported: it needs Keras, Flax and Equinox."""

collect_ignore = ["make_conventions.py"]
