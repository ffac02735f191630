"""Protocol buffers: the original DELF's messages (wire-compatible) and the experiment config.

The `*_pb2.py` files are generated with protoc 25 (Python gencode 4.25), which every protobuf
runtime from 4.25 on accepts; regenerate with `make protos` after editing a `.proto`.
"""
