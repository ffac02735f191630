"""Experiments in protobuf text; each file's head comment gives command, hardware, time, figures."""
