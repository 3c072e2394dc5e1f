"""Generated code of our protos."""
