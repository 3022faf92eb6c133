"""The .proto files; `protos.generated` holds the code generated from them by scripts/gen_protos.py."""
