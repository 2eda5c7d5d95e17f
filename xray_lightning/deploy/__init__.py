"""A checkpoint put to use on new files."""
