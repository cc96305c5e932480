#!/bin/sh
# Regenerates src/keepbest/_proto from the contract in proto/.
#
# Needs grpcio-tools 1.71.2 (with setuptools<80): its stubs load on protobuf 5.29 to 7 and on grpcio 1.71 and later.
#   PYTHON=.venv/bin/python ./generate.sh
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}
out=src/keepbest/_proto
rm -rf "$out/keepbest"
"$python" -m grpc_tools.protoc -I ../../proto \
    --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" \
    ../../proto/keepbest/v1/*.proto
# protoc names modules by the proto's path; ours live inside the package, so that they meet no other `keepbest.v1`.
find "$out" \( -name '*.py' -o -name '*.pyi' \) -exec \
    sed -i 's/^from keepbest\.v1 import/from keepbest._proto.keepbest.v1 import/' {} +
touch "$out/keepbest/__init__.py" "$out/keepbest/v1/__init__.py"
