#!/bin/sh
# Regenerates src/keepbest/_proto from the contract in proto/.
#
# It fetches grpcio-tools 1.62.3 into uv's cache: the code of that version loads on protobuf 4.25 to 7 and on grpcio 1.62 and
# later, so that the client can be installed beside TensorFlow 2.15. That of later ones refuses older runtimes. It has wheels
# up to Python 3.12.
#   PYTHON=.venv/bin/python ./generate.sh
set -eu
python=${PYTHON:-python3}
case $python in
    */*) python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python") ;;
esac
cd "$(dirname "$0")"
out=src/keepbest/_proto
# Relative to here, and only removed once there is something to replace it.
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
"$python" -m uv run --quiet --no-project --isolated --python "$python" --with grpcio-tools==1.62.3 --with 'setuptools<80' \
    python -m grpc_tools.protoc -I ../../proto \
    --python_out="$new" --pyi_out="$new" --grpc_python_out="$new" \
    ../../proto/keepbest/v1/*.proto
# protoc names modules by the proto's path; ours live inside the package, so that they meet no other `keepbest.v1`.
find "$new" \( -name '*.py' -o -name '*.pyi' \) -exec \
    sed -i 's/^from keepbest\.v1 import/from keepbest._proto.keepbest.v1 import/' {} +
touch "$new/keepbest/__init__.py" "$new/keepbest/v1/__init__.py"
rm -rf "$out/keepbest"
mv "$new/keepbest" "$out/keepbest"
