#!/usr/bin/env bash
# Measures with a release build; prints a Markdown table and writes target/bench.json.
#   --quick        fewer and smaller rounds
#   --memory       only the server's memory: a file of 4 GiB up and down
#   --only PART    bytes, calls, shared or memory
#   --before FILE  another version of the program, measured beside in `shared`
#   --rounds N     rounds of each comparison
#   --json FILE    another place for the numbers
# Two or more cores, 8 GiB of free disk and nothing else running give numbers that repeat.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --bin keepbest --quiet
exec cargo bench --quiet --bench measure -- "$@"
