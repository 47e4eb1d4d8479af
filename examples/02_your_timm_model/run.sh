#!/bin/sh
# From a file of timm's weights to rates: import, check against timm, compile, inject.
set -e
here=$(cd "$(dirname "$0")" && pwd)

python "$here/train.py"  # writes vit.safetensors; begin below with a file of your own
testbed import vit.safetensors --run runs/02_timm --data digits --set heads=4 --check
testbed golden runs/02_timm
testbed golden verify runs/02_timm --engine ort-cpu --atol 1e-4
testbed campaign run "$here/campaign.toml" --run runs/02_your_timm_model
testbed results runs/02_your_timm_model --by kind
